"""Attention as two matrix products, for CPUs, where the fused kernel's backward is slow at the lengths of
demonstrations (230 tokens): a training step takes 1.6 times as long with it in bfloat16, 1.15 in float32. GPUs keep
torch's fused kernels."""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

NAME = "matmul"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_,
) -> tuple[Tensor, None]:
    """softmax(QKᵀ · scaling + mask) V: query (B, h, T, d), key and value (B, h_kv, S, d), mask (B, 1, T, S) additive
    -> (B, T, h, d)."""
    groups = module.num_key_value_groups
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = (query * scaling) @ key.transpose(-1, -2)  # (B, h, T, S)
    if attention_mask is not None:
        scores += attention_mask  # in place: a product is not kept for its own backward
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).contiguous(), None


def additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention's scores, of the shape of `visible` (bool): 0 where a token is seen, else the least
    number, which is as good as −∞ and makes no NaN of a padding row that sees nothing."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)


def implementation(device: torch.device) -> str:
    """The name under which transformers finds the attention that is fastest for short sequences."""
    return NAME if device.type == "cpu" else "sdpa"
