#!/usr/bin/env python3
"""Are flash-linear-attention's gated kernels right in this environment? Against the token recurrence in fp64.

  python3 benchmarks/peers/fla_check.py

Prints for each kernel ‖actual − expected‖ / ‖expected‖ of the output and of every gradient, and fails where one is
above 0.02 (gates 0.03). Run it after fla_mixers.py: the kernels then take the candidates that were timed, which
Triton's cache has kept.
"""
import sys

import parallel_autotune

parallel_autotune.install()

import torch
import torch.nn.functional as F
import triton
from fla.ops.gated_delta_rule import chunk_gated_delta_rule
from fla.ops.simple_gla import chunk_simple_gla

SHAPE = 4, 300, 16, 128  # batch, tokens, heads, width: batch, heads and width choose the kernels' candidates
GATES = ("g", "beta")


def recurrence(q, k, v, g, beta=None):
    """S ← e^g S + k ⊗ u, o = q S / √D with u = v (no beta) or β (v − k e^g S); [B, T, H, …] in fp64."""
    state = q.new_zeros(q.shape[0], q.shape[2], q.shape[3], v.shape[3])
    outputs = []
    for t in range(q.shape[1]):
        state = state * g[:, t, :, None, None].exp()
        update = v[:, t]
        if beta is not None:
            update = beta[:, t, :, None] * (update - torch.einsum("bhk,bhkv->bhv", k[:, t], state))
        state = state + k[:, t, :, :, None] * update[:, :, None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, t], state))
    return torch.stack(outputs, 1) * q.shape[3] ** -0.5


def operands(gate_shift):
    B, T, H, D = SHAPE
    values = {name: torch.randn(B, T, H, D, device="cuda").bfloat16() for name in "qkv"}
    values["k"] = F.normalize(values["k"].float(), dim=-1).bfloat16()
    values["g"] = F.logsigmoid(torch.randn(B, T, H, device="cuda") + gate_shift)
    values["beta"] = torch.rand(B, T, H, device="cuda").bfloat16()
    return values


def check(title, run, names, gate_shift):
    torch.manual_seed(0)
    values = {name: value for name, value in operands(gate_shift).items() if name in names}
    dout = torch.randn(SHAPE, device="cuda").bfloat16()

    def forward_backward(function, convert):
        leaves = {name: convert(value).detach().clone().requires_grad_() for name, value in values.items()}
        out = function(**leaves)
        gradients = torch.autograd.grad(out, list(leaves.values()), convert(dout))
        return {"o": out.detach(), **{f"d{name}": d for name, d in zip(leaves, gradients)}}

    actual = forward_backward(run, lambda x: x)
    expected = forward_backward(recurrence, torch.Tensor.double)
    ratios = {name: ((actual[name].double() - e).norm() / e.norm()).item() for name, e in expected.items()}
    wrong = [n for n, ratio in ratios.items() if not ratio <= (0.03 if n[1:] in GATES else 0.02)]
    print(f"{title}: {'WRONG: ' + ' '.join(wrong) if wrong else 'right'}; "
          + ", ".join(f"{name} {ratio:.4f}" for name, ratio in ratios.items()), flush=True)
    return not wrong


def main():
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, Triton {triton.__version__}")
    right = True
    for speed, shift in ("slow", 5), ("fast", 0):
        right &= check(f"simple_gla, {speed} decay", lambda **x: chunk_simple_gla(**x)[0], "qkvg", shift)
        for v_first in False, True:  # the layers of the model keep their states with the value first
            right &= check(f"gated_delta_rule, {speed} decay{', v first' if v_first else ''}",
                           lambda **x: chunk_gated_delta_rule(**x, state_v_first=v_first)[0],
                           ("q", "k", "v", "g", "beta"), shift)
    sys.exit(not right)


if __name__ == "__main__":
    main()
