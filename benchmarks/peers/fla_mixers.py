#!/usr/bin/env python3
"""Times flash-linear-attention's kernels and PyTorch's softmax attention: the peers of benchmarks/gpu_mixers.

  python3 benchmarks/peers/fla_mixers.py [--shape B,T,H,D]...

Needs torch and flash-linear-attention (pip install flash-linear-attention), and on Hopper Triton 3.7.1 or later (pip
install --no-deps 'triton>=3.7.1' over the one of torch 2.11): with 3.4 to 3.7.0 fla refuses its gated backward, which
they compile to wrong results; fla_check.py checks it. Prints one line a kernel and shape: name, shape, median ms of
forward and of forward + backward. Inputs are bf16, random, of more bytes than the L2 cache.
"""
import argparse
import sys

import parallel_autotune

parallel_autotune.install(compile_only="--compile-only" in sys.argv)

import torch
import torch.nn.functional as F
import triton
from fla.ops.delta_rule import chunk_delta_rule
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.lightning_attn import chunk_lightning_attn
from fla.ops.simple_gla import chunk_simple_gla
from triton.testing import do_bench


def first(result):
    return result[0] if isinstance(result, tuple) else result


def kernels(B, T, H, D):
    """name -> (function of leaves, leaves)"""
    def leaf(*shape, scale=1.0, shift=0.0, dtype=torch.bfloat16):
        x = torch.randn(*shape, device="cuda", dtype=torch.float32) * scale + shift
        return x.to(dtype).requires_grad_()

    q, k, v = (leaf(B, T, H, D) for _ in range(3))
    kn = F.normalize(torch.randn(B, T, H, D, device="cuda"), dim=-1).bfloat16().requires_grad_()
    g = F.logsigmoid(torch.randn(B, T, H, device="cuda") + 3).requires_grad_()
    beta = torch.rand(B, T, H, device="cuda").bfloat16().requires_grad_()
    qt, kt, vt = (leaf(B, H, T, D) for _ in range(3))
    return {
        "lightning": (lambda q, k, v: first(chunk_lightning_attn(q, k, v, layer_idx=4, num_layers=12)), (q, k, v)),
        "simple_gla": (lambda q, k, v, g: first(chunk_simple_gla(q, k, v, g)), (q, k, v, g)),
        "delta_rule": (lambda q, k, v, b: first(chunk_delta_rule(q, k, v, b)), (q, kn, v, beta)),
        "gated_delta_rule": (lambda q, k, v, g, b: first(chunk_gated_delta_rule(q, k, v, g, b)), (q, kn, v, g, beta)),
        "softmax": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), (qt, kt, vt)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", action="append", help="B,T,H,D; default 4,8192,16,128")
    parser.add_argument("--only", help="one kernel's name")
    parser.add_argument("--compile-only", action="store_true", help="fill Triton's cache; no timing")
    args = parser.parse_args()
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}")
    for shape in args.shape or ["4,8192,16,128"]:
        B, T, H, D = map(int, shape.split(","))
        torch.manual_seed(0)
        for name, (run, leaves) in kernels(B, T, H, D).items():
            if args.only and name != args.only:
                continue
            try:
                out = run(*leaves)
                dout = torch.randn_like(out)
                if args.compile_only:
                    torch.autograd.grad(out, leaves, dout)
                    continue
                forward = do_bench(lambda: run(*leaves), warmup=50, rep=200, return_mode="median")
                both = do_bench(lambda: torch.autograd.grad(run(*leaves), leaves, dout), warmup=50, rep=200,
                                return_mode="median")
                print(f"{name} {B}x{T}x{H}x{D} {forward:.3f} {both:.3f}", flush=True)
            except Exception as error:  # a kernel the peer refuses on this card is reported, not hidden
                print(f"{name} {B}x{T}x{H}x{D} failed: {type(error).__name__}: {str(error)[:200]}", flush=True)


if __name__ == "__main__":
    main()
