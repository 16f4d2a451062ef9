"""Loading the benchmarks: every real row, every oddity of them, and what is said of a row that is wrong."""

import json
from pathlib import Path

import pytest

from selfrefine.errors import UserError
from selfrefine.tasks.benchmarks import SOURCES, clean, load
from selfrefine.tasks.own import read_questions
from selfrefine.tasks.prompts import options_in, task_input
from selfrefine.tasks.questions import LETTERS, Question

# rows of the real folder's labelled splits; math and mmlu are samples, of math a train row may lack its answer
COUNTS = {
    ("obqa", "train"): 4957,
    ("obqa", "validation"): 500,
    ("obqa", "test"): 500,
    ("csqa", "train"): 9741,
    ("csqa", "validation"): 1221,
    ("piqa", "train"): 16113,
    ("piqa", "validation"): 1838,
    ("siqa", "train"): 33410,
    ("siqa", "validation"): 1954,
    ("gsm8k", "train"): 7473,
    ("gsm8k", "test"): 1319,
    ("multiarith", "train"): 420,
    ("multiarith", "test"): 180,
}

# one row of each benchmark with the Hub's columns, of our own making, and the question it is
ROWS = {
    "obqa": (
        {
            "id": "7-1",
            "question_stem": "Snow is ",
            "choices": {"text": ["hot", "cold "], "label": ["A", "B"]},
            "answerKey": "B",
        },
        Question("obqa", "7-1", "Snow is", "B", ("hot", "cold")),
    ),
    "csqa": (
        {
            "id": "ab",
            "question": "Where is snow?",
            "question_concept": "snow",
            "choices": {"label": ["A", "B", "C"], "text": ["sea", "alps", "oven"]},
            "answerKey": "B",
        },
        Question("csqa", "ab", "Where is snow?", "B", ("sea", "alps", "oven")),
    ),
    "piqa": (
        {"goal": "melt snow\r", "sol1": " heat it", "sol2": "cool it", "label": 0},
        Question("piqa", "train-0", "melt snow", "A", ("heat it", "cool it")),
    ),
    "siqa": (
        {
            "context": "Kim fell.",
            "question": "How did Kim feel?",
            "answerA": "hurt",
            "answerB": "rich",
            "answerC": "tall",
            "label": "3",
        },
        Question("siqa", "train-0", "Kim fell. How did Kim feel?", "C", ("hurt", "rich", "tall")),
    ),
    "gsm8k": (
        {"question": "2 plus 1,998?", "answer": "It is <<2+1998=2000>>2,000.\n#### 2,000"},
        Question("gsm8k", "train-0", "2 plus 1,998?", "2000"),
    ),
    "multiarith": ({"question": " 2 plus 3? ", "final_ans": "5"}, Question("multiarith", "train-0", "2 plus 3?", "5")),
    "math": (
        {"problem": "Half?", "level": "Level 1", "type": "Algebra", "solution": "It is $\\boxed{\\frac12}$."},
        Question("math", "train-0", "Half?", "\\frac12"),
    ),
    "mmlu": (
        {"question": "Odd?", "subject": "mathematics", "choices": [" 2", "3", "4", "None"], "answer": 1},
        Question("mmlu", "train-0", "Odd?", "B", ("2", "3", "4", "None")),
    ),
}


def write(folder: Path, task: str, *rows: dict, split: str = "train") -> Path:
    """A --data folder with one split of one task; the same folder may get more."""
    (folder / task).mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / task / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.mark.parametrize("task", SOURCES)
def test_a_row_with_the_hubs_columns_becomes_its_question(task: str, tmp_path: Path) -> None:
    row, question = ROWS[task]
    assert load(task, "train", write(tmp_path, task, row)) == [question]


@pytest.mark.parametrize("task", SOURCES)
def test_a_missing_column_is_named_with_file_and_line(task: str, tmp_path: Path) -> None:
    row, _ = ROWS[task]
    for column in SOURCES[task].columns:
        without = {name: value for name, value in row.items() if name != column}
        folder = write(tmp_path, task, row, without)
        with pytest.raises(UserError, match=rf'{task}/train.jsonl line 2 has no "{column}"'):
            load(task, "train", folder)


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ("piqa", {"label": 2}),
        ("siqa", {"label": "4"}),
        ("siqa", {"label": "0"}),
        ("mmlu", {"answer": 4}),
        ("obqa", {"answerKey": "E"}),
        ("csqa", {"answerKey": "Z"}),
    ],
)
def test_pitfall_p14_a_label_out_of_range_is_refused(task: str, wrong: dict, tmp_path: Path) -> None:
    row, _ = ROWS[task]
    with pytest.raises(UserError, match=rf"{task}/train.jsonl line 2 has the label .* out of range"):
        load(task, "train", write(tmp_path, task, row, row | wrong))


