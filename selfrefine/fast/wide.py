"""Products of bfloat16 factors in float32, on CPUs where these take half the time.

Plain:  a b in bfloat16, whose kernels multiply exactly, sum in float32 and round the sum.
Here the factors are widened, multiplied by the kernel for float32, and the result is rounded: the same sums in another
order. Intel's CPUs since Sapphire Rapids need it where a virtual machine hides their AMX: without it a product in
bfloat16 takes twice as long as in float32.
Held equal by tests/test_fast.py::test_wide_products.
"""

import torch
from torch import Tensor


def product_type(x: Tensor) -> torch.dtype:
    """The type to multiply `x` in: float32 for bfloat16 where that is quicker, else its own."""
    able = torch.cpu.get_capabilities()
    without = "Intel" in able.get("cpu_name", "") and able.get("avx512_fp16", False) and not able.get("amx_bf16", False)
    return torch.float32 if without and x.device.type == "cpu" else x.dtype
