"""Which questions train and which are evaluated, against Table 8, App. C.1 and Figure 5."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrefine.errors import UserError
from selfrefine.records import Demonstration, Preference
from selfrefine.tasks.prompts import TRIGGER
from selfrefine.tasks.questions import Question
from selfrefine.tasks.splits import fraction_of, hold_out, questions

# Table 8, corrected where the data say otherwise: SIQA's validation has 1954 rows, GSM8K's test 1319
CLASSES = {"obqa": (4, 1000, 500), "csqa": (5, 800, 1221), "piqa": (2, 2000, 1838), "siqa": (3, 1330, 1954)}
OPEN = {"gsm8k": (4000, 1319), "multiarith": (420, 180)}


@pytest.mark.parametrize("task", CLASSES)
def test_table_8_of_the_choice_tasks(task: str, benchmarks: Path) -> None:
    classes, each, tested = CLASSES[task]
    train = questions(task, "train", 0, benchmarks)
    assert Counter(question.target for question in train) == dict.fromkeys("ABCDE"[:classes], each)
    assert len({question.id for question in train}) == classes * each
    assert len({question.target for question in train[:40]}) == classes  # mixed, so that --limit keeps all classes
    test = questions(task, "test", 0, benchmarks)
    assert len(test) == tested
    assert test == questions(task, "test", 1, benchmarks)


@pytest.mark.parametrize("task", OPEN)
def test_table_8_of_the_open_tasks(task: str, benchmarks: Path) -> None:
    assert (len(questions(task, "train", 0, benchmarks)), len(questions(task, "test", 0, benchmarks))) == OPEN[task]


def test_the_training_sample_is_the_seeds(benchmarks: Path) -> None:
    for task in ("obqa", "gsm8k"):
        first = questions(task, "train", 0, benchmarks)
        assert first == questions(task, "train", 0, benchmarks)
        other = questions(task, "train", 1, benchmarks)
        assert {question.id for question in first} != {question.id for question in other}


def test_the_sample_of_a_seed_never_changes(tmp_path: Path) -> None:
    """Pinned ids: another machine, process or release must draw the same questions."""
    rows = [{"question": f"{n}?", "answer": f"#### {n}"} for n in range(5000)]
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    drawn = [question.id for question in questions("gsm8k", "train", 7, tmp_path)]
    assert drawn[:4] == ["train-2890", "train-4834", "train-1882", "train-4052"]


@pytest.mark.parametrize(
    ("task", "said"),
    [("obqa", "7 of 500"), ("csqa", None), ("piqa", "1 of 1838"), ("gsm8k", None), ("multiarith", "6 of 180")],
)
def test_which_test_questions_are_also_in_train_is_said(
    task: str, said: str | None, benchmarks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions(task, "test", 0, benchmarks)
    told = capsys.readouterr().err
    assert f"{task} test: {said} questions are also in train" in told if said else "also in train" not in told


def test_a_question_is_the_same_with_its_options_in_another_order_and_not_with_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(stem: str, *texts: str) -> dict:
        choices = {"text": list(texts), "label": ["A", "B", "C"]}
        return {"question_stem": stem, "choices": choices, "answerKey": "A"}

    (tmp_path / "obqa").mkdir()
    splits = {
        "train": [row("hot?", "sun", "ice", "sea"), row("wet?", "sun", "ice", "sea")],
        "validation": [row("hot?", "ice", "sea", "sun"), row("wet?", "sun", "ice", "air"), row("dry?", "a", "b", "c")],
    }
    for name, rows in splits.items():
        (tmp_path / "obqa" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    questions("obqa", "test", 0, tmp_path)
    assert "obqa test: 1 of 3 questions are also in train, their options in this" in capsys.readouterr().err
    (tmp_path / "obqa" / "train.jsonl").unlink()
    assert len(questions("obqa", "test", 0, tmp_path)) == 3
    assert "train cannot be read" in capsys.readouterr().err


def test_a_quarters_questions_among_the_others_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of eight rows, all one question, two train and six are evaluated."""
    rows = [{"problem": "1 + 1?", "solution": "\\boxed{2}"}] * 8
    (tmp_path / "math").mkdir()
    (tmp_path / "math" / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert len(questions("math", "test", 0, tmp_path)) == 6
    assert "math test: 6 of 6 questions are also in train" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["math", "mmlu"])
@pytest.mark.parametrize("seed", [0, 3])
def test_figure_5_a_quarter_trains_and_the_rest_is_evaluated(task: str, seed: int, benchmarks: Path) -> None:
    train = {question.id for question in questions(task, "train", seed, benchmarks)}
    test = {question.id for question in questions(task, "test", seed, benchmarks)}
    assert not train & test
    assert len(train) == (len(train) + len(test)) // 4
    assert train != {question.id for question in questions(task, "train", seed + 1, benchmarks)}


def test_a_smaller_folder_gives_balanced_classes_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"goal": f"goal {n}", "sol1": "x", "sol2": "y", "label": int(n < 3)} for n in range(10)]
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert Counter(question.target for question in questions("piqa", "train", 0, tmp_path)) == {"A": 3, "B": 3}
    assert "3 questions per class, not 2000" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["pocket", "pocket-choice"])
