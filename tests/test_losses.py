"""The losses against the paper's formulas: by hand, by brute force in float64, and by closed forms."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from selfrefine.training.batches import Pair
from selfrefine.training.log_probs import masked_log_probs
from selfrefine.training.losses import dpo_loss, dpo_margin, instruction_loss
from selfrefine.training.reference import Reference
from train_dpo import compare


def test_instruction_loss_worked_example():
    """Two response tokens with probabilities 1/2 and 1/8 after a prompt: L_inst = ln 2 + ln 8 = 4 ln 2.

    Vocabulary of 4; logits at position t predict the token at t + 1. Prompt [3], response [0, 1]:
    position 0: probabilities (1/2, 1/4, 1/8, 1/8) -> w_1 = 0 has 1/2
    position 1: probabilities (1/2, 1/8, 1/4, 1/8) -> w_2 = 1 has 1/8
    """
    probabilities = tensor([[[1 / 2, 1 / 4, 1 / 8, 1 / 8], [1 / 2, 1 / 8, 1 / 4, 1 / 8], [0.25] * 4]])
    log_probs = masked_log_probs(probabilities.log(), tensor([[3, 0, 1]]), tensor([[False, True, True]]))
    assert log_probs.shape == (1,)
    assert instruction_loss(log_probs).item() == pytest.approx(4 * math.log(2), rel=1e-6)


def test_log_probs_are_sums_over_the_response_by_brute_force():
    """Token by token in float64: Σ_t log( exp z_t[w_t] / Σ_v exp z_t[v] ), the prompt's tokens left out."""
    torch.manual_seed(0)
    logits = torch.randn(3, 7, 11, dtype=torch.float64)
    ids = torch.randint(11, (3, 7))
    prompts = [2, 4, 1]
    mask = torch.arange(7) >= tensor(prompts)[:, None]
    expected = []
    for row, prompt in enumerate(prompts):
        total = 0.0
        for t in range(prompt, 7):
            weights = [math.exp(z) for z in logits[row, t - 1].tolist()]
            total += math.log(weights[ids[row, t]] / sum(weights))
        expected.append(total)
    assert masked_log_probs(logits, ids, mask).tolist() == pytest.approx(expected, rel=1e-5)


def test_dpo_worked_example():
    """β = 0.1; log π_θ / π_inst is 30 - 10 = 20 for y_w and -5 for y_l: M = 0.1 · 25 = 2.5, L = ln(1 + e^-2.5)."""
    margin = dpo_margin(tensor([-10.0]), tensor([-45.0]), tensor([-30.0]), tensor([-40.0]), beta=0.1)
    assert margin.item() == pytest.approx(2.5)
    assert dpo_loss(margin).item() == pytest.approx(math.log(1 + math.exp(-2.5)), rel=1e-6)


def test_dpo_against_brute_force_on_probabilities():
    """Eqs. 1 and 2 on the probabilities themselves, in float64: −log σ(β log(p_w/r_w) − β log(p_l/r_l))."""
    generator = torch.Generator().manual_seed(3)
    p_w, p_l, r_w, r_l = torch.rand(4, 50, generator=generator, dtype=torch.float64)
    beta = 0.3
    expected = [
        -math.log(1 / (1 + math.exp(-(beta * math.log(w / v) - beta * math.log(x / y)))))
        for w, x, v, y in zip(p_w.tolist(), p_l.tolist(), r_w.tolist(), r_l.tolist(), strict=True)
    ]
    losses = dpo_loss(dpo_margin(p_w.log(), p_l.log(), r_w.log(), r_l.log(), beta))
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


