"""The fast log-probabilities (response positions only, the head's gradient in chunks) against the plain formula."""

import dataclasses

import pytest
import torch

from selfrefine.model.attention import implementation
from selfrefine.model.encoding import Sequence
from selfrefine.model.lora import add_lora, lora_parameters
from selfrefine.model.student import load_student
from selfrefine.training import log_probs as fast
from selfrefine.training.batches import collate
from selfrefine.training.log_probs import response_log_probs
from selfrefine.training.losses import instruction_loss, plain_log_probs
from tests.conftest import write_student

CPU = torch.device("cpu")


def sequences(*lengths: tuple[int, int], seed: int = 0) -> list[Sequence]:
    """Random token ids: (prompt, response) lengths, each response ended by 2."""
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(3, 320, (count,), generator=generator).tolist()

    return [Sequence([1, *ids(prompt - 1)], [[*ids(response - 1), 2]]) for prompt, response in lengths]


def plain(student, sequence: Sequence) -> torch.Tensor:
    """One sequence, no padding, all logits, the formula."""
    ids = torch.tensor([[*sequence.prompt, *sequence.responses[0]]])
    mask = torch.arange(ids.shape[1])[None] >= len(sequence.prompt)
    return plain_log_probs(student(input_ids=ids).logits, ids, mask)


def gradients(student, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    student.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in lora_parameters(student).items()}


def assert_same(one: dict, other: dict, tolerance: float) -> None:
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=tolerance, atol=tolerance * gradient.abs().max().item())


