"""The blocks' elementwise functions with their gradients written out: the same numbers, fewer passes, less kept.

transformers writes RMSNorm and SwiGLU as a reader would, and autograd then keeps float32 copies and silu(gate) as well.
Here their inputs are kept. Between the matrix products of a small batch these passes are what a step waits for.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import SiLUActivation


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


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """The forward of a family's RMSNorm module."""
    return _RMSNorm.apply(x, module.weight, module.variance_epsilon)


def mlp(module: nn.Module, x: Tensor) -> Tensor:
    """The forward of a family's gated MLP, its activation SiLU."""
    return module.down_proj(_SwiGLU.apply(module.gate_proj(x), module.up_proj(x)))


def slim(student: nn.Module) -> None:
    """Give every norm and MLP of `student` these forwards, in place."""
    for module in student.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(norm, module)
        elif isinstance(getattr(module, "act_fn", None), SiLUActivation):
            module.forward = partial(mlp, module)