@pytest.mark.parametrize(("task", "hidden"), [("piqa", {"label": -1}), ("csqa", {"answerKey": ""})])
def test_pitfall_p14_a_hidden_label_is_never_the_last_option(task: str, hidden: dict, tmp_path: Path) -> None:
    row, _ = ROWS[task]
    with pytest.raises(UserError, match=rf"{task}/test.jsonl line 1 has no label.*validation split"):
        load(task, "test", write(tmp_path, task, row | hidden, split="test"))


@pytest.mark.parametrize("task", ["piqa", "csqa"])
def test_pitfall_p14_the_real_test_splits_without_labels_are_refused(task: str, benchmarks: Path) -> None:
    with pytest.raises(UserError, match=r"line 1 has no label"):
        load(task, "test", benchmarks)


@pytest.mark.parametrize(
    ("task", "wrong"),
    [
        ("piqa", {"goal": 5}),
        ("piqa", {"label": "x"}),
        ("obqa", {"choices": ["hot"]}),
        ("gsm8k", {"answer": "#### two"}),
    ],
)
def test_a_row_of_another_shape_is_named_with_file_and_line(task: str, wrong: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{task}/train.jsonl line 1 "):
        load(task, "train", write(tmp_path, task, ROWS[task][0] | wrong))


def test_unknown_tasks_folders_splits_and_empty_files_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='unknown task "obka": the benchmarks are obqa, csqa'):
        load("obka", "train", tmp_path)
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        load("obqa", "train", tmp_path / "nowhere")
    folder = write(tmp_path, "obqa")
    with pytest.raises(UserError, match=r"splits of obqa in .*: train"):
        load("obqa", "test", folder)
    with pytest.raises(UserError, match="obqa has an empty train split"):
        load("obqa", "train", folder)


def test_selfrefine_data_is_the_folder_where_none_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFREFINE_DATA", str(write(tmp_path, "gsm8k", ROWS["gsm8k"][0])))
    assert load("gsm8k", "train") == [ROWS["gsm8k"][1]]


def test_pitfall_p17_the_hub_is_asked_for_repositories_without_loading_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(hub: str, config: str, *, split: str, revision: str | None) -> list[dict]:
        asked.append((hub, config, split, revision))
        task = next(task for task, source in SOURCES.items() if source.hub == hub)
        return [ROWS[task][0]]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.delenv("SELFREFINE_DATA", raising=False)
    for task, (_, question) in ROWS.items():
        asked.clear()
        found = load(task, "train")
        assert found[0] == question
        assert len(found) == len(asked) == (7 if task == "math" else 1)  # MATH has a config a subject
        assert not {hub for hub, *_ in asked} & {"piqa", "ybisk/piqa", "social_i_qa", "allenai/social_i_qa"}
    assert all("/" in source.hub for source in SOURCES.values())


def test_pitfall_p17_what_the_hub_fails_with_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*_: str, **__: str | None) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found piqa.py\nand more")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.delenv("SELFREFINE_DATA", raising=False)
    with pytest.raises(UserError, match=r"baber/piqa .*no longer supported.*--data") as caught:
        load("piqa", "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", COUNTS)
def test_every_real_row_is_a_question_whose_prompt_gives_its_options_back(
    key: tuple[str, str], benchmarks: Path
) -> None:
    questions = load(*key, benchmarks)
    assert len(questions) == COUNTS[key]
    assert len({question.id for question in questions}) == len(questions)
    for question in questions:
        assert question.target in LETTERS[: len(question.options)] if question.options else question.target
        for text in (question.question, *question.options):
            assert text
            assert text == clean(text)
        assert options_in(task_input(question, cot=True)) == question.options
        assert options_in(task_input(question, cot=False)) == question.options


