"""The frozen 4-bit layer: what it stores, its own forward and backward, and training after sampling."""

import logging
from collections import Counter

import pytest
import torch

from selfrefine.model.lora import LoRALinear, NF4Linear, add_lora, lora_layers, lora_parameters
from selfrefine.model.student import load_student
from selfrefine.sampling import sample
from selfrefine.training.log_probs import response_log_probs
from tests.test_log_probs import assert_same, gradients, sequences

CPU = torch.device("cpu")


def layer(dtype=torch.float32, bias=None, outputs=96, inputs=128) -> NF4Linear:
    generator = torch.Generator().manual_seed(0)
    return NF4Linear(torch.randn(outputs, inputs, generator=generator), bias, dtype, CPU)


def test_codes_are_the_nearest_of_the_normal_float_values():
    """NF4 by hand (QLoRA, App. E): per block of 64, w / max|w| goes to the nearest of these 16 values; double
    quantisation moves the scale by under 1 %."""
    negative = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
    negative += [-0.18477343022823334, -0.09105003625154495, 0.0]
    positive = [0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224]
    positive += [0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
    values = torch.tensor(negative + positive)
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(NF4Linear(weight, None, torch.float32, CPU).weight.quant_state.code, values)
    scale = weight.abs().amax(dim=1, keepdim=True)
    nearest = values[(weight / scale)[..., None].sub(values).abs().argmin(dim=-1)] * scale
    got = NF4Linear(weight, None, torch.float32, CPU).dequantize()
    assert (got - nearest).abs().max() < 0.03 * scale.max()
    assert torch.equal(got == 0, nearest == 0)


def test_a_kernel_that_is_not_used_is_not_missed():
    """bitsandbytes warns at import that it is absent."""
    assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)


def test_four_bits_a_weight():
    stored = layer(outputs=512, inputs=512)
    state = stored.weight.quant_state
    size = stored.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes + state.state2.code.nbytes
    assert stored.weight.dtype == torch.uint8 and state.nested
    assert size / 512**2 < 0.525


