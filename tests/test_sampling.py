"""Sampling: batched as one by one, the seed decides, ends end, and the distribution is the softmax."""

import json
from itertools import pairwise

import pytest
import torch
from transformers import GenerationConfig, TopKLogitsWarper, TopPLogitsWarper

from selfrefine import fast, sampling
from selfrefine.errors import UserError
from selfrefine.sampling import TOP_K, draw, in_order, row_seed, sample, truncated, truncation

PROMPTS = [[1, *range(5, 5 + n)] for n in (1, 49, 7, 20, 3, 33)]
ENDS = [2, *range(40, 60)]  # many ends, so that rows leave the batch at different times


@pytest.fixture(params=["plain", "fast"])
def student(student, request):
    """With transformers' own forward, and with the decoder of `fast`."""
    if request.param == "fast":
        fast.speed_up(student)
    return student


def sampled(student, rows, *, temperature, batch_size=32, done=()):
    answers = sample(
        student,
        [PROMPTS[row] for row in rows],
        [row_seed(0, str(row)) for row in rows],
        end_ids=ENDS,
        temperature=temperature,
        max_new_tokens=30,
        batch_size=batch_size,
        done=done,
    )
    return {rows[index]: answer for index, answer in answers}


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_pitfall_p15_batched_is_one_by_one(student, temperature):
    """P15, float32: prompts of 2 to 50 tokens in one padded batch, rows leaving it: the same ids as alone."""
    together = sampled(student, range(6), temperature=temperature)
    assert together == {row: sampled(student, [row], temperature=temperature)[row] for row in range(6)}
    assert together == sampled(student, [3, 1, 5, 0, 2, 4], temperature=temperature, batch_size=4)
    if temperature == 1.5:
        assert len({len(answer.ids) for answer in together.values()}) > 2
        assert any(answer.ended for answer in together.values())


def reads_and_steps(monkeypatch, student) -> list[tuple[str, int]]:
    """What the student's decoder will be asked: ("read", prompts) or ("step", rows) each."""
    asked, original = [], getattr(student, "decoder", sampling.Plain)

    class Spied(original):
        def read(self, prompts, begin):
            asked.append(("read", len(prompts)))
            return super().read(prompts, begin)

        def step(self, tokens, positions):
            asked.append(("step", len(tokens)))
            return super().step(tokens, positions)

    student.decoder = Spied
    return asked


def test_prompts_read_in_groups_are_those_read_at_once(student, monkeypatch):
    """The six prompts four by four, or two by two: the same draws."""
    asked = reads_and_steps(monkeypatch, student)
    together = sampled(student, range(6), temperature=1.0)
    assert asked[:2] == [("read", 4), ("read", 2)]
    asked.clear()
    monkeypatch.setattr(sampling, "READ", 2)
    assert sampled(student, range(6), temperature=1.0) == together
    assert asked[:3] == [("read", 2)] * 3


def test_rows_that_end_make_room_for_others(student, monkeypatch):
    """40 prompts, 8 rows: as alone; where 4 rows are free and prompts wait, those are read next."""
    asked = reads_and_steps(monkeypatch, student)
    prompts = [[1, *range(5, 5 + n % 7 + 1), 60 + n] for n in range(40)]
    how = {"end_ids": ENDS, "temperature": 1.5, "max_new_tokens": 30}
    together = dict(sample(student, prompts, range(40), batch_size=8, **how))
    assert len({len(answer.ids) for answer in together.values()}) > 5
    read = 0
    for (what, count), (after, _) in pairwise(asked):
        read += count if what == "read" else 0
        assert what == "read" or (count <= 8 and (count > 4 or read == 40 or after == "read"))
    assert read == 40 and sum(what == "read" for what, _ in asked) < 15
    for row in (0, 7, 23, 39):
        assert together[row] == dict(sample(student, [prompts[row]], [row], **how))[0]


def test_prompts_that_begin_alike_stand_together_the_longest_first():
    x, other = [1, 5, 6, 7], [1, 8, 9, 4]
    assert in_order([x, [2, 3], other, [*x, 9, 9], [*other, 3], [*x, 8, 8]]) == [0, 5, 3, 2, 4, 1]


def test_greedy_is_that_of_generate(student):
    ids = torch.tensor([PROMPTS[3]])
    expected = student.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=30,
        do_sample=False,
        eos_token_id=[2],
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    (answer,) = [a for _, a in sample(student, [PROMPTS[3]], [0], end_ids=[2], temperature=0, max_new_tokens=30)]
    assert answer.ids == [token for token in expected if token != 2]


