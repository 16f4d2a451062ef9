"""log π_θ(y | x), by the plain path and by `selfrefine/fast/`: what each sequence alone has, from all logits."""

from dataclasses import replace

import pytest
import torch

from selfrefine import fast
from selfrefine.model.lora import add_lora, lora_parameters
from selfrefine.model.student import load_student
from selfrefine.training import log_probs as plain
from selfrefine.training.batches import Example, Pair, collate
from selfrefine.training.losses import instruction_loss
from tests.conftest import write_student

CPU = torch.device("cpu")


@pytest.fixture(params=[plain, fast], ids=["plain", "fast"])
def formula(request, student):
    """The module whose functions are under test; the student has its forwards."""
    if request.param is fast:
        fast.speed_up(student)
    return request.param


def sequences(*lengths: tuple[int, int], seed: int = 0) -> list[Example]:
    """Random token ids: (prompt, response) lengths, each response ended by 2."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 320, (count,), generator=generator).tolist()

    return [Example([1, *ids(prompt - 1)], [*ids(response - 1), 2]) for prompt, response in lengths]


def alone(student, sequence: Example) -> torch.Tensor:
    """(1,): one sequence, no padding, all logits, term by term."""
    log_softmax = student(input_ids=torch.tensor([sequence.prompt + sequence.response])).logits[0].log_softmax(-1)
    first = len(sequence.prompt) - 1
    return sum(log_softmax[first + t, token] for t, token in enumerate(sequence.response))[None]


def gradients(student, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    student.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in lora_parameters(student).items()}


def assert_same(one: dict, other: dict, tolerance: float) -> None:
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=tolerance, atol=tolerance * gradient.abs().max().item())


def test_values_and_gradients_are_those_of_each_alone(student, formula, monkeypatch):
    """Padded together in one batch, in chunks of 3 tokens: as each alone with full logits; every layer, float32."""
    monkeypatch.setattr("selfrefine.fast.head.CHUNK", 3)
    rows = sequences((5, 1), (2, 9), (7, 4), (1, 3))
    weights = torch.tensor([0.3, -1.2, 2.0, 0.5])  # DPO weighs rows unlike
    together = formula.response_log_probs(student, rows)
    apart = torch.cat([alone(student, row) for row in rows])
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)
    assert_same(gradients(student, (weights * together).sum()), gradients(student, (weights * apart).sum()), 1e-5)


def test_pitfall_p4_padding_is_never_seen(student, formula, monkeypatch):
    """P4: The same row beside a longer one, with the padding made of any token: the same bits."""
    short, long = sequences((4, 3), (20, 30))
    expected, forward, seen = formula.response_log_probs(student, [short, long]), student.base_model.forward, []
    for filler in (2, 319):

        def filled(*, input_ids, filler=filler, **others):
            assert not input_ids[0, 7:].any()
            seen.append(input_ids[0, 7:].fill_(filler))
            return forward(input_ids=input_ids, **others)

        monkeypatch.setattr(student.base_model, "forward", filled)
        got = formula.response_log_probs(student, [short, long])
        assert torch.equal(got, expected) and (seen[-1] == filler).all()
    monkeypatch.undo()
    torch.testing.assert_close(expected[:1], formula.response_log_probs(student, [short]), rtol=1e-5, atol=1e-5)


def test_the_instruction_mask():
    """What is scored: the response's tokens, never the prompt's nor padding; what is attended: all but padding."""
    batch = collate([Example([1, 5, 6], [7, 2]), Example([1], [8, 9, 2])], CPU)
    assert (batch.ids.dtype, batch.attended.dtype, batch.response.dtype) == (torch.int64, torch.bool, torch.bool)
    assert batch.ids.tolist() == [[1, 5, 6, 7, 2], [1, 8, 9, 2, 0]]
    assert batch.response.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0]]
    assert batch.attended.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]


def test_the_end_token_is_scored_once(student, formula):
    """log π(y, end) − log π(y) is log π(end | y): one term, taken from the full logits."""
    (row,) = sequences((4, 5))
    cut = Example(row.prompt, row.response[:-1])
    whole, without = formula.response_log_probs(student, [row]), formula.response_log_probs(student, [cut])
    end = student(input_ids=torch.tensor([cut.prompt + cut.response])).logits[0, -1].log_softmax(-1)[2]
    torch.testing.assert_close(whole - without, end[None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("split", [[8], [2, 6], [1] * 8, [3, 3, 2]], ids=str)
def test_any_split_into_micro_batches_gives_the_same_gradient(student, formula, split):
    """P6: lengths 3 to 60, one division by the step's response tokens; 1×8 = 8×1."""
    rows = sequences(*[(3 + 2 * i, 1 + 7 * i) for i in range(8)])
    tokens = sum(len(row.response) for row in rows)
    expected = gradients(student, instruction_loss(torch.cat([alone(student, row) for row in rows])) / tokens)
    student.zero_grad()
    begin = 0
    for size in split:
        micro = rows[begin : begin + size]
        (instruction_loss(formula.response_log_probs(student, micro)) / tokens).backward()
        begin += size
    assert_same({name: p.grad for name, p in lora_parameters(student).items()}, expected, 1e-5)


