#!/usr/bin/env python3
"""Trains a flash-linear-attention model on random tokens: the peer of benchmarks/gpu_train.

  python3 benchmarks/peers/fla_train.py --mixer gated_deltanet --batch 8 --length 4096 [--compile]

The model: 24 layers, hidden 2048, 16 heads of 128, feed-forward 5632, vocabulary 32000, untied; fp32 parameters under
bf16 autocast (as flame trains), fused AdamW. Prints tokens a second (median step), 6N MFU of 989 TFLOP/s, peak GiB.
Gated mixers need Triton 3.7.1 or later on Hopper (see fla_mixers.py).
"""
import argparse
import statistics
import sys
import time

import parallel_autotune

if "--compile" not in sys.argv:
    parallel_autotune.install(compile_only="--compile-only" in sys.argv)

import torch


def make_model(args):
    from fla.models import DeltaNetConfig, GatedDeltaNetConfig, TransformerConfig
    from transformers import AutoModelForCausalLM
    common = dict(hidden_size=args.hidden, num_hidden_layers=args.layers, intermediate_size=args.intermediate,
                  vocab_size=args.vocab, fuse_norm=True, fuse_swiglu=True, fuse_cross_entropy=True)
    heads = args.hidden // 128
    config = {
        "gated_deltanet": lambda: GatedDeltaNetConfig(num_heads=heads, head_dim=128, expand_v=1, **common),
        "deltanet": lambda: DeltaNetConfig(num_heads=heads, **common),
        "attention": lambda: TransformerConfig(num_heads=heads, **common),
    }[args.mixer]()
    config.fuse_cross_entropy, config.fuse_linear_cross_entropy = not args.fuse_linear_ce, args.fuse_linear_ce
    config.use_cache = False
    with torch.device("cuda"):
        return AutoModelForCausalLM.from_config(config)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixer", default="gated_deltanet")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bf16-params", action="store_true", help="bf16 parameters and moments: less than flame keeps")
    parser.add_argument("--fuse-linear-ce", action="store_true", help="fla's fused linear cross entropy")
    parser.add_argument("--compile-only", action="store_true", help="one step, to fill Triton's cache; no timing")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = True
    model = make_model(args)
    if args.bf16_params:
        model = model.bfloat16()
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if args.compile else model
    tokens = torch.randint(0, args.vocab, (args.batch, args.length), device="cuda")

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=not args.bf16_params):
            loss = run(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    for _ in range(1 if args.compile_only else 3):
        step()
    torch.cuda.synchronize()
    if args.compile_only:
        return
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    tokens_per_second = args.batch * args.length / seconds
    print(f"fla {args.mixer} {args.batch}x{args.length} {'compile' if args.compile else 'eager'}"
          f"{' bf16-params' if args.bf16_params else ''}: {parameters / 1e9:.3f} B parameters, "
          f"{tokens_per_second:.0f} tokens/s, {6 * parameters * tokens_per_second / 989e12:.1%} of 989 TFLOP/s by 6N, "
          f"step {seconds * 1e3:.1f} ms, peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB, "
          f"loss {loss.item():.3f}", flush=True)


if __name__ == "__main__":
    main()
