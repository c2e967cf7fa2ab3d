#!/usr/bin/env python3
"""How long training stands still for a checkpoint, and how much a resume reads.

  python3 benchmarks/checkpoints.py                 # configs/gated_deltanet_1b.textproto on one GPU: 17.6 GB
  python3 benchmarks/checkpoints.py --cpu           # a small model on this machine's CPU
  python3 benchmarks/checkpoints.py --program OTHER/build/bin/spanwise --skip-build   # another version

Builds the program, prepares the quickstart's data if they are missing, trains with a checkpoint every --every steps,
goes on from the last one, and prints a table. A save's time is what lies between the lines of metrics.jsonl around it
beside the step's own time; the bytes of a resume are those that the process asked its files for (rchar of
/proc/PID/io), until it says that it has resumed. Datasets count as well: their .idx, and of .bin the blocks of 64 MiB,
first and last, whose ends a fingerprint covers.
"""
import argparse
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from spanwise_run import ROOT, exit_for, metrics_of, train_command

SMALL = {"device": "CPU", "train.precision": "F32", "train.sequence_length": 256, "train.global_batch": 2,
         "train.micro_batch": 2, "model.hidden_size": 512, "model.num_layers": 8, "model.intermediate_size": 1408,
         "model.layer.L.gated_delta_net.num_heads": 4}


def prepare(args):
    if not args.skip_build:
        subprocess.run([str(ROOT / "launcher/build.sh"), "spanwise"], check=True, stdout=sys.stderr)
    prefix = ROOT / "runs/quickstart/data/austen"
    if not prefix.with_name("austen_valid.idx").exists():
        texts = sorted(str(text) for text in (ROOT / "configs/quickstart/corpus").glob("*.txt"))
        subprocess.run([args.program, "data", "prepare", "--output", str(prefix), "--tokenizer",
                        "configs/quickstart/tokenizer.model", "--holdout-tails", "0.02", *texts], check=True, cwd=ROOT,
                       stdout=sys.stderr)


def start(args, directory, fields, log):
    fields = {**(SMALL if args.cpu else {}), "run.log_every": 1000000, "checkpoint.keep_last": 1, **fields}
    command = train_command(args.program, args.config, 1, directory, fields, args.set)
    return command, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)


def save_times(args, directory):
    """Seconds that each save but the last one took from training, and the median step's."""
    with open(pathlib.Path(directory) / "log", "w") as log:
        command, run = start(args, directory, {"train.steps": args.every * (args.saves + 1),
                                               "checkpoint.every": args.every}, log)
        if run.wait() != 0:
            exit_for(command, run.returncode, (pathlib.Path(directory) / "log").read_text())
    rows = {row["step"]: row for row in metrics_of(directory) if row["step"] > 0}
    gap = {step: row["wall_time"] - rows[step - 1]["wall_time"] - row["step_ms"] / 1e3
           for step, row in rows.items() if step > 1}
    still = [(step, gap[step + 1]) for step in range(args.every, args.every * (args.saves + 1), args.every)]
    return still, statistics.median(row["step_ms"] for row in list(rows.values())[3:]) / 1e3


def bytes_asked(pid):
    fields = dict(line.split(": ") for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["rchar"])


def resume(args, directory):
    """Bytes asked for and seconds until the run says that it goes on; then it is killed."""
    log_path, begin = pathlib.Path(directory) / "log", time.monotonic()
    with open(log_path, "w") as log:
        command, run = start(args, directory, {"train.steps": args.every * (args.saves + 1) + 1000}, log)
        asked = 0
        while "resumed step" not in log_path.read_text():
            if run.poll() is not None:
                exit_for(command, run.returncode, log_path.read_text())
            asked = bytes_asked(run.pid)
            time.sleep(0.02)
        asked, seconds = max(asked, bytes_asked(run.pid)), time.monotonic() - begin
        run.kill()
        run.wait()
    return asked, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/bin/spanwise")
    parser.add_argument("--config", default="configs/gated_deltanet_1b.textproto")
    parser.add_argument("--cpu", action="store_true", help="a small model instead of the config's")
    parser.add_argument("--every", type=int, help="steps between saves; default 80, with --cpu 10")
    parser.add_argument("--saves", type=int, default=3, help="that are measured; one more ends the run")
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE for spanwise train")
    parser.add_argument("--directory", help="where the run is made and removed; default: the system's temporary one")
    parser.add_argument("--skip-build", action="store_true")
    args = parser.parse_args()
    args.every = args.every or (10 if args.cpu else 80)
    prepare(args)
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        still, step_s = save_times(args, directory)
        newest = sorted((pathlib.Path(directory) / "checkpoints").glob("step_*"))[-1]
        saved = sum(file.stat().st_size for file in newest.iterdir())
        asked, resume_s = resume(args, directory)
        print(f"checkpoint of {saved / 1e9:.2f} GB, {step_s:.3f} s a step, "
              f"{shutil.disk_usage(directory).total / 1e9:.0f} GB disk\n")
        print("| save at step | training stood still, s |\n|---|---|")
        for step, seconds in still:
            print(f"| {step} | {seconds:.2f} |")
        print(f"\nresume: {asked / 1e9:.2f} GB asked for, {asked / saved:.2f} times the checkpoint, {resume_s:.1f} s from "
              "the start of the program")


if __name__ == "__main__":
    main()
