"""Pairs: Eq. 4's two cases, Eq. 5, provenance, and the students' answers kept as they were sampled."""

import json
from dataclasses import replace

import pytest

from selfrefine import preferences
from selfrefine.errors import UserError
from selfrefine.files import write_whole
from selfrefine.model.encoding import decode
from selfrefine.preferences import (
    Answer,
    answer_pair,
    build_pairs,
    cot_pair,
    explained,
    has_target,
    key_of,
    questions_of,
    sample_answers,
    x,
    x_cot,
)
from selfrefine.records import Demonstration, read_preferences, write_records
from selfrefine.training.examples import is_correct

TRIGGER = "Let's think step by step"


def demonstration(**changes) -> Demonstration:
    row = {
        "instruction": "Answer the following mathematical question with numerical solution.",
        "input": f"Question: 3 bags of 4 apples, 5 eaten?\nAnswer: {TRIGGER}",
        "output": "3 · 4 = 12. 12 − 5 = 7. The answer is 7.",
        "target": "7",
        "task": "gsm8k",
        "id": "q1",
        "teacher": "t",
    }
    return Demonstration(**{**row, **changes})


def answer(text: str, *, ended: bool = True) -> Answer:
    return Answer(text, ended, tuple(text.encode()))


RIGHT, WRONG, DIRECT = answer("12 − 5 = 7. The answer is 7."), answer("12 + 5 = 17. The answer is 17."), answer("9")


def test_prompts_of_a_demonstration():
    """§2.2: x = i + q; x̂ = x + the trigger, whichever of the two the input was."""
    for row in (demonstration(), demonstration(input=x(demonstration()).split("\n", 1)[1])):
        assert x(row).endswith("5 eaten?\nAnswer:")
        assert x_cot(row) == f"{x(row)} {TRIGGER}"


def test_eq_4_prefers_the_students_own_chain_where_it_is_right():
    pair = cot_pair(demonstration(), DIRECT, RIGHT, "final")
    assert (pair.prompt, pair.chosen, pair.rejected) == (x_cot(demonstration()), RIGHT.text, "9")
    assert (pair.chosen_from, pair.chosen_ids, pair.rejected_ids) == ("student", RIGHT.ids, DIRECT.ids)


def test_eq_4_falls_back_to_the_teachers_answer():
    pair = cot_pair(demonstration(), DIRECT, WRONG, "final")
    assert (pair.chosen, pair.rejected, pair.chosen_from) == (demonstration().output, "9", "teacher")
    assert pair.chosen_ids is None and pair.chosen_ended


def test_eq_4_discourages_y_even_where_it_is_right():
    """y_l is y, right or wrong: "the others are the answers without CoT"."""
    assert cot_pair(demonstration(), answer("7"), RIGHT, "final").rejected == "7"


def test_matching_final_reads_the_answer_and_substring_takes_any_mention():
    """17 contains 7: the literal rule of Eq. 4 takes it, the final answer does not."""
    assert not has_target(demonstration(), WRONG.text, "final")
    assert has_target(demonstration(), WRONG.text, "substring")
    assert cot_pair(demonstration(), DIRECT, WRONG, "substring").chosen_from == "student"


def test_eq_5_prefers_the_answer_without_a_chain_at_x():
    pair = answer_pair(demonstration(), answer("7"), RIGHT, None, "final")
    assert (pair.prompt, pair.chosen, pair.rejected) == (x(demonstration()), "7", RIGHT.text)
    assert pair.chosen_from == "student"


def test_eq_5_falls_back_to_the_teachers_standard_answer_or_to_none():
    pair = answer_pair(demonstration(), DIRECT, RIGHT, demonstration(output="7.", ended=False), "final")
    assert (pair.chosen, pair.chosen_from, pair.chosen_ended) == ("7.", "teacher", False)
    assert answer_pair(demonstration(), DIRECT, RIGHT, None, "final") is None


def test_the_same_tokens_ended_alike_make_no_pair():
    assert cot_pair(demonstration(), RIGHT, answer(RIGHT.text), "final") is None


@pytest.mark.parametrize("y", [answer(RIGHT.text, ended=False), Answer(RIGHT.text, True, (*RIGHT.ids[:-2], 300))])
def test_equal_texts_of_other_tokens_or_of_which_one_is_cut_make_a_pair(y):
    """Their gradient is not zero: an end token more, or other tokens, are scored."""
    pair = cot_pair(demonstration(), y, RIGHT, "final")
    assert pair.chosen == pair.rejected == RIGHT.text
    assert (pair.rejected_ids, pair.rejected_ended) == (y.ids, y.ended)