def test_the_nll_of_y_w_is_per_token_and_at_weight_0_all_is_dpos_to_the_bit():
    """compare() on log-probabilities of three pairs, whose y_w have 2, 5 and 10 tokens; y_l has other lengths."""
    pairs = [Pair([1], [3] * length, [4] * (length + 3)) for length in (2, 5, 10)]
    reference = Reference(tensor([-2.5, -3.5, -4.5]), tensor([-2.0, -1.0, -0.5]), 0.0)

    def compared(weight: float) -> tuple[torch.Tensor, list[torch.Tensor]]:
        sides = [tensor(of, requires_grad=True) for of in ([-2.0, -4.0, -5.0], [-3.0, -1.0, -0.1])]
        formula = SimpleNamespace(pair_log_probs=lambda student, pairs: sides)
        losses, parts = compare(formula, None, pairs, reference, [0, 1, 2], 0.1, weight)
        assert parts["chosen_nll"].tolist() == tensor([2 / 2, 4 / 5, 5 / 10]).tolist()
        assert torch.equal(parts["loss"], losses)
        losses.sum().backward()
        plain = [side.detach().requires_grad_() for side in sides]
        dpo = dpo_loss(dpo_margin(*plain, reference.chosen, reference.rejected, 0.1))
        dpo.sum().backward()
        return losses - dpo, [side.grad - of.grad for side, of in zip(sides, plain, strict=True)]

    added, gradients = compared(0.0)
    assert not added.any() and not any(gradient.any() for gradient in gradients)
    added, gradients = compared(0.5)
    assert added.tolist() == pytest.approx([0.5, 0.4, 0.25], rel=1e-5)
    assert gradients[0].tolist() == pytest.approx([-0.25, -0.1, -0.05], rel=1e-5)
    assert not gradients[1].any()


def test_pitfall_p5_dpo_is_ln_2_at_the_start():
    log_probs = tensor([-100.25, -3.5])
    margin = dpo_margin(log_probs, log_probs - 7, log_probs, log_probs - 7, beta=0.1)
    assert margin.tolist() == [0.0, 0.0]
    assert dpo_loss(margin).tolist() == [tensor(2.0).log().item()] * 2


def test_dpo_gradient_is_the_closed_form():
    """∇L = −β σ(−M) (∇ log π(y_w) − ∇ log π(y_l)), for log-probabilities that depend on shared parameters θ (2,)."""
    theta = tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    beta, reference_w, reference_l = 0.1, -2.0, -1.0

    def log_w(t):
        return -(t**2).sum() - 3 * t[0]

    def log_l(t):
        return torch.sin(t).sum() - 2.0

    margin = dpo_margin(log_w(theta), log_l(theta), reference_w, reference_l, beta)
    dpo_loss(margin).backward()
    gradient_w = -2 * theta.detach() + tensor([-3.0, 0.0], dtype=torch.float64)
    gradient_l = torch.cos(theta.detach())
    expected = -beta * torch.sigmoid(-margin.detach()) * (gradient_w - gradient_l)
    torch.testing.assert_close(theta.grad, expected, rtol=1e-12, atol=0)


def test_dpo_gradient_by_finite_differences():
    torch.manual_seed(0)
    chosen, rejected, reference_chosen, reference_rejected = torch.randn(4, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda w, x: dpo_loss(dpo_margin(w, x, reference_chosen, reference_rejected, 0.1)),
        (chosen.requires_grad_(), rejected.requires_grad_()),
    )


def test_equal_sides_have_no_gradient():
    log_probs = tensor([-5.0], requires_grad=True)
    dpo_loss(dpo_margin(log_probs, log_probs, tensor([-6.0]), tensor([-6.0]), 0.1)).sum().backward()
    assert log_probs.grad.item() == 0.0


@pytest.mark.parametrize("delta", [1e4, -1e4])
def test_finite_at_extreme_margins(delta):
    """At M = −10⁴ the loss is 10⁴ and its slope −1; at M = +10⁴ both are 0."""
    margin = tensor([delta], requires_grad=True)
    loss = dpo_loss(margin)
    loss.sum().backward()
    assert loss.item() == pytest.approx(max(0.0, -delta))
    assert margin.grad.item() == pytest.approx(-1.0 if delta < 0 else 0.0)