def pairs_and_sides() -> tuple[list[Pair], list[Example], list[Example]]:
    """Three pairs of unlike lengths, and the sequences that their chosen and their rejected sides are."""
    chosen, rejected = sequences((6, 12), (9, 20), (4, 5)), sequences((6, 2), (9, 1), (4, 7), seed=1)
    rejected = [Example(w.prompt, row.response) for w, row in zip(chosen, rejected, strict=True)]
    pairs = [Pair(w.prompt, w.response, row.response) for w, row in zip(chosen, rejected, strict=True)]
    return pairs, chosen, rejected


def test_pairs_are_scored_as_their_sides_alone(student, formula):
    """y_w and y_l at the same x̂ (Eq. 3): values and gradients of [x̂, y_w] and [x̂, y_l], each side in its place."""
    pairs, chosen, rejected = pairs_and_sides()
    got = formula.pair_log_probs(student, pairs)
    expected = [torch.cat([alone(student, row) for row in side]) for side in (chosen, rejected)]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([[0.7, 0.1, 0.3], [-0.7, -0.2, -0.4]])
    assert_same(
        gradients(student, (weights * torch.stack(got)).sum()),
        gradients(student, (weights * torch.stack(expected)).sum()),
        1e-5,
    )


def test_pitfall_p22_one_side_never_sees_the_other(student, formula):
    """P22: Another y_w leaves log π(y_l) as it was, to the bit, and the other way round."""
    (pair, *_), *_ = pairs_and_sides()
    chosen, rejected = formula.pair_log_probs(student, [pair])
    other_chosen, same = formula.pair_log_probs(student, [Pair(pair.prompt, pair.chosen[::-1], pair.rejected)])
    assert torch.equal(same, rejected) and not torch.equal(other_chosen, chosen)
    same, other_rejected = formula.pair_log_probs(student, [Pair(pair.prompt, pair.chosen, [7, 7])])
    assert torch.equal(same, chosen) and not torch.equal(other_rejected, rejected)


def test_padding_never_reaches_positions_beyond_the_context(tmp_path):
    """Pairs whose sides fit the context of 64 and whose row does not, of unlike lengths: as each alone, also where the
    rotation depends on the highest position that is seen (dynamic RoPE)."""
    rotation = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    folder = write_student(tmp_path, "llama", max_position_embeddings=64, rope_parameters=rotation)
    student = load_student(folder, CPU, torch.float32)
    fast.speed_up(student)
    (short, long), (other, another) = sequences((10, 8), (20, 40)), sequences((10, 6), (20, 40), seed=1)
    pairs = [Pair(one.prompt, one.response, two.response) for one, two in ((short, other), (long, another))]
    for formula in (plain, fast):
        together = torch.stack(formula.pair_log_probs(student, pairs), dim=1)
        apart = torch.stack([torch.cat(plain.pair_log_probs(student, [pair])) for pair in pairs])
        torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-5)


def test_widths_are_the_tokens_that_are_computed(student, formula, monkeypatch):
    """A micro-batch's size times its widest is at least what goes through the student, and is it for like lengths."""
    shapes, forward = [], student.base_model.forward
    monkeypatch.setattr(
        student.base_model, "forward", lambda **call: (shapes.append(call["input_ids"].numel()), forward(**call))[1]
    )
    pairs, chosen, _ = pairs_and_sides()
    formula.response_log_probs(student, chosen)
    formula.pair_log_probs(student, pairs)
    formula.pair_log_probs(student, [pairs[1], replace(pairs[1], prompt=[*pairs[1].prompt])])
    widest = max(map(formula.width, pairs))  # pairs[1]'s
    assert shapes == [3 * max(map(formula.width, chosen)), 3 * widest, 2 * widest]


@pytest.mark.parametrize("which", ["single", "pairs"])
def test_bfloat16_is_float32_up_to_rounding(student_folder, which):
    """Log-probabilities within 1 %, gradients at a cosine above 0.99; plain and fast, all against plain float32."""
    got = []
    for dtype, formula in ((torch.float32, plain), (torch.bfloat16, plain), (torch.bfloat16, fast)):
        student = load_student(student_folder, CPU, dtype)
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
        if formula is fast:
            fast.speed_up(student)
        if which == "pairs":
            scored = torch.cat(formula.pair_log_probs(student, pairs_and_sides()[0]))
        else:
            scored = formula.response_log_probs(student, sequences((5, 30), (40, 9)))
        every = torch.cat([gradient.flatten() for gradient in gradients(student, scored.sum()).values()])
        got.append((scored.detach(), every))
    for scored, every in got[1:]:
        torch.testing.assert_close(scored, got[0][0], rtol=1e-2, atol=0.1)
        assert torch.nn.functional.cosine_similarity(every, got[0][1], dim=0) > 0.99


def test_no_gradient_is_kept_where_none_is_needed(student, formula):
    with torch.no_grad():
        assert not formula.response_log_probs(student, sequences((3, 4))).requires_grad
