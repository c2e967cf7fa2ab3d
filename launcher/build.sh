#!/usr/bin/env bash
# Installs missing packages, configures the default preset and builds: launcher/build.sh [TARGET …]
set -euo pipefail
cd "$(dirname "$0")/.."
launcher/install_packages.sh
cmake --preset default -Wno-dev >/dev/null
cmake --build --preset default ${1:+--target "$@"}
