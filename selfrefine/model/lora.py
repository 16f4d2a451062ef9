"""Hand-written LoRA (Hu et al., 2021) over the frozen 4-bit layers (QLoRA, §3.2.1).

        x (..., in), compute dtype
        │
        ├── frozen NF4 W (out, in) ───────────────── x Wᵀ ──────┐
        │                                                       + ── y (..., out), compute dtype
        └── dropout ── A (r, in) ── B (out, r) ── · α/r ────────┘

A and B, their gradients and Adam's moments are float32: in bfloat16 a step of 1e-6 rounds to nothing. They are cast to
the compute dtype where they are used. B = 0 at the start, so the student starts as its own base, bit for bit.

The gradients are written out: autograd would keep the dequantised W until the backward, and sum the two paths' outputs
and input gradients in passes of their own.
"""

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn

from selfrefine.model import LINEARS
from selfrefine.model.nf4 import NF4Linear


class _QLoRA(torch.autograd.Function):
    """y = x Wᵀ + scaling · z Aᵀ Bᵀ for a frozen 4-bit W, where z is x with what is not `kept` set to 0.

    x (M, in), A (r, in) and B (out, r) in the compute dtype, kept (M, in) bool or None -> (M, out). For the backward,
    W stays in its 4 bits and z in one byte an element.
    """

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor | None, A: Tensor, B: Tensor, base: NF4Linear, scaling: float) -> Tensor:
        z = x if kept is None else x * kept
        down = z @ A.T  # (M, r)
        ctx.save_for_backward(x, kept, A, B, down)
        ctx.base, ctx.scaling = base, scaling
        return base(x).addmm_(down, B.T, alpha=scaling)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, kept, A, B, down = ctx.saved_tensors
        d_down = ctx.scaling * (gradient @ B)  # (M, r)
        dB = gradient.T @ (ctx.scaling * down)  # (out, r)
        dA = d_down.T @ (x if kept is None else x * kept)  # (r, in)
        if not ctx.needs_input_grad[0]:  # the first block's: the embeddings are frozen
            return None, None, dA, dB, None, None
        dx = gradient @ ctx.base.dequantize()  # (M, in)
        dx = dx.addmm_(d_down, A) if kept is None else dx.add_((d_down @ A).mul_(kept))
        return dx, None, dA, dB, None, None


def dropout_mask(shape: torch.Size, dropout: float, device: torch.device) -> tuple[Tensor, float]:
    """What dropout keeps, bool of `shape`, each element by itself; and the share kept, 1 − dropout to 16 bits.

    Each random 64-bit word serves four elements: three times as fast as `bernoulli_` on an AMD CPU.
    """
    levels = math.ceil((1 - dropout) * 2**16)  # of the 2¹⁶ values of an element's bits, those that keep it
    words = torch.empty(math.ceil(shape.numel() / 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape)  # −2¹⁵ to 2¹⁵ − 1
    return bits <= levels - 2**15 - 1, levels / 2**16


class LoRALinear(nn.Module):
    """y = base(x) + (α/r) · dropout(x) Aᵀ Bᵀ, of which only A (r, in) and B (out, r) are trained."""

    def __init__(self, base: NF4Linear, rank: int, alpha: float, dropout: float):
        super().__init__()
        device = base.weight.device
        self.base = base
        self.A = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))
        self.scaling = alpha / rank
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (..., in) -> (M, in)
        share, kept = 1.0, None
        if self.training and self.dropout:
            kept, share = dropout_mask(rows.shape, self.dropout, x.device)  # what is kept counts 1 / share
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        y = _QLoRA.apply(rows, kept, A, B, self.base, self.scaling / share)
        return y.view(*x.shape[:-1], -1)  # (M, out) -> (..., out)


def add_lora(
    student: nn.Module, *, rank: int, alpha: float, dropout: float, seed: int, targets: Collection[str] = LINEARS
) -> None:
    """Put an adapter over the 4-bit layers of `student` that `targets` names, in place; A is drawn from `seed`, alike
    on any device."""
    generator = torch.Generator().manual_seed(seed)
    for path, layer in list(student.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(layer, NF4Linear) and name in targets:
            wrapped = LoRALinear(layer, rank, alpha, dropout)
            drawn = torch.empty(wrapped.A.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
            with torch.no_grad():
                wrapped.A.copy_(drawn)
            setattr(student.get_submodule(parent), name, wrapped.train(layer.training))  # no dropout in eval mode


def lora_layers(student: nn.Module) -> dict[str, LoRALinear]:
    """Each adapter by the path of the layer that it adapts, as the bare model names it."""
    return {path: layer for path, layer in student.named_modules() if isinstance(layer, LoRALinear)}


def lora_parameters(student: nn.Module) -> dict[str, nn.Parameter]:
    """Every A and B by PEFT's name without its prefix: `<path>.lora_A.weight`, `<path>.lora_B.weight`."""
    named = {}
    for path, layer in lora_layers(student).items():
        named[f"{path}.lora_A.weight"] = layer.A
        named[f"{path}.lora_B.weight"] = layer.B
    return named
