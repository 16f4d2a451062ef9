"""`annotate --from FILE`: answers that are there already become graded demonstrations."""

import json

import pytest

from selfrefine import annotate
from selfrefine.records import read_demonstrations
from selfrefine.tasks.splits import questions

ICE = {"question": "What is cold?", "options": ["fire", "ice"], "target": "B"}
OWN = [
    {"id": "a", **ICE},
    {"id": "b", **ICE, "options": ["snow", "tea"], "target": "A"},
    {"id": "c", "question": "2 + 3?", "target": "5"},
    {"id": "d", "question": "2 + 3?", "target": "5"},
    {"id": "e", "question": "  3 + 3? ", "target": "6"},
]


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def given(command, tmp_path):
    """Annotates OWN from answers; gives the exit code and the demonstrations by id."""

    def start(rows, *more) -> tuple[int, dict[str, dict]]:
        flags = ["--questions", write(tmp_path / "own.jsonl", OWN), "--from", write(tmp_path / "answers.jsonl", rows)]
        output = tmp_path / "out.jsonl"
        code = command(annotate, *flags, "--output", output, *more)
        made = map(json.loads, output.read_text().split("\n")[:-1]) if output.exists() else ()
        return code, {row["id"]: row for row in made}

    return start


def test_a_row_names_its_question_by_words_by_options_by_input_or_by_id(given, tmp_path, capsys):
    code, made = given(
        [
            {"question": "What is cold?", "options": ["snow", "tea"], "answer": "Snow melts, so the answer is A."},
            {"id": "a", "response": "The answer is A."},
            {"instruction": "…", "input": "Question: 3 + 3?\nAnswer: Let's think step by step", "output": "It is 6."},
            {"question": "2 + 3?", "text": "The answer is 5.", "ended": False},
            {"question": "2 + 3?", "text": "The answer is 4."},
            {"question": "2 + 3?", "text": "a third answer to two questions"},
            {"question": "Who?", "text": "nobody asks"},
        ],
        "--teacher",
        "they",
    )
    assert code == 0
    assert {key: (row["read"], row["correct"]) for key, row in made.items()} == {
        "a": ("A", False),
        "b": ("A", True),
        "c": ("5", True),
        "d": ("4", False),
        "e": ("6", True),
    }
    assert [made["c"]["ended"], made["d"]["ended"]] == [False, True]
    assert {row["teacher"] for row in made.values()} == {"they"}
    assert made["e"]["input"] == "Question: 3 + 3?\nAnswer: Let's think step by step"
    assert "2 rows answer no question that is asked; 0 have no answer there" in capsys.readouterr().out
    assert len(read_demonstrations([tmp_path / "out.jsonl"])) == 5


def test_an_id_tells_questions_of_the_same_words_apart_and_a_task_those_of_the_same_id(given):
    code, made = given(
        [{"id": "b", "question": "What is cold?", "answer": "A"}, {"id": "c", "task": "x", "answer": "5"}]
    )
    assert code == 0
    assert list(made) == ["b"]
    assert made["b"]["teacher"] == "answers"  # the file's name, where no --teacher is given


def test_started_again_it_adds_what_is_new_and_refuses_a_file_that_changed(given, capsys):
    rows = [{"id": "c", "answer": "5"}]
    assert given(rows)[0] == 0
    assert given(rows) == (0, given(rows)[1])
    capsys.readouterr()
    code, made = given([*rows, {"id": "e", "answer": "6"}])
    assert code == 2
    assert list(made) == ["c"]
    assert "was made with from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "c", "answer": "5"}, {"id": "c"}], "line 2 has no answer"),
        ([{"answer": "5"}], "line 1 does not say what it answers"),
        (
            [{"question": "What is cold?", "answer": "A"}],
            "line 1 answers a question that is asked with several",
        ),
        ([{"question": "Who?", "answer": "A"}], "answers none of the questions"),
        ([{"id": "c", "answer": "5\0"}], "line 1 has a NUL"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(given, rows, said, capsys):
    code, _ = given(rows)
    assert code == 2
    assert said in capsys.readouterr().err


def test_somebody_must_answer_and_not_two(command, tmp_path, capsys):
    flags = ["--task", "pocket", "--output", tmp_path / "out.jsonl"]
    assert command(annotate, *flags) == 2
    assert command(annotate, *flags, "--from", tmp_path / "a", "--server", "http://localhost:1/v1") == 2
    assert "--from FILE, which asks nobody" in capsys.readouterr().err


def test_what_annotate_wrote_is_taken_back_to_the_letter(command, tmp_path):
    flags = ["--task", "pocket-choice", "--limit", 30, "--seed", 3]
    assert command(annotate, *flags, "--teacher", "pocket", "--output", tmp_path / "one.jsonl") == 0
    more = ["--from", tmp_path / "one.jsonl", "--teacher", "pocket"]
    assert command(annotate, *flags, *more, "--output", tmp_path / "two.jsonl") == 0
    files = [(tmp_path / f"{name}.jsonl").read_text().split("\n")[:-1] for name in ("one", "two")]
    one, two = (list(map(json.loads, lines)) for lines in files)
    assert len(one) == len(questions("pocket-choice", "train", 3)[:30])
    for row in (*one, *two):
        del row["settings"]
    assert one == two