def test_values_and_gradients_equal_the_plain_formula(student, monkeypatch):
    """Padded together in one batch, in chunks of 3 tokens: as each alone with full logits; every layer, float32."""
    monkeypatch.setattr(fast, "CHUNK", 3)
    rows = sequences((5, 1), (2, 9), (7, 4), (1, 3))
    weights = torch.tensor([0.3, -1.2, 2.0, 0.5])  # DPO weighs rows unlike
    together = response_log_probs(student, collate(rows, CPU))
    alone = torch.cat([plain(student, row) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert_same(gradients(student, (weights * together).sum()), gradients(student, (weights * alone).sum()), 1e-5)


def test_pitfall_p4_padding_is_never_seen(student):
    """P4: The same row beside a longer one, with the padding made of any token: the same bits of input matter."""
    short, long = sequences((4, 3), (20, 30))
    batch = collate([short, long], CPU)
    expected = response_log_probs(student, batch)
    for filler in (0, 2, 319):
        ids = batch.ids.clone()
        ids[0, len(short) :] = filler
        changed = dataclasses.replace(batch, ids=ids)
        assert torch.equal(response_log_probs(student, changed), expected)
    torch.testing.assert_close(expected[:1], response_log_probs(student, collate([short], CPU)), rtol=1e-5, atol=1e-5)


def test_only_response_tokens_are_scored():
    """N, targets and positions: a token at index i is predicted at i − 1; the prompt is never a target."""
    batch = collate([Sequence([1, 5, 6], [[7, 2]]), Sequence([1], [[8, 9, 2]])], CPU)
    assert batch.ids.tolist() == [[1, 5, 6, 7, 2], [1, 8, 9, 2, 0]]
    assert batch.targets.tolist() == [7, 2, 8, 9, 2]
    assert batch.columns.tolist() == [2, 3, 0, 1, 2]
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.lengths.tolist() == [2, 3]


def test_the_end_token_is_scored_once(student):
    """log π(y, end) − log π(y) is log π(end | y): one term, taken from the full logits."""
    (row,) = sequences((4, 5))
    whole = response_log_probs(student, collate([row], CPU))
    cut = response_log_probs(student, collate([Sequence(row.prompt, [row.responses[0][:-1]])], CPU))
    ids = torch.tensor([[*row.prompt, *row.responses[0][:-1]]])
    end = student(input_ids=ids).logits[0, -1].log_softmax(-1)[2]
    torch.testing.assert_close(whole - cut, end[None], rtol=1e-4, atol=1e-5)


def test_sums_not_means(student):
    """A response twice as long is scored by twice as many terms: equal to the sum of its per-token terms."""
    (row,) = sequences((3, 8))
    ids = torch.tensor([[*row.prompt, *row.responses[0]]])
    logits = student(input_ids=ids).logits.log_softmax(-1)
    terms = [logits[0, len(row.prompt) - 1 + t, token] for t, token in enumerate(row.responses[0])]
    torch.testing.assert_close(response_log_probs(student, collate([row], CPU))[0], sum(terms), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("split", [[8], [2, 6], [1] * 8, [3, 3, 2]], ids=str)
def test_any_split_into_micro_batches_gives_the_same_gradient(student, split):
    """P6: lengths 3 to 60, one division by the step's response tokens; 1×8 = 8×1."""
    rows = sequences(*[(3 + 2 * i, 1 + 7 * i) for i in range(8)])
    tokens = sum(row.response_tokens for row in rows)
    expected = gradients(student, instruction_loss(torch.cat([plain(student, row) for row in rows])) / tokens)
    student.zero_grad()
    begin = 0
    for size in split:
        micro = rows[begin : begin + size]
        (instruction_loss(response_log_probs(student, collate(micro, CPU))) / tokens).backward()
        begin += size
    assert_same({name: p.grad for name, p in lora_parameters(student).items()}, expected, 1e-5)


def test_the_formula_is_the_loop_up_to_its_division(student):
    """§2.1 sums over tokens; the loop divides by the step's response tokens: same direction, scaled by exactly that."""
    rows = sequences((4, 6), (3, 10))
    formula = gradients(student, instruction_loss(response_log_probs(student, collate(rows, CPU))))
    looped = gradients(student, instruction_loss(response_log_probs(student, collate(rows, CPU))) / 16)
    assert_same({name: gradient / 16 for name, gradient in formula.items()}, looped, 1e-6)


def test_prompt_content_is_conditioned_on_but_not_scored(student):
    """Another prompt of the same length leaves what is scored in place; its own tokens add no term."""
    one, other = Sequence([1, 5, 6, 7], [[9, 2]]), Sequence([1, 8, 200, 31], [[9, 2]])
    first, second = collate([one], CPU), collate([other], CPU)
    for name in ("rows", "columns", "targets", "lengths"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    bound = response_log_probs(student, first), response_log_probs(student, second)
    torch.testing.assert_close(bound[0], plain(student, one), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bound[1], plain(student, other), rtol=1e-5, atol=1e-5)


def pairs_and_sides():
    """Two pairs that share their prompts, and the four sequences that they are made of."""
    chosen, rejected = sequences((6, 12), (9, 20)), sequences((6, 2), (9, 1), seed=1)
    pairs = [Sequence(w.prompt, [*w.responses, *x.responses]) for w, x in zip(chosen, rejected, strict=True)]
    sides = [Sequence(pair.prompt, [response]) for pair in pairs for response in pair.responses]
    return pairs, sides


def test_a_shared_prompt_is_as_good_as_a_prompt_each(student):
    """[x̂, y_w, y_l] in one row, the prompt computed once: values and gradients of [x̂, y_w] and [x̂, y_l] alone."""
    pairs, sides = pairs_and_sides()
    shared = response_log_probs(student, collate(pairs, CPU))
    alone = torch.cat([plain(student, side) for side in sides])
    torch.testing.assert_close(shared, alone, rtol=1e-5, atol=1e-5)
    weights = torch.tensor([0.7, -0.7, 0.1, -0.1])
    assert_same(gradients(student, (weights * shared).sum()), gradients(student, (weights * alone).sum()), 1e-5)


def test_padding_never_reaches_positions_beyond_the_context(tmp_path):
    """Pairs whose sides fit the context of 64 and whose row does not, of unlike lengths: as each alone, also where the
    rotation depends on the highest position that is seen (dynamic RoPE)."""
    rotation = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    folder = write_student(tmp_path, "llama", max_position_embeddings=64, rope_parameters=rotation)
    student = load_student(folder, CPU, torch.float32)
    (short, long), (other, another) = sequences((10, 8), (20, 40)), sequences((10, 6), (20, 40), seed=1)
    pairs = [Sequence(one.prompt, [*one.responses, *two.responses]) for one, two in ((short, other), (long, another))]
    together = response_log_probs(student, collate(pairs, CPU))
    alone = torch.cat([response_log_probs(student, collate([pair], CPU)) for pair in pairs])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_pitfall_p22_one_side_never_sees_the_other(student):
    """P22: Another y_w leaves log π(y_l) as it was, to the bit, and the other way round."""
    (pair, *_), _ = pairs_and_sides()
    chosen, rejected = pair.responses
    before = response_log_probs(student, collate([pair], CPU))
    other = response_log_probs(student, collate([Sequence(pair.prompt, [chosen[::-1], rejected])], CPU))
    assert torch.equal(before[1], other[1]) and not torch.equal(before[0], other[0])
    other = response_log_probs(student, collate([Sequence(pair.prompt, [chosen, [7, 7]])], CPU))
    assert torch.equal(before[0], other[0]) and not torch.equal(before[1], other[1])


def test_who_sees_whom():
    """Prompt of 2, y_w of 2, y_l of 1: positions 2 3 and 2; y_l sees the prompt and itself."""
    batch = collate([Sequence([1, 5], [[6, 2], [2]])], CPU)
    assert batch.ids.tolist() == [[1, 5, 6, 2, 2]] and batch.positions.tolist() == [[0, 1, 2, 3, 2]]
    assert batch.columns.tolist() == [1, 2, 1] and batch.targets.tolist() == [6, 2, 2]
    assert batch.visible.int().tolist() == [
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    ]


@pytest.mark.parametrize("margin", [5.0, 9.0, 12.0])
def test_a_confident_token_keeps_its_gradient_in_bfloat16(margin):
    """At p = 0.33, 0.96 and 0.998: W[w] − softmax(h W)ᵀ W within 1 % of float64's from the same logits; with the
    softmax rounded before the subtraction it would be 0.2, 4 and 100 % off."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(300, 64, generator=generator)
    head[7, 0], head[:7, 0], head[8:, 0] = margin, 0.0, 0.0
    head = head.bfloat16()
    states = torch.zeros(1, 64, dtype=torch.bfloat16)
    states[0, 0] = 1.0
    states.requires_grad_()
    log_prob = fast.TokenLogProbs.apply(states, head, torch.tensor([7]))
    (slope,) = torch.autograd.grad(log_prob.sum(), states)
    probabilities = (states.detach() @ head.T).double().softmax(dim=1)  # (1, V)
    probabilities[0, 7] -= 1
    expected = -probabilities @ head.double()
    assert (slope.double() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("padded", [False, True])
def test_plain_rows_are_causal_and_need_no_mask(student, monkeypatch, padded):
    """What torch's fused causal kernel asks for: no mask is made where the rows of a batch have unlike lengths."""
    given = []
    ours = student.config._attn_implementation
    student.set_attn_implementation("sdpa")
    original = torch.nn.functional.scaled_dot_product_attention

    def spy(*args, attn_mask=None, is_causal=False, **others):
        given.append((attn_mask, is_causal))
        return original(*args, attn_mask=attn_mask, is_causal=is_causal, **others)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    response_log_probs(student, collate(sequences((5, 9), (3, 4) if padded else (6, 8)), CPU))
    student.set_attn_implementation(ours)
    assert given and all(mask is None and causal for mask, causal in given)


@pytest.mark.parametrize("which", ["single", "pairs"])
def test_our_attention_has_the_gradients_of_torchs(student_folder, which):
    """Values and every gradient in float32, under the causal mask and under a shared prompt's."""
    rows = pairs_and_sides()[0] if which == "pairs" else sequences((5, 30), (40, 9))
    student = load_student(student_folder, CPU, torch.float32)
    add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
    for parameter in lora_parameters(student).values():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    got = []
    for attention in (implementation(CPU), "sdpa"):
        student.set_attn_implementation(attention)
        scored = response_log_probs(student, collate(rows, CPU))
        got.append(gradients(student, scored.sum()) | {"scored": scored.detach()})
    assert_same(got[0], got[1], 1e-5)


@pytest.mark.parametrize("which", ["single", "pairs"])
def test_bfloat16_is_float32_up_to_rounding(student_folder, which):
    """Log-probabilities within 1 %, gradients at a cosine above 0.99."""
    rows = pairs_and_sides()[0] if which == "pairs" else sequences((5, 30), (40, 9))
    got = []
    for dtype in (torch.float32, torch.bfloat16):
        student = load_student(student_folder, CPU, dtype)
        add_lora(student, rank=4, alpha=8, dropout=0.0, seed=0)
        scored = response_log_probs(student, collate(rows, CPU))
        every = torch.cat([gradient.flatten() for gradient in gradients(student, scored.sum()).values()])
        got.append((scored.detach(), every))
    torch.testing.assert_close(got[1][0], got[0][0], rtol=1e-2, atol=0.1)
    assert torch.nn.functional.cosine_similarity(got[0][1], got[1][1], dim=0) > 0.99


def test_no_gradient_is_kept_where_none_is_needed(student):
    with torch.no_grad():
        scored = response_log_probs(student, collate(sequences((3, 4)), CPU))
    assert not scored.requires_grad
