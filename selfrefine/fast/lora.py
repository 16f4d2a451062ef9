"""LoRA over a 4-bit layer as one function, its gradients written out.

Plain (`model/lora.py`): y = x Wᵀ + (α/r) · dropout(x) Aᵀ Bᵀ under autograd, which keeps the dequantised W of every
layer until the backward, and sums the two paths' outputs and input gradients in passes of their own.
Here:   dA = (α/r) (dy B)ᵀ z,  dB = (α/r) dyᵀ (z Aᵀ),  dx = dy W + dropout((α/r) dy B A),  z = dropout(x);
kept for the backward are x, z Aᵀ, W's four bits and a byte for each element that dropout looked at.
Held equal by tests/test_fast.py::test_lora.
"""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfrefine.fast.wide import product_type
from selfrefine.model.lora import LoRALinear, NF4Linear, lora_layers


class _QLoRA(torch.autograd.Function):
    """y = x Wᵀ + scaling · z Aᵀ Bᵀ for a frozen 4-bit W, where z is x with what is not `kept` set to 0.

    x (M, in), A (r, in) and B (out, r) in the compute dtype, kept (M, in) bool or None -> (M, out).
    """

    @staticmethod
    def forward(ctx, x: Tensor, kept: Tensor | None, A: Tensor, B: Tensor, base: NF4Linear, scaling: float) -> Tensor:
        wide, bias, narrow = product_type(x), base.bias, x
        x, A_, B_, W = (part.to(wide) for part in (x, A, B, base.dequantize()))
        down = (x if kept is None else x * kept) @ A_.T  # (M, r)
        ctx.save_for_backward(narrow, kept, A, B, down.to(narrow.dtype))
        ctx.base, ctx.scaling = base, scaling
        y = F.linear(x, W, None if bias is None else bias.to(wide))
        return y.addmm_(down, B_.T, alpha=scaling).to(narrow.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        dtype, wide, (x, kept, *others) = gradient.dtype, product_type(gradient), ctx.saved_tensors
        gradient, x, A, B, down = (part.to(wide) for part in (gradient, x, *others))
        d_down = ctx.scaling * (gradient @ B)  # (M, r)
        dB = gradient.T @ (ctx.scaling * down)  # (out, r)
        dA = d_down.T @ (x if kept is None else x * kept)  # (r, in)
        if not ctx.needs_input_grad[0]:  # the first block's: the embeddings are frozen
            return None, None, dA, dB, None, None
        dx = gradient @ ctx.base.dequantize().to(wide)  # (M, in)
        dx = dx.addmm_(d_down, A) if kept is None else dx.add_((d_down @ A).mul_(kept))
        return dx.to(dtype), None, dA, dB, None, None


def dropout_mask(shape: torch.Size, dropout: float, device: torch.device) -> tuple[Tensor, float]:
    """What dropout keeps, bool of `shape`, each element by itself; and the share kept, 1 − dropout to 16 bits.

    Each random 64-bit word serves four elements: three times as fast as `bernoulli_` on an AMD CPU.
    """
    levels = math.ceil((1 - dropout) * 2**16)  # of the 2¹⁶ values of an element's bits, those that keep it
    words = torch.empty(math.ceil(shape.numel() / 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    bits = words.view(torch.int16)[: shape.numel()].view(shape)  # −2¹⁵ to 2¹⁵ − 1
    return bits <= levels - 2**15 - 1, levels / 2**16


def forward(layer: LoRALinear, x: Tensor) -> Tensor:
    """A `LoRALinear`'s forward: (..., in) -> (..., out) in the compute dtype."""
    rows = x.reshape(-1, x.shape[-1])  # (..., in) -> (M, in)
    share, kept = 1.0, None
    if layer.training and layer.dropout:
        kept, share = dropout_mask(rows.shape, layer.dropout, x.device)  # what is kept counts 1 / share
    A, B = layer.A.to(x.dtype), layer.B.to(x.dtype)
    y = _QLoRA.apply(rows, kept, A, B, layer.base, layer.scaling / share)
    return y.view(*x.shape[:-1], -1)  # (M, out) -> (..., out)


def fuse(student: nn.Module) -> None:
    """Give every adapter of `student` this forward, in place."""
    for layer in lora_layers(student).values():
        layer.forward = partial(forward, layer)
