"""The 4-bit weights held in the compute type too, where memory allows: the same bits, not dequantised at every use.

Plain (`model/lora.py`):  x Wᵀ with W = dequantize(codes, scales).
Held equal, to the bit, by tests/test_fast.py::test_dense.
"""

import os

import torch
from torch import nn

from selfrefine import ranks
from selfrefine.model.lora import NF4Linear


def hold_dequantized(model: nn.Module) -> None:
    """Keep every 4-bit weight of `model` in the compute type too (`--dequantize-once`)."""
    for layer in model.modules():
        if isinstance(layer, NF4Linear):
            layer.dense = layer.dequantize()


def free_memory(device: torch.device) -> int:
    """Bytes that are free on `device` now, a CPU's by rank; half of all where the system does not say (macOS)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES")
    except (ValueError, OSError):
        pages = os.sysconf("SC_PHYS_PAGES") // 2
    return pages * os.sysconf("SC_PAGE_SIZE") // max(1, ranks.LOCAL_COUNT)