@pytest.mark.parametrize(("task", "splits"), [("math", ("train", "test")), ("mmlu", ("dev", "validation", "test"))])
def test_the_samples_of_math_and_mmlu_load_whole(task: str, splits: tuple[str, ...], benchmarks: Path) -> None:
    for split in splits:
        lines = (benchmarks / task / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")
        questions = load(task, split, benchmarks)
        assert len(questions) == sum(map(bool, lines))
        for question in questions:
            assert options_in(task_input(question, cot=True)) == question.options


def test_a_line_separator_inside_a_row_does_not_end_it(tmp_path: Path) -> None:
    row = {"question": "One\u2028two?", "answer": "#### 2"}
    assert load("gsm8k", "train", write(tmp_path, "gsm8k", row))[0].question == "One\ntwo?"


def test_the_real_row_with_a_line_separator(benchmarks: Path) -> None:
    raw = (benchmarks / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").split("\n")[2381]
    assert "\u2028" in raw
    assert load("gsm8k", "train", benchmarks)[2381].target == raw.rpartition("#### ")[2].rstrip('"}')


def test_maths_empty_boxes_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, question = ROWS["math"]
    empty = row | {"solution": "It is $\\boxed{}$."}
    assert load("math", "train", write(tmp_path, "math", row, empty, empty)) == [question]
    assert "math train: 2 rows without an answer, left out" in capsys.readouterr().err


def test_doubled_options_and_rows_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row, _ = ROWS["piqa"]
    load("piqa", "train", write(tmp_path, "piqa", row, row, row | {"sol2": "heat it"}))
    said = capsys.readouterr().err
    assert "1 questions with two equal options" in said
    assert "1 questions that occur before" in said
    load("piqa", "train", write(tmp_path, "piqa", row))
    assert capsys.readouterr().err == ""


# own questions


def own(folder: Path, *rows: dict, name: str = "mine.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_own_questions_with_and_without_options(tmp_path: Path) -> None:
    path = own(
        tmp_path,
        {"question": " 2 plus 3? ", "target": 5},
        {"question": "Hot?", "options": ["ice", "fire "], "target": "B", "id": "q", "task": "heat"},
        {"question": "Cold?", "options": ["ice", "fire"], "target": "ice"},
        {"question": "None?", "target": 0, "id": 0},
        {"question": "Capital?", "answer": "Paris"},
        {"question": "Hot?", "options": ["ice", "fire"], "answer": "B"},
    )
    assert read_questions(path) == [
        Question("mine", "1", "2 plus 3?", "5"),
        Question("heat", "q", "Hot?", "B", ("ice", "fire")),
        Question("mine", "3", "Cold?", "A", ("ice", "fire")),
        Question("mine", "0", "None?", "0"),
        Question("mine", "5", "Capital?", "Paris"),
        Question("mine", "6", "Hot?", "B", ("ice", "fire")),
    ]


@pytest.mark.parametrize("task", SOURCES)
def test_own_questions_in_a_benchmarks_columns(task: str, tmp_path: Path) -> None:
    row, question = ROWS[task]
    (found,) = read_questions(own(tmp_path, row | {"task": task}))
    assert (found.task, found.question, found.target) == (task, question.question, question.target)
    assert found.options == question.options


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Hot?"}, 'needs "question" and "target"'),
        ({"target": "5"}, 'has no "question" text'),
        ({"question": "Hot?", "target": " "}, "has no answer"),
        ({"question": "Hot?", "target": None}, "has no answer"),
        ({"question": "Hot?", "target": float("nan")}, '"target" must be a text or a number'),
        ({"question": "Hot?", "target": True}, '"target" must be'),
        ({"question": "Hot?", "target": ["5"]}, '"target" must be'),
        ({"question": "Hot?", "target": "5", "task": {"a": 1}}, '"task" must be'),
        ({"question": "Hot?", "target": "5", "id": False}, '"id" must be'),
        ({"question": "Hot? \ud800", "target": "5"}, "surrogate"),
        ({"question": "Hot?", "target": "5", "id": "\ud800"}, "surrogate"),
        ({"question": "Hot \ud800?", "answer": "So #### 5"}, "surrogate"),
        ({"question": "Hot?", "options": "ice", "target": "A"}, '"options" must be a list'),
        ({"question": "Hot?", "options": ["ice"], "target": "A"}, "has 1 options"),
        ({"question": "Hot?", "options": ["ice", "fire"], "target": "C"}, "neither a letter"),
        ({"question": "Hot?", "options": ["ice", "ice"], "target": "ice"}, "neither a letter"),
        ({"goal": "melt", "sol1": "a", "sol2": "b", "label": -1}, "has no label"),
        ({"problem": "Half?", "solution": "\\boxed{}"}, "has no answer"),
        ({"question": "Good?", "target": "1", "id": "q"}, 'repeats the id "q"'),
    ],
)
def test_a_wrong_own_row_is_named_with_file_and_line(row: dict, said: str, tmp_path: Path) -> None:
    path = own(tmp_path, {"question": "Good?", "target": "1", "id": "q"}, row)
    with pytest.raises(UserError, match=said) as caught:
        read_questions(path)
    assert f"{path} line 2" in str(caught.value)


def test_an_empty_file_of_own_questions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no questions"):
        read_questions(own(tmp_path))


def test_the_columns_and_repositories_are_those_of_the_hubs_schema(benchmarks: Path) -> None:
    for task, source in SOURCES.items():
        schema = json.loads((benchmarks / task / "schema.json").read_text(encoding="utf-8"))
        assert set(source.columns) <= set(schema["features"])
        assert source.revision is None or len(source.revision) == 40
        assert source.hub == schema["hub_id"] or task == "siqa"
