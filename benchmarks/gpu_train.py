#!/usr/bin/env python3
"""Training throughput of configs/gated_deltanet_1b.textproto beside flash-linear-attention on the same GPU.

  python3 benchmarks/gpu_train.py [--program build/bin/spanwise] [--shape 8x4096 …] [--steps 12] [--skip-peer]
  python3 benchmarks/gpu_train.py --ranks 2 --set parallel.sequence=2 --shape 1x131072 --skip-peer

Runs `spanwise train` and benchmarks/peers/fla_train.py in turn and prints one table: tokens a second (median of the
steps after the third), its share of 989 TFLOP/s by 6N, peak memory, and the ratios. Datasets are the quickstart's:
launcher/quickstart.sh --set train.steps=0 prepares them.
"""
import argparse
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

from spanwise_run import ROOT, exit_for, metrics_of, train_command


def run_ours(args, batch, length, settings):
    """Ends the run when it has made its steps: its last checkpoint would take longer than they do."""
    shape = {"train.steps": 1000000, "train.sequence_length": length, "train.global_batch": batch,
             "train.micro_batch": batch}
    with tempfile.TemporaryDirectory() as directory:
        command = train_command(args.program, args.config, args.ranks, directory, shape, settings)
        log, metrics = pathlib.Path(directory) / "log", pathlib.Path(directory) / "metrics.jsonl"
        with open(log, "w") as output:
            run = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
            while run.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < args.steps):
                time.sleep(0.2)
            ended = run.poll()
            run.terminate()
            run.wait()
        text = log.read_text()
        if ended is not None:
            exit_for(command, ended, text)
        millions = float(re.search(r"([\d.]+) M parameters", text).group(1))
        steps = metrics_of(directory, args.steps)[3:]
    rate = statistics.median(row["tokens_per_second"] for row in steps)
    peak = max(row["memory_bytes"] for row in steps) / 2**30
    return millions * 1e6, rate, peak


def run_peer(args, batch, length, extra):
    peer = ROOT / "benchmarks/peers/fla_train.py"
    command = [args.python, str(peer), "--batch", str(batch), "--length", str(length)] + extra
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"([\d.]+) B parameters, (\d+) tokens/s.*peak ([\d.]+) GiB", done.stdout)
    if not found:
        print(f"peer {' '.join(extra) or 'eager'} failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return float(found.group(1)) * 1e9, float(found.group(2)), float(found.group(3))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/bin/spanwise")
    parser.add_argument("--config", default="configs/gated_deltanet_1b.textproto")
    parser.add_argument("--shape", action="append", help="BATCHxLENGTH; default 8x4096 and 1x32768")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE for spanwise train")
    parser.add_argument("--skip-peer", action="store_true")
    parser.add_argument("--peer-args", default=";--compile", help="variants of the peer, separated by ;")
    parser.add_argument("--python", default=sys.executable, help="one with torch and flash-linear-attention")
    args = parser.parse_args()
    print("| program | shape | tokens/s | 6N of 989 TFLOP/s a GPU | peak GiB a rank | tokens/s, ours / this |")
    print("|---|---|---|---|---|---|")
    for shape in args.shape or ["8x4096", "1x32768"]:
        batch, length = map(int, shape.split("x"))
        ours = run_ours(args, batch, length, args.set)

        def show(name, gpus, parameters, rate, peak):
            share = 6 * parameters * rate / gpus / 989e12
            print(f"| {name} | {shape} | {rate:.0f} | {share:.1%} | {peak:.1f} | {ours[1] / rate:.2f} |", flush=True)

        show(f"Spanwise, {args.ranks} GPU" + ("s" if args.ranks > 1 else ""), args.ranks, *ours)
        for variant in [] if args.skip_peer else args.peer_args.split(";"):
            peer = run_peer(args, batch, length, variant.split())
            if peer:
                show(f"fla {variant or 'eager'}", 1, *peer)


if __name__ == "__main__":
    main()
