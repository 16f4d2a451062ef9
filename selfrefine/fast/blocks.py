"""Norms, MLPs and rotary positions with their gradients written out: the same numbers, fewer passes, less kept.

Plain (transformers' own modules, under autograd):
    RMSNorm    w · x / √(mean(x²) + ε)            autograd keeps float32 copies of x
    MLP        W_down (silu(W_gate x) · W_up x)   autograd keeps silu(gate) too
    rotation   x cos θ + rotate(x) sin θ          autograd takes the gradient by halves, in mixed layouts
Here no more than inputs are kept. Between the matrix products of a small batch these passes are what a step waits for.
Held equal by tests/test_fast.py::test_rms_norm, test_swiglu and test_rotation.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache
from transformers.activations import SiLUActivation
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class _RMSNorm(torch.autograd.Function):
    """w · x / rms(x), the mean in float32: x (..., H) in the compute dtype, frozen w (H,). Keeps x and 1/rms."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.float()  # (..., H) float32
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + epsilon)  # (..., 1) float32
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        normed, gradient = x.float() * scale, (gradient * weight).float()  # (..., H) float32
        along = (gradient * normed).mean(dim=-1, keepdim=True)  # (..., 1): the part along x, which rms(x) takes out
        return normed.mul_(along).neg_().add_(gradient).mul_(scale).to(x.dtype), None, None


class _SwiGLU(torch.autograd.Function):
    """silu(gate) · up: both (..., I) in the compute dtype -> (..., I). Keeps its inputs only."""

    @staticmethod
    def forward(ctx, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


class _Rotation(torch.autograd.Function):
    """x cos + (x₂, x₁) sin for x = (x₁, x₂) of shape (B, T, h, d), cos and sin (B, T, 1, d), sin's first half negated.

    Token t's pairs (x₁ⱼ, x₂ⱼ) are turned by the angle t θⱼ, so the gradient is what comes in, turned back.
    """

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turned(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turned(gradient.contiguous(), cos, -sin), None, None  # it comes as attention has it, heads first


def angles(embeddings: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """cos and sin of every position and pair as a family has them, (B, T, d) each, made ready for `turned`."""
    cos, (first, second) = embeddings[0], embeddings[1].chunk(2, dim=-1)
    return cos[:, :, None], torch.cat((-first, second), dim=-1)[:, :, None]  # (B, T, 1, d)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The rotation, without its gradient."""
    return x.roll(x.shape[-1] // 2, dims=-1).mul_(sin).add_(x * cos)


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """The forward of a family's RMSNorm module."""
    return _RMSNorm.apply(x, module.weight, module.variance_epsilon)


def mlp(module: nn.Module, x: Tensor) -> Tensor:
    """The forward of a family's gated MLP, its activation SiLU."""
    return module.down_proj(_SwiGLU.apply(module.gate_proj(x), module.up_proj(x)))


def attention(
    module: nn.Module,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    attention_mask: Tensor | None,
    past_key_values: Cache | None = None,
    **_,
) -> tuple[Tensor, None]:
    """The forward of a family's attention (B, T, H) -> (B, T, H), within its sliding window if it has one."""
    shape = (*hidden_states.shape[:-1], -1, module.head_dim)
    query, key, value = (layer(hidden_states).view(shape) for layer in (module.q_proj, module.k_proj, module.v_proj))
    if hasattr(module, "q_norm"):  # qwen3
        query, key = module.q_norm(query), module.k_norm(key)
    cos, sin = angles(position_embeddings)
    query, key = _Rotation.apply(query, cos, sin), _Rotation.apply(key, cos, sin)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))  # (B, h, T, d)
    if past_key_values is not None:
        key, value = past_key_values.update(key, value, module.layer_idx)
    attend = ALL_ATTENTION_FUNCTIONS[module.config._attn_implementation]
    attended, _ = attend(module, query, key, value, attention_mask, scaling=module.scaling)  # (B, T, h, d)
    return module.o_proj(attended.flatten(2)), None


def slim(student: nn.Module) -> None:
    """Give every norm, MLP and attention of `student` these forwards, in place."""
    for module in student.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(norm, module)
        elif isinstance(getattr(module, "act_fn", None), SiLUActivation):
            module.forward = partial(mlp, module)
        elif type(module).__name__.endswith("Attention"):
            module.forward = partial(attention, module)
