"""Attention as two matrix products, on CPUs.

Plain: torch's fused kernel (sdpa), whose backward is slow on a CPU at the lengths of demonstrations (230 tokens): a
training step takes 1.6 times as long with it in bfloat16, 1.15 in float32.
Here:  softmax(QKᵀ · scaling + mask) V  as it is written, the mask added in place.
Held equal by tests/test_fast.py::test_attention.
"""

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from selfrefine.fast.wide import product_type

NAME = "matmul"


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_
) -> tuple[Tensor, None]:
    """Query (B, h, T, d), key and value (B, h_kv, S, d), mask (B, 1, T, S), which is added -> (B, T, h, d)."""
    groups = module.num_key_value_groups
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    dtype, wide = query.dtype, product_type(query)
    query, key, value = (part.to(wide) for part in (query, key, value))
    scores = (query * scaling) @ key.transpose(-1, -2)  # (B, h, T, S)
    if attention_mask is not None:
        scores += attention_mask  # in place: a product is not kept for its own backward
    return (scores.softmax(dim=-1) @ value).to(dtype).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)