def test_the_base_is_the_same_whatever_the_compute_dtype():
    assert torch.equal(layer(torch.float32).weight.data, layer(torch.bfloat16).weight.data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_are_those_of_the_dequantised_weight(dtype):
    bias = torch.randn(96)
    frozen = layer(dtype, bias)
    x = torch.randn(2, 5, 128, dtype=dtype, requires_grad=True)
    dense = frozen.dequantize().double()
    y = frozen(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), x.double() @ dense.T + bias.to(dtype).double(), rtol=2e-2, atol=2e-2)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    expected = upstream.double() @ dense
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(x.grad.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
    assert frozen.weight.grad is None


def test_adding_adapters_draws_nothing_from_the_global_generator(student_folder):
    student, before = load_student(student_folder, CPU, torch.float32), torch.random.get_rng_state()
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training_after_sampling_has_the_right_gradients(student_folder):
    """bitsandbytes on a CPU with AVX512-BF16 repacks weights in an eval forward and then drops gradients: not here."""
    batch = sequences((5, 9), (3, 4))
    fresh, used = (load_student(student_folder, CPU, torch.float32) for _ in range(2))
    for student in (fresh, used):
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    stored = [module.weight.data.clone() for module in used.modules() if isinstance(module, NF4Linear)]
    list(sample(used, [[1, 5, 9]], [0], end_ids=[2], temperature=0.1, max_new_tokens=5))
    used.train()
    expected = gradients(fresh, -response_log_probs(fresh, batch).sum())
    assert any(gradient.any() for gradient in expected.values())
    assert_same(gradients(used, -response_log_probs(used, batch).sum()), expected, 0.0)
    for before, module in zip(stored, (m for m in used.modules() if isinstance(m, NF4Linear)), strict=True):
        assert torch.equal(before, module.weight.data)


def test_no_adapter_is_bit_equal_to_the_base(student_folder):
    """B = 0 at the start: y = base(x) + 0, to the bit, for every logit."""
    ids = torch.randint(3, 320, (2, 11))
    student = load_student(student_folder, CPU, torch.float32)
    with torch.no_grad():
        base = student(input_ids=ids).logits
        add_lora(student, rank=4, alpha=8, dropout=0.1, seed=0)
        assert torch.equal(student(input_ids=ids).logits, base)


def test_adapters_stay_float32_over_a_bfloat16_base(student_folder):
    student = load_student(student_folder, CPU, torch.bfloat16)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    (adapted, *_) = lora_layers(student).values()
    y = adapted(torch.randn(3, 128, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert adapted.A.dtype == adapted.B.dtype == adapted.B.grad.dtype == torch.float32


def test_pitfall_p7_every_element_of_b_moves_at_the_paper_rate(student_folder):
    """P7: at lr 1e-6 each element of B that has a gradient moves in each of 10 steps, over a bfloat16 base too."""
    student = load_student(student_folder, CPU, torch.bfloat16)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    parameters = lora_parameters(student)
    for name, parameter in parameters.items():
        if "lora_B" in name:
            torch.nn.init.uniform_(parameter, -1 / 64, 1 / 64)
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-6, weight_decay=0.0)
    batch = sequences((5, 9), (3, 4))
    had_gradient = {name: torch.zeros_like(parameter, dtype=torch.bool) for name, parameter in parameters.items()}
    for _ in range(10):
        optimizer.zero_grad()
        (-response_log_probs(student, batch).mean()).backward()
        for name, parameter in parameters.items():
            had_gradient[name] |= parameter.grad != 0
        optimizer.step()
    for name, parameter in parameters.items():
        if "lora_B" in name:
            assert had_gradient[name].any()
            assert (parameter != start[name])[had_gradient[name]].all(), name


def test_the_frozen_base_has_no_gradient_and_does_not_change(student):
    frozen = {name: p.detach().clone() for name, p in student.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-2)
    (-response_log_probs(student, sequences((5, 9))).mean()).backward()
    optimizer.step()
    for name, parameter in student.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None and torch.equal(parameter, frozen[name])
    assert {id(p) for p in student.parameters() if p.requires_grad} == {
        id(p) for p in lora_parameters(student).values()
    }


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_pitfall_p20_gradient_checkpointing_gives_the_same_gradients(student_folder, dropout):
    """P20: with a frozen embedding, in train mode, every A and B has its gradient, dropout redrawn alike, from layers
    that run again."""
    batch, got, ran = sequences((5, 9), (3, 4)), [], Counter()
    for checkpointing in (False, True):
        student = load_student(student_folder, CPU, torch.float32, gradient_checkpointing=checkpointing)
        add_lora(student, rank=4, alpha=8, dropout=dropout, seed=0)
        for module in lora_layers(student).values():
            torch.nn.init.constant_(module.B, 0.01)
            module.register_forward_hook(lambda *_, checkpointing=checkpointing: ran.update([checkpointing]))
        student.train()
        torch.manual_seed(7)
        got.append(gradients(student, -response_log_probs(student, batch).sum()))
    assert all(gradient.any() for gradient in got[0].values())
    assert_same(got[1], got[0], 1e-6)
    assert ran[False] == 2 * 7 and ran[True] > 1.8 * ran[False]  # but for what the last of a block needs no more


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lora_against_a_dense_copy_in_float64(dtype, dropout):
    """Output and gradients by the formula y = x Wᵀ + b + (α/r) dropout(x) Aᵀ Bᵀ on plain float64 matrices."""
    adapted = LoRALinear(layer(dtype, bias=torch.randn(96)), rank=4, alpha=8, dropout=dropout)
    torch.nn.init.normal_(adapted.A)
    torch.nn.init.normal_(adapted.B)
    x = torch.randn(2, 3, 128, dtype=dtype, requires_grad=True)
    upstream = torch.randn(2, 3, 96, dtype=dtype)
    torch.manual_seed(3)
    y = adapted(x)
    y.backward(upstream)

    torch.manual_seed(3)
    kept = torch.nn.functional.dropout(torch.ones(2, 3, 128, dtype=dtype), dropout).double()
    w, bias, a, b, z = (
        t.detach().double() for t in (adapted.base.dequantize(), adapted.base.bias, adapted.A, adapted.B, x)
    )
    a.requires_grad_(), b.requires_grad_(), z.requires_grad_()
    expected = z @ w.T + bias + 2.0 * ((z * kept) @ a.T) @ b.T
    expected.backward(upstream.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for got, wanted in ((y, expected), (x.grad, z.grad), (adapted.A.grad, a.grad), (adapted.B.grad, b.grad)):
        assert (got.double() - wanted).norm() < tolerance * wanted.norm()