def test_draws_follow_the_softmax():
    """200,000 draws from four logits at temperature 0.5: each share within 5 standard errors of softmax(2 z)."""
    logits, count = torch.tensor([0.1, -0.3, 0.7, 0.0]), 200_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(0))
    drawn = draw(logits.repeat(count, 1), uniforms, 0.5)
    expected = torch.softmax(2 * logits, dim=0)
    shares = torch.bincount(drawn, minlength=4) / count
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / count).sqrt()).all()


CUTS = [(None, 0.8), (5, None), (5, 0.8), (1, None), (100, 0.999), (None, 1e-6)]


@pytest.mark.parametrize(("top_k", "top_p"), CUTS)
def test_what_is_cut_is_what_transformers_cuts(top_k, top_p):
    """`generate` applies the temperature (here 0.7), then top-k, then top-p to what is left; 200 rows of 40."""
    scores = torch.randn(200, 40, generator=torch.Generator().manual_seed(0)) / 0.7
    expected = scores if top_k is None else TopKLogitsWarper(top_k)(None, scores)
    expected = expected if top_p is None else TopPLogitsWarper(top_p)(None, expected)
    assert torch.equal(truncated(scores, top_k, top_p), expected)
    assert expected.isinf().any() and not expected.isinf().all(dim=1).any()


@pytest.mark.parametrize(("top_k", "top_p", "left"), [(3, None, [0, 2, 3]), (3, 0.7, [2, 3]), (None, 0.9, [0, 2, 3])])
def test_draws_follow_the_softmax_of_what_is_left(top_k, top_p, left):
    """200,000 draws at temperature 0.5, χ² against softmax(2 z) of the tokens left: below its 99.9 % quantile, 13.8."""
    logits, count = torch.tensor([0.1, -0.3, 0.7, 0.2]), 200_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(0))
    drawn = torch.bincount(draw(logits.repeat(count, 1), uniforms, 0.5, top_k, top_p), minlength=4)
    expected = count * torch.softmax(2 * logits[left], dim=0)
    assert drawn[left].sum() == count
    assert ((drawn[left] - expected).square() / expected).sum() < 13.8


def test_nothing_cut_leaves_every_bit():
    logits = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    assert truncated(logits, None, None) is logits
    uniforms = torch.rand(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(draw(logits.clone(), uniforms, 0.7), draw(logits, uniforms, 0.7, 40, None))


@pytest.mark.parametrize(("ties", "width"), [(1, 64), (14, 64), (15, 3000)])
def test_of_top_k_only_the_likeliest_are_looked_at(monkeypatch, ties, width):
    """The same draws as from all 3000 logits; so many are as likely as the fiftieth: all may be drawn."""
    generator = torch.Generator().manual_seed(0)
    logits, uniforms = torch.randn(500, 3000, generator=generator) / 4, torch.rand(500, generator=generator)
    lowest = logits.topk(50).values[:, -1:]
    logits[:, 100 : 100 + ties - 1] = lowest - 9  # not among the fifty
    logits = torch.where(logits == lowest - 9, lowest, logits)
    seen, original = [], sampling.truncated
    monkeypatch.setattr(sampling, "truncated", lambda cut, *how: (seen.append(cut.shape[1]), original(cut, *how))[1])
    few = draw(logits.clone(), uniforms, 0.7, 50)
    monkeypatch.setattr(sampling, "MORE", 3000)
    assert torch.equal(few, draw(logits.clone(), uniforms, 0.7, 50))
    assert seen == [width, 3000]


def test_greedy_is_not_cut():
    assert draw(torch.tensor([[1.0, 5.0, 5.0]]), torch.tensor([0.99]), 0.0, 1, 0.1).item() == 1


def test_an_answers_every_token_is_of_the_likeliest(student):
    """At a temperature that levels the logits: with top-k 1 the greedy answer, with two the more likely or the next."""

    def ids(**how):
        return next(iter(sample(student, [PROMPTS[3]], [0], end_ids=[], max_new_tokens=30, **how)))[1].ids

    assert ids(temperature=50.0, top_k=1) == ids(temperature=50.0, top_p=1e-6) == ids(temperature=0.0)
    assert ids(temperature=50.0, top_k=2) != ids(temperature=0.0)


@pytest.mark.parametrize(
    ("file", "given", "expected"),
    [
        (None, (None, None), (50, None)),
        ({}, (None, None), (50, None)),
        ({"temperature": 0.6, "top_p": 0.9}, (None, None), (50, 0.9)),
        ({"top_k": 20, "top_p": 0.8}, (None, None), (20, 0.8)),
        ({"top_k": 20, "top_p": 0.8}, (0, 1.0), (None, None)),
        ({"top_k": 0, "top_p": 1.0}, (None, 0.5), (None, 0.5)),
    ],
)
def test_the_defaults_are_the_repositorys_and_what_is_given_goes_before(tmp_path, file, given, expected):
    """Llama-2-chat's file has top-p 0.9 and temperature 0.6, of which C.2 replaces the temperature."""
    if file is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(file))
    assert truncation(tmp_path, *given) == expected


