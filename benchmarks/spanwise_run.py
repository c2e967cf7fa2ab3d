"""`spanwise train` as the scripts beside this file start it: a measurement that leaves nothing behind."""
import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent  # configs name their files from here


def train_command(program, config, ranks, directory, fields, settings=()):
    """Trains in `directory`, with no checkpoint before the last one. `fields`: a dict of config fields;
    `settings`: FIELD=VALUE, which come after them."""
    command = [program, "train", config]
    if ranks > 1:
        command = [str(ROOT / "launcher/local_mpirun.sh"), str(ranks)] + command
    fields = {"run.dir": directory, "metrics.tensorboard": "false", "checkpoint.every": 0, **fields}
    for setting in [*(f"{field}={value}" for field, value in fields.items()), *settings]:
        command += ["--set", setting]
    return command


def metrics_of(directory, count=None):
    """A dict for each of the first `count` lines; of a run that was ended the last one may be cut off."""
    lines = (pathlib.Path(directory) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def exit_for(command, code, output):
    """Ends the script with what a run printed last."""
    sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: {' '.join(command)} ended with {code}:\n{output[-3000:]}")
