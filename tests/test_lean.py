"""Norms, MLPs and attention with written-out gradients, against transformers' own modules under autograd."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from selfrefine.model.attention import additive, implementation
from selfrefine.model.lean import slim
from selfrefine.model.student import FAMILIES

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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_attention(family, dtype):
    """Every family's own model, with grouped queries and positions that start anywhere: to the bit, and so is
    the gradient of what the blocks get."""
    config = AutoConfig.for_model(
        family, vocab_size=30, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, dtype=dtype, attn_implementation=implementation(torch.device("cpu"))
    ).requires_grad_(False)
    positions = torch.arange(6) + torch.tensor([[0], [5]])
    causal = additive(torch.ones(2, 1, 6, 6, dtype=torch.bool).tril(), dtype)
    embedded, upstream = torch.randn(2, 6, 32).to(dtype), torch.randn(2, 6, 32).to(dtype)

    def run() -> tuple[torch.Tensor, torch.Tensor]:
        x = embedded.clone().requires_grad_()
        y = model.model(inputs_embeds=x, position_ids=positions, attention_mask=causal, use_cache=False)[0]
        y.backward(upstream)
        return y.detach(), x.grad

    slim(model)
    got_y, got_dx = run()
    for layer in model.model.layers:
        del layer.self_attn.forward  # transformers' own again, under our norms and MLPs
    y, dx = run()
    assert torch.equal(got_y, y) and torch.equal(got_dx, dx)