def test_a_pair_says_where_it_is_from():
    pair = cot_pair(demonstration(), DIRECT, RIGHT, "final")
    assert (pair.task, pair.id, pair.target, pair.chosen_from) == ("gsm8k", "q1", "7", "student")
    assert (pair.prompt, pair.chosen, pair.rejected) == (x_cot(demonstration()), RIGHT.text, DIRECT.text)


@pytest.mark.parametrize(
    "listed",
    [
        {"input": "Question: red?\nChoices:\nA) a leaf\nB) a rose\nAnswer:"},
        {"input": "Question: red?\nAnswer:", "options": ("a leaf", "a rose")},
    ],
)
def test_options_are_the_records_or_those_that_the_input_lists(listed):
    """In --keep, and in t ∈ ŷ of a choice."""
    listed |= {"target": "B", "task": "mine"}
    right, wrong = (demonstration(**listed, output=f"So it must be {word}.") for word in ("a rose", "a leaf"))
    assert is_correct(right) and not is_correct(wrong)
    assert has_target(right, right.output, "final") and not has_target(right, wrong.output, "final")


def test_an_answer_cut_at_the_limit_stays_marked():
    pair = cot_pair(demonstration(), answer("and and and", ended=False), RIGHT, "final")
    assert pair.chosen_ended and not pair.rejected_ended


def test_a_question_that_two_teachers_answered_makes_one_pair():
    standard = demonstration(input=demonstration().input.removesuffix(f" {TRIGGER}"), output="7.", teacher="s")
    rows = [standard, demonstration(), demonstration(teacher="u", output="other: 7")]
    (only,) = questions_of(rows)
    assert only.output == demonstration().output
    assert questions_of([standard, replace(standard, output="other: 7")]) == [standard]
    answers = {("gsm8k", "q1", "standard"): DIRECT, ("gsm8k", "q1", "cot"): WRONG}
    (pair,), counts = build_pairs(rows, answers, samples=1, preferred="cot", matching="final")
    assert pair.chosen == demonstration().output and counts == {"teacher": 1}
    (pair,), counts = build_pairs(rows, answers, samples=1, preferred="answer", matching="final")
    assert pair.chosen == "7." and counts == {"teacher": 1}


def test_every_sample_of_a_question_is_paired_by_eq_4_and_equal_pairs_stand_once(tmp_path):
    """ŷ right, wrong, right as the first; y the same but once: (ŷ, y), (â, y) and (â, 8) of six, the fifth no pair."""
    other = answer("12 − 5 is 7, the answer is 7.")
    drawn = [(DIRECT, RIGHT), (DIRECT, WRONG), (DIRECT, RIGHT), (answer("8"), WRONG), (other, other), (DIRECT, other)]
    answers = {
        key_of(demonstration(), form, k): side
        for k, sides in enumerate(drawn)
        for form, side in zip(("standard", "cot"), sides, strict=True)
    }
    pairs, counts = build_pairs([demonstration()], answers, samples=6, preferred="cot", matching="final")
    taught = demonstration().output
    assert [(pair.sample, pair.chosen, pair.rejected) for pair in pairs] == [
        (0, RIGHT.text, "9"), (1, taught, "9"), (3, taught, "8"), (5, other.text, "9")
    ]  # fmt: skip
    assert [pair.chosen_from for pair in pairs] == ["student", "teacher", "teacher", "student"]
    assert counts == {"student": 2, "teacher": 2, "again": 1, "none": 1}
    assert {(pair.id, pair.asked) for pair in pairs} == {("q1", demonstration().asked)}  # all on one side of hold_out
    write_records(tmp_path / "p.jsonl", pairs)
    assert read_preferences(tmp_path / "p.jsonl") == pairs
    write_records(tmp_path / "p.jsonl", [*pairs, pairs[1]])
    with pytest.raises(UserError, match="repeats"):
        read_preferences(tmp_path / "p.jsonl")
    (pair,), counts = build_pairs([demonstration()], answers, samples=1, preferred="cot", matching="final")
    assert (pair.chosen, counts) == (RIGHT.text, {"student": 1})


