"""QLoRA (§3.2.1; Dettmers et al., 2023): LoRA (Hu et al., 2021) over a frozen 4-bit layer (NF4, double quantisation).

        x (..., in), compute dtype
        │
        ├── frozen NF4 W (out, in) ───────────────── x Wᵀ ──────┐
        │                                                       + ── y (..., out), compute dtype
        └── dropout ── A (r, in) ── B (out, r) ── · α/r ────────┘

A and B, their gradients and Adam's moments are float32: in bfloat16 a step of 1e-6 rounds to nothing. They are cast to
the compute dtype where they are used. A fresh adapter has B = 0, so that phase 1 starts from the bare student, bit for
bit; phase 2 goes on with phase 1's A and B (`model/adapter.py`).
"""

import logging
import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfrefine.model import LINEARS

# bitsandbytes warns at import that an optional inference kernel is absent: the kernel that is not used here
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
import bitsandbytes as bnb  # noqa: E402


class NF4Linear(bnb.nn.Linear4bit):
    """A linear layer whose weight is stored in 4 bits: codes of 64-element blocks, their scales in 8 bits.

    `weight` is (out, in) in any float dtype and device; it is quantised on `device` from its own values, so the
    4-bit base is the same whatever the compute `dtype`. 0.52 bytes a parameter.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, device: torch.device):
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs, bias=False, compute_dtype=dtype, quant_type="nf4", device="meta")
        values = weight.to(device).contiguous()
        self.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4").to(device)
        self.weight.quant_state.dtype = dtype  # what dequantising gives
        self.bias = None if bias is None else nn.Parameter(bias.to(device, dtype), requires_grad=False)
        self.dense: Tensor | None = None  # the weight in the compute dtype, (out, in), while `fast/dense.py` holds it

    def dequantize(self) -> Tensor:
        """The weight in the compute dtype, (out, in)."""
        if self.dense is not None:
            return self.dense
        return bnb.functional.dequantize_4bit(self.weight.data, self.weight.quant_state)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ, by "dequantise, multiply". The library's own forward repacks the weight in place on a CPU in eval mode,
        after which training silently loses the input's gradient."""
        return F.linear(x, self.dequantize(), self.bias)  # (..., in) -> (..., out)


class LoRALinear(nn.Module):
    """y = x Wᵀ + (α/r) · dropout(x) Aᵀ Bᵀ, of which only A (r, in) and B (out, r) are trained."""

    def __init__(self, base: NF4Linear, rank: int, alpha: float, dropout: float):
        super().__init__()
        device = base.weight.device
        self.base = base
        self.A = nn.Parameter(torch.empty(rank, base.in_features, dtype=torch.float32, device=device))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=torch.float32, device=device))
        self.scaling = alpha / rank
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        A, B = self.A.to(x.dtype), self.B.to(x.dtype)
        z = F.dropout(x, self.dropout, self.training)
        return self.base(x) + self.scaling * (z @ A.T @ B.T)  # (..., in) -> (..., out), compute dtype


def add_lora(
    student: nn.Module, *, rank: int, alpha: float, dropout: float, seed: int, targets: Collection[str] = LINEARS
) -> None:
    """Put an adapter over the 4-bit layers of `student` that `targets` names, in place; A is the same on any device."""
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
