#!/usr/bin/env python3
"""Loss curves of one config in several layouts: do they train the same model?

  python3 benchmarks/gpu_loss.py [--program build/bin/spanwise] [--gpus 2] [--steps 300] [--csv FILE]

First, 20 steps of a small batch in F32: on the CPU, on one GPU and in every layout of --gpus GPUs, and in BF16 on one;
printed is the largest difference from the CPU's loss. Then --steps steps of the config as it stands in BF16 on one GPU
and in every layout: the largest difference from one GPU's loss over the first 20 steps, the mean loss of the last 50,
and the held-out loss. Datasets are the quickstart's: launcher/quickstart.sh --set train.steps=0 prepares them.
"""
import argparse
import subprocess
import tempfile

from spanwise_run import ROOT, exit_for, metrics_of, train_command

SMALL = {"train.sequence_length": 512, "train.global_batch": 2, "train.micro_batch": 1}


def train(args, ranks, settings):
    """(losses of the steps, last held-out loss or None)"""
    with tempfile.TemporaryDirectory() as directory:
        command = train_command(args.program, args.config, ranks, directory, settings)
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            exit_for(command, done.returncode, done.stdout + done.stderr)
        rows = metrics_of(directory)
    held_out = [row["validation_loss"] for row in rows if "validation_loss" in row]
    return [row["loss"] for row in rows if "loss" in row], held_out[-1] if held_out else None


def apart(losses, reference, steps=20):
    return max(abs(a - b) for a, b in zip(losses[:steps], reference[:steps]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/bin/spanwise")
    parser.add_argument("--config", default="configs/hybrid_100m.textproto")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--csv", help="file for the losses of every step")
    args = parser.parse_args()
    layouts = [("1 GPU", 1, {})]
    if args.gpus > 1:
        layouts += [(f"{axis} {args.gpus}", args.gpus, {f"parallel.{axis}": args.gpus})
                    for axis in ("data", "sequence", "tensor")]
    curves = {}

    print("| 20 steps of 2×512 tokens | largest difference from the CPU in F32 |\n|---|---|")
    small = {**SMALL, "train.steps": 20, "data.validation": ""}
    cpu, _ = train(args, 1, {**small, "device": "CPU", "train.precision": "F32"})
    curves["CPU F32"] = cpu
    for name, ranks, layout in layouts:
        losses, _ = train(args, ranks, {**small, **layout, "device": "CUDA", "train.precision": "F32"})
        curves[f"{name} F32"] = losses
        print(f"| {name}, F32 | {apart(losses, cpu):.1e} |", flush=True)
    losses, _ = train(args, 1, {**small, "device": "CUDA", "train.precision": "BF16"})
    print(f"| 1 GPU, BF16 | {apart(losses, cpu):.1e} |", flush=True)

    print(f"\n| {args.steps} steps of the config, BF16 | largest difference from 1 GPU, first 20 steps | first, last loss |"
          " mean of the last 50 | held out |\n|---|---|---|---|---|")
    alone = None
    for name, ranks, layout in layouts:
        losses, held_out = train(args, ranks, {**layout, "device": "CUDA", "train.steps": args.steps,
                                               "train.eval_every": args.steps})
        alone = alone or losses
        curves[f"{name} BF16"] = losses
        last = losses[-50:]
        print(f"| {name} | {apart(losses, alone):.1e} | {losses[0]:.4f}, {losses[-1]:.4f} | {sum(last) / len(last):.4f} |"
              f" {held_out if held_out is None else format(held_out, '.4f')} |", flush=True)

    if args.csv:
        with open(args.csv, "w") as out:
            out.write("step," + ",".join(curves) + "\n")
            for step in range(args.steps):
                row = [str(losses[step]) if step < len(losses) else "" for losses in curves.values()]
                out.write(f"{step + 1}," + ",".join(row) + "\n")


if __name__ == "__main__":
    main()