def test_the_pocket_tasks_need_no_data(task: str) -> None:
    train, test = questions(task, "train", 0), questions(task, "test", 0)
    assert {question.task for question in train + test} == {task}
    assert not {question.question for question in train} & {question.question for question in test}


def test_unknown_tasks_and_splits_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'unknown task "obka": the tasks are obqa, .*pocket'):
        questions("obka", "test", 0, tmp_path)
    with pytest.raises(UserError, match='no split "validation"'):
        questions("obqa", "validation", 0, tmp_path)


def rows_of(count: int) -> list[Question]:
    return [Question("t", f"q{n}", f"{n}?", "1") for n in range(count)]


@given(st.integers(0, 200), st.integers(0, 5), st.randoms(use_true_random=False))
def test_c1_fractions_are_nested_and_do_not_depend_on_the_order(count: int, seed: int, random: object) -> None:
    rows = rows_of(count)
    quarter, half, most, whole = (fraction_of(rows, fraction, seed) for fraction in (0.25, 0.5, 0.75, 1.0))
    wanted = [max(round(f * count), min(count, 1)) for f in (0.25, 0.5, 0.75, 1)]  # never nothing of something
    assert [len(part) for part in (quarter, half, most, whole)] == wanted
    assert whole[: len(most)] == most
    assert most[: len(half)] == half
    assert half[: len(quarter)] == quarter
    mixed = list(rows)
    random.shuffle(mixed)
    assert fraction_of(mixed, 0.5, seed) == half


def test_c1_the_whole_is_3000() -> None:
    sizes = [len(fraction_of(rows_of(4000), fraction, 0)) for fraction in (0.25, 0.5, 0.75, 1.0)]
    assert sizes == [750, 1500, 2250, 3000]


def demonstrations(count: int, per_question: int = 1) -> list[Demonstration]:
    """Rows with ids of their own, `per_question` to a prompt, every other one without the trigger."""
    inputs = [f"Question: {n // per_question}?\nAnswer:{f' {TRIGGER}' if n % 2 else ''}" for n in range(count)]
    return [Demonstration("Answer.", asked, "1", "1", id=f"line {n}") for n, asked in enumerate(inputs)]


@given(st.integers(2, 60), st.integers(1, 4), st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 5))
def test_a_held_out_prompt_keeps_all_its_rows_on_one_side(
    count: int, per_question: int, fraction: float, seed: int
) -> None:
    rows = demonstrations(count, per_question)
    train, validation = hold_out(rows, fraction, seed)
    assert sorted(train + validation, key=rows.index) == rows
    assert not {row.asked for row in train} & {row.asked for row in validation}
    asked = len({row.input.split("?")[0] for row in rows})
    held = max(round(fraction * asked), 1 if fraction else 0)
    assert len({row.asked for row in validation}) == min(held, asked - 1)
    assert (train, validation) == hold_out(rows, fraction, seed)
    assert [row for row in rows if row in train] == train


@given(st.integers(2, 60), st.sampled_from([0.1, 0.5]), st.integers(0, 5), st.randoms(use_true_random=False))
def test_pairs_validate_on_the_questions_that_the_demonstrations_would(
    count: int, fraction: float, seed: int, random: object
) -> None:
    """Phase 1's x̂ (or x) and Eq. 4's x̂, Eq. 5's x of one question are on one side, whichever pairs there are."""
    rows = demonstrations(count)
    _, validation = hold_out(rows, fraction, seed)
    made = [
        Preference(f"{row.asked}{f' {TRIGGER}' if random.random() < 0.5 else ''}", "a", "b", id=row.id)
        for row in random.sample(rows, random.randint(1, count))
    ]
    train, held = hold_out(made, fraction, seed, among=rows)
    assert {pair.id for pair in held} == {row.id for row in validation} & {pair.id for pair in made}
    assert {pair.id for pair in train} == {pair.id for pair in made} - {pair.id for pair in held}


@given(st.integers(3, 60), st.integers(0, 5))
def test_a_row_less_changes_the_side_of_one_other_at_most(count: int, seed: int) -> None:
    rows = demonstrations(count)
    held = [{row.id for row in hold_out(some, 0.3, seed)[1]} for some in (rows, rows[1:])]
    assert len((held[0] ^ held[1]) - {rows[0].id}) <= 1


def test_the_questions_held_out_are_the_seeds() -> None:
    """Pinned: another machine or release must hold out the same ones, or its `hold_out` setting must change."""
    held = [[row.id for row in hold_out(demonstrations(40), 0.1, seed)[1]] for seed in (0, 1)]
    assert held == [["line 11", "line 19", "line 22", "line 38"], ["line 11", "line 17", "line 25", "line 27"]]


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5])
def test_a_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(UserError, match="--fraction"):
        fraction_of(rows_of(4), fraction, 0)
    with pytest.raises(UserError, match="--validation-fraction"):
        hold_out(demonstrations(4), fraction or 1, 0)
