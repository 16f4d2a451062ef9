"""Norms and MLPs with written-out gradients, against transformers' own modules under autograd."""

import pytest
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from selfrefine.model.lean import slim

DTYPES = (torch.float32, torch.bfloat16)


def pair(module: torch.nn.Module, dtype: torch.dtype) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The module as transformers made it, and one with our forward, of the same random weights."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.5, 0.3)
    module = module.to(dtype).requires_grad_(False)
    ours = type(module).__new__(type(module))
    ours.__dict__ = dict(module.__dict__)
    slim(ours)
    assert "forward" in ours.__dict__ and "forward" not in module.__dict__
    return module, ours


def outcome(module: torch.nn.Module, x: torch.Tensor, upstream: torch.Tensor):
    """Output, the input's gradient, and how many elements autograd kept besides the frozen parameters."""
    x = x.clone().requires_grad_()
    frozen = {parameter.data_ptr() for parameter in module.parameters()}
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        y = module(x)
    y.backward(upstream)
    return y.detach(), x.grad, sum(t.numel() * t.itemsize for at, t in kept.items() if at not in frozen)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(dtype):
    """To the bit forward; the gradient to rounding; at most the input and a number a row kept."""
    theirs, ours = pair(LlamaRMSNorm(64, eps=1e-5), dtype)
    x, upstream = 3 * torch.randn(2, 5, 64).to(dtype), torch.randn(2, 5, 64).to(dtype)
    (y, dx, _), (got_y, got_dx, kept) = outcome(theirs, x, upstream), outcome(ours, x, upstream)
    assert torch.equal(got_y, y)
    assert (got_dx - dx).norm() < (1e-6 if dtype == torch.float32 else 1e-2) * dx.norm()
    assert kept == x.numel() * x.itemsize + 10 * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype):
    """To the bit forward; the gradient to rounding; gate and up kept, and nothing else of their size."""
    config = AutoConfig.for_model("llama", hidden_size=32, intermediate_size=96)
    theirs, ours = pair(LlamaMLP(config), dtype)
    x, upstream = torch.randn(2, 5, 32).to(dtype), torch.randn(2, 5, 32).to(dtype)
    (y, dx, full), (got_y, got_dx, kept) = outcome(theirs, x, upstream), outcome(ours, x, upstream)
    assert torch.equal(got_y, y)
    assert (got_dx - dx).norm() < (1e-6 if dtype == torch.float32 else 2e-2) * dx.norm()
    assert kept == 2 * 10 * 96 * x.itemsize < full