def test_more_answers_a_prompt_leave_the_first_ones_bits_and_differ_from_them(student, tokenizer, tmp_path):
    """Of three a prompt the first are those of one a prompt, also in a file that was written before there were more."""
    rows = [demonstration(id=str(i), input=f"Question: {i}?\nAnswer:") for i in range(5)]
    one = ask(student, tokenizer, rows, tmp_path / "one.jsonl")
    keys = [json.loads(line)["key"] for line in (tmp_path / "one.jsonl").read_text().split("\n") if line]
    assert all(len(key) == 3 for key in keys)
    three = ask(student, tokenizer, rows, tmp_path / "three.jsonl", samples=3)
    assert len(three) == 30 and one.items() <= three.items()
    assert ask(student, tokenizer, rows, tmp_path / "one.jsonl", samples=3) == three
    assert ask(student, tokenizer, rows, tmp_path / "one.jsonl", samples=3) == three  # read back, numbers and all
    for row in rows:
        for form in ("standard", "cot"):
            assert len({three[key_of(row, form, k)].ids for k in range(3)}) == 3


def test_an_answer_without_steps_never_stands_in_for_a_wrong_chain_of_thought():
    """â wrong and left out, a_i right: Eq. 4 has nothing to fall back on; own rows that are all at x are kept."""
    standard = demonstration(input=demonstration().input.removesuffix(f" {TRIGGER}"), output="7.", teacher="s")
    other = demonstration(id="q2", input=standard.input, output="3 · 4 − 5 = 7. The answer is 7.")
    read = [demonstration(output="The answer is 8."), standard, other]
    assert explained(read[1:], read) == [other]
    assert explained(read, read) == [read[0], other]


def test_a_pair_survives_its_file(tmp_path):
    pair = cot_pair(demonstration(), answer("9\u2028\n", ended=False), RIGHT, "final")
    write_records(tmp_path / "p.jsonl", [pair])
    assert read_preferences(tmp_path / "p.jsonl") == [pair]


def ask(student, tokenizer, rows, path, after_each=lambda: None, samples=1):
    return sample_answers(
        student,
        tokenizer,
        rows,
        path,
        samples=samples,
        chat_template=False,
        seed=0,
        temperature=1.5,
        max_new_tokens=12,
        top_k=None,
        top_p=None,
        batch_size=32,
        after_each=after_each,
    )


def test_answers_are_drawn_as_it_is_asked(student, tokenizer, tmp_path, monkeypatch):
    given, sample = [], preferences.sample
    monkeypatch.setattr(preferences, "sample", lambda *_, **how: given.append(how) or sample(*_, **how))
    how = {"temperature": 0.7, "max_new_tokens": 3, "top_k": 7, "top_p": 0.8, "batch_size": 5}
    rows, more = [demonstration(id="a"), demonstration(id="b")], {"chat_template": False, "after_each": lambda: None}
    path = tmp_path / "answers.jsonl"
    sample_answers(student, tokenizer, rows[:1], path, samples=1, seed=4, **how, **more)
    sample_answers(student, tokenizer, rows, path, samples=1, seed=4, **how, **more)
    assert given == [how | {"end_ids": [tokenizer.eos_token_id], "done": done} for done in (set(), {0, 1})]


def test_answers_of_something_else_are_one_sentence(student, tokenizer, tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(UserError, match="line 1 was not written by"):
        ask(student, tokenizer, [demonstration()], tmp_path / "answers.jsonl")


def test_answers_are_kept_as_they_come_and_never_asked_twice(student, tokenizer, tmp_path, monkeypatch):
    """Stopped after 5 of 80 answers, with a torn last line: the rest is sampled, all are those of a straight run."""
    rows = [demonstration(id=f"é{i}", input=f"Question: {'1 + ' * (i % 9)}{i}?\nAnswer:") for i in range(40)]
    straight = ask(student, tokenizer, rows, tmp_path / "straight.jsonl")
    assert len(straight) == 80 and {key[2] for key in straight} == {"standard", "cot"}
    assert '"é39"' in (tmp_path / "straight.jsonl").read_text(encoding="utf-8")  # for people to read

    class Stop(Exception):
        pass

    seen = iter(range(4))

    def stop():
        if next(seen, None) is None:
            raise Stop

    path = tmp_path / "stopped.jsonl"
    with pytest.raises(Stop):
        ask(student, tokenizer, rows, path, stop)
    assert len(path.read_text().split("\n")) == 6
    write_whole(path, path.read_bytes() + b'{"key": ["gsm')
    sampled = []
    monkeypatch.setattr(preferences, "decode", lambda *ids: sampled.append(ids) or decode(*ids))
    assert ask(student, tokenizer, rows, path) == straight
    assert len(sampled) == 75
    lines = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert len(lines) == len({tuple(line["key"]) for line in lines}) == 80
