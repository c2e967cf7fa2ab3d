#!/usr/bin/env bash
# From a bare machine to a trained model: installs what is missing, builds, prepares the text that ships in
# configs/quickstart, and trains a hybrid language model on 2 ranks. About 2 minutes after the build.
# Arguments go to `spanwise train`, e.g. --set train.steps=20
set -euo pipefail
cd "$(dirname "$0")/.."

launcher/build.sh spanwise
data=runs/quickstart/data/austen
whole=yes
for file in ${data}_{train,valid}.{bin,idx}; do [ -f "$file" ] || whole=no; done
if [ $whole = no ]; then
  # What a killed preparation left of them is no dataset.
  build/bin/spanwise data prepare --overwrite --output $data --tokenizer configs/quickstart/tokenizer.model \
    --holdout-tails 0.02 configs/quickstart/corpus/*.txt
fi
exec launcher/local_mpirun.sh 2 build/bin/spanwise train configs/quickstart.textproto "$@"