def test_the_default_of_transformers_is_what_it_says():
    """Greedy off and nothing else asked, `generate` draws from so many tokens."""
    assert GenerationConfig()._get_default_generation_params()["top_k"] == TOP_K


@pytest.mark.parametrize("content", ["half {", '{"top_k": "many"}', '{"top_p": [1]}'])
def test_a_broken_generation_config_is_one_sentence(tmp_path, content):
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(UserError, match="generation_config"):
        truncation(tmp_path, None, None)


def test_impossible_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    for uniform in (0.0, 0.4999, 0.5, 1 - 2**-24):
        assert draw(logits.clone(), torch.tensor([uniform]), 1.0).item() in (1, 3)
    assert draw(torch.tensor([[0.0, 100.0, 0.0]]), torch.tensor([0.0]), 1.0).item() == 1  # e⁻¹⁰⁰ is no normal number


def test_cut_at_the_limit_is_not_ended(student):
    (answer,) = [a for _, a in sample(student, [[1, 5]], [0], end_ids=[], temperature=1.0, max_new_tokens=7)]
    assert len(answer.ids) == 7 and not answer.ended


def test_an_answer_is_cut_at_the_end_of_the_context(student):
    """512 positions: a prompt of 505 tokens has room for 7, beside one of 400 that is cut at 20; as alone."""
    prompts = [[1] + [7] * 504, [1] + [9] * 399]
    arguments = {"end_ids": [], "temperature": 1.0, "max_new_tokens": 20}
    got = dict(sample(student, prompts, [0, 1], **arguments))
    assert [len(got[row].ids) for row in range(2)] == [7, 20] and not got[0].ended
    for row in range(2):
        assert dict(sample(student, [prompts[row]], [row], **arguments))[0] == got[row]
    with pytest.raises(UserError, match="512"):
        list(sample(student, [[1] * 512], [0], **arguments))


def test_a_resumed_run_draws_in_the_same_batches(student, monkeypatch):
    """In windows of one batch of two: those that are done are skipped; one that is done in part is drawn as it was."""
    monkeypatch.setattr(sampling, "WINDOW", 1)
    asked = reads_and_steps(monkeypatch, student)
    straight = sampled(student, range(6), temperature=1.5, batch_size=2)
    before, order = asked[:], in_order([PROMPTS[row] for row in range(6)])
    asked.clear()
    resumed = sampled(student, range(6), temperature=1.5, batch_size=2, done=set(order[:3]))
    assert set(resumed) == set(order[2:])
    assert all(resumed[row] == straight[row] for row in resumed)
    assert asked == before[-len(asked) :]
    asked.clear()
    assert not sampled(student, range(6), temperature=1.5, batch_size=2, done=range(6)) and not asked


@pytest.mark.parametrize("temperature", [0, 1e-30, 1e-300])
def test_next_to_no_temperature_takes_the_likeliest(temperature):
    logits = torch.tensor([[1.0, 5.0, 4.9], [3.0, -2.0, 2.9]])
    assert draw(logits, torch.tensor([0.99, 0.99]), temperature).tolist() == [1, 0]


def test_no_limit_is_too_high(student):
    arguments = {"end_ids": range(320), "temperature": 1.0, "max_new_tokens": 2**40}
    assert [answer.ended for _, answer in sample(student, [[1, 5], [1, 5, 9, 7]], [0, 1], **arguments)] == [True, True]


def test_seeds_differ_by_run_and_by_what_is_asked():
    assert row_seed(0, "a", "b") == row_seed(0, "a", "b")
    assert len({row_seed(0, "a", "b"), row_seed(1, "a", "b"), row_seed(0, "ab", ""), row_seed(0, "a", "c")}) == 4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_a_cpu_draws(student_folder):
    """Greedy, float32: the same ids on both, but where two logits are within rounding of each other."""
    from selfrefine.model.student import load_student

    bare = [load_student(student_folder, torch.device(name), torch.float32) for name in ("cpu", "cuda")]
    one, other = (sampled(model, range(6), temperature=0.0) for model in bare)
    assert sum(one[row] == other[row] for row in one) >= 5


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_prompts_of_unlike_lengths_on_a_gpu_in_bfloat16_make_no_nan(student_folder, monkeypatch):
    from selfrefine.model.student import load_student

    seen, original = [], sampling.draw
    monkeypatch.setattr(sampling, "draw", lambda logits, *rest: (seen.append(logits), original(logits, *rest))[1])
    sampled(load_student(student_folder, torch.device("cuda"), torch.bfloat16), range(6), temperature=1.0)
    assert seen and all(logits.isfinite().all() for logits in seen)
