"""The frozen 4-bit layer of QLoRA (§3.2.1; Dettmers et al., 2023): NF4 with double quantisation.

A `bitsandbytes.nn.Linear4bit` that owns its forward. The library's own, on a CPU and in eval mode, repacks the weight
in place for inference; after that, training silently loses the input's gradient. Here every use is "dequantise,
multiply", so training after sampling is right on any device.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

# bitsandbytes warns at import that an optional inference kernel is absent: the kernel that is not used here
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
import bitsandbytes as bnb  # noqa: E402


class NF4Linear(bnb.nn.Linear4bit):
    """A linear layer whose weight is stored in 4 bits: codes of 64-element blocks, their scales in 8 bits.

    `weight` is (out, in) in any float dtype and device; it is quantised on `device` from its own values, so the
    4-bit base is the same whatever the compute `dtype`. 0.52 bytes a parameter.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype, device: torch.device):
        outputs, inputs = weight.shape
        super().__init__(
            inputs, outputs, bias=False, compute_dtype=dtype, quant_type="nf4", device=torch.device("meta")
        )
        values = weight.to(device).contiguous()
        self.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4", module=self).to(device)
        self.weight.quant_state.dtype = dtype  # what dequantising gives
        self.bias = None if bias is None else nn.Parameter(bias.to(device, dtype), requires_grad=False)
        self.dense: torch.Tensor | None = None  # the weight in the compute dtype, (out, in), while it is held

    def dequantize(self) -> torch.Tensor:
        """The weight in the compute dtype, (out, in)."""
        if self.dense is not None:
            return self.dense
        return bnb.functional.dequantize_4bit(self.weight.data, self.weight.quant_state)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.dequantize(), self.bias)  # (..., in) -> (..., out)


def hold_dequantized(model: nn.Module) -> None:
    """Keep every 4-bit weight in the compute dtype too: dequantised once, not twice a micro-batch; the same bits."""
    for layer in model.modules():
        if isinstance(layer, NF4Linear):
            layer.dense = layer.dequantize()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on `device` now; half of all memory where the system does not say (macOS)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError):
        pages = os.sysconf("SC_PHYS_PAGES") // 2
    return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def dequantized(model: nn.Module) -> Iterator[None]:
    """Hold every 4-bit weight in the compute dtype too while sampling, where half of the free memory is enough.

    Each new token would otherwise dequantise the whole model once: most of the time of a small batch.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, NF4Linear) and layer.dense is None]
    needed = sum(layer.in_features * layer.out_features * layer.compute_dtype.itemsize for layer in layers)
    try:
        if layers and needed < free_memory(layers[0].weight.device) / 2:
            for layer in layers:
                layer.dense = layer.dequantize()
        yield
    finally:
        for layer in layers:
            layer.dense = None
