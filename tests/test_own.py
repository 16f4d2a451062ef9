"""Experiments on what the user has: a recipe, demonstrations, own questions with their answers."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import evaluate
import train_dpo
import train_it
from selfrefine import annotate
from selfrefine.errors import UserError
from selfrefine.experiments import __main__ as experiments
from selfrefine.experiments import recipes, run
from selfrefine.experiments.plans import commands, plan
from selfrefine.experiments.settings import model, own_questions, settings
from selfrefine.files import read_lines
from selfrefine.tasks.own import read_questions
from selfrefine.tasks.splits import questions
from tests.loopback import Loopback, completion

PAPER = settings(recipes.read("paper"))
FAST = {
    "about": "A random student of two layers.",
    "experiments": {"--seeds": [0]},
    "annotate": {"--max-new-tokens": 20},
    "train_it": {"--device": "cpu", "--dtype": "float32", "--lora-rank": 4, "--batch-size": 8, "--epochs": 1},
    "train_dpo": {"--device": "cpu", "--dtype": "float32", "--batch-size": 8, "--epochs": 1, "--max-new-tokens": 4},
    "evaluate": {"--device": "cpu", "--dtype": "float32", "--max-new-tokens": 4},
}


def write(path: Path, rows: list[dict]) -> Path:
    own_questions.cache_clear()  # they are read once in a process
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(numbers: range, task: str = "") -> list[dict]:
    rows = [{"question": f"What is {n} + {n % 7}?", "target": str(n + n % 7)} for n in numbers]
    return [row | {"task": task} for row in rows] if task else rows


@pytest.fixture
def own(tmp_path):
    """40 own questions: 30 to train on, and 10 of two tasks to test on."""
    train = write(tmp_path / "train.jsonl", sums(range(30)))
    test = write(tmp_path / "test.jsonl", [*sums(range(40, 46), "small"), *sums(range(900, 904), "large")])
    return ["--train", train, "--test", test]


@pytest.fixture
def in_this_process(command, monkeypatch):
    """Runs the steps of an experiment without a process for each."""
    programs = {"selfrefine.annotate": annotate, "train_it.py": train_it, "train_dpo.py": train_dpo}
    programs |= {"evaluate.py": evaluate}

    def call(step) -> int:
        words = [word for word in step.words_now if word != "-m"]
        return command(programs[Path(words[0]).name], *words[1:])

    execute = run.execute
    monkeypatch.setattr(experiments, "execute", lambda steps: execute(steps, call))


def test_own_questions_a_served_teacher_and_a_student_give_the_whole_of_it(
    own, command, in_this_process, tmp_path, student_folder, monkeypatch
):
    """Teacher's accuracy, both phases, control, table and report; started again, nothing runs."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def teach(request):
        left, right = map(int, re.search(r"What is (\d+) \+ (\d+)\?", request.prompt).groups())
        return completion(f"{left} + {right} = {left + right}. The answer is {left + right + (left % 10 == 3)}.")

    flags = ["own", *own, "--student", student_folder, "--teacher", "theirs", "--output", tmp_path / "out"]
    flags += ["--recipe", write(tmp_path / "fast.json", [FAST])]
    with Loopback(teach) as server:
        flags += ["--server", server.url]
        assert command(experiments, *flags) == 0
        assert len(server.requests) == 40
        assert command(experiments, *flags) == 0
        assert len(server.requests) == 40
    folder = tmp_path / "out" / "reports" / "own"
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["commands"] == {"all": 9, "done": 9}
    rows = {row["method"]: row["cells"] for row in content["rows"]}
    methods = ["Baseline", "Baseline CoT", "Instruction-tuning", "+ Self-refine", "Instruction-tuning, equal compute"]
    assert list(rows) == [*methods, "Teacher CoT"]
    assert {task: cell["ours"]["mean"] for task, cell in rows["Teacher CoT"].items()} == {
        "small": pytest.approx(100 * 5 / 6),  # 43 + 1 is wrong
        "large": 75,
    }
    assert all(cell["ours"] for cells in rows.values() for cell in cells.values())
    (phase_1, control) = (run for run in content["training"] if run["phase"] == 1)
    assert phase_1["steps"] < control["steps"]
    assert "A random student of two layers." in (folder / "report.md").read_text(encoding="utf-8")
    assert "What is 40 + 5?" in (folder / "report.html").read_text(encoding="utf-8")


def test_own_lacks_nothing_or_says_what(own, command, tmp_path, capsys):
    full = ["own", *own, "--student", "m", "--teacher", "t", "--plan"]
    assert command(experiments, *full) == 0
    assert "large" not in (printed := capsys.readouterr().out)  # one command for all tasks of a file
    assert "output in runs/own\n" in printed
    assert printed.count(f"--questions {own[1]}") == 1
    assert printed.count(f"--questions {own[3]}") == 1 + 4  # the teacher's, and every stage's
    for without, said in ((1, "--train FILE and --test FILE"), (3, "--train FILE"), (5, "--student"), (7, "--teacher")):
        assert command(experiments, *full[:without], *full[without + 2 :]) == 2
        assert said in capsys.readouterr().err
    assert command(experiments, "table1", *own, "--plan") == 2
    assert "own, and no other experiment" in capsys.readouterr().err
    write(own[1], [*sums(range(30)), *sums(range(40, 42))])
    assert command(experiments, *full) == 0
    assert "2 questions of" in capsys.readouterr().out
    write(own[3], [{"question": "?"}])
    assert command(experiments, *full) == 2
    assert "test.jsonl line 1" in capsys.readouterr().err


def test_a_changed_file_of_questions_undoes_what_was_made_of_it(own, tmp_path):
    chosen = replace(PAPER, output=tmp_path / "out", student="m", teacher="t", train=own[1], test=own[3])

    def made(step) -> int:
        step.output.write_text("")
        return 0

    run.execute(commands(plan("own", chosen)), made)
    write(own[3], sums(range(50, 60), "small"))
    states = {(step.kind, "test" in step.output.name): run.state(step) for step in commands(plan("own", chosen))}
    assert states.pop(("annotate", True)) == "begun"
    assert states.pop(("evaluate", False)) == "begun"
    assert set(states.values()) == {"done"}


def test_given_demonstrations_take_the_teachers_place(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    chosen = replace(PAPER, demonstrations=folder, tasks=("obqa", "csqa"), student="m")
    for name in ("obqa.jsonl", "csqa-of-somebody.jsonl"):
        write(folder / name, [])
    steps = [step for step in commands(plan("table1", chosen)) if step.kind == "annotate"]
    assert [step.words[step.words.index("--from") + 1 :][0] for step in steps] == [
        str(folder / "obqa.jsonl"),
        str(folder / "csqa-of-somebody.jsonl"),
    ]
    assert all("theirs" in step.words for step in steps)  # the teacher's name, where none is given
    with pytest.raises(UserError, match="has no file for obqa, standard prompt"):
        plan("dpo_answer", chosen)  # asks the teacher at x as well
    asked = commands(plan("dpo_answer", replace(chosen, teacher="t")))
    assert sum("--from" in step.words for step in asked) == 2
    (folder / "csqa-of-another.jsonl").touch()
    with pytest.raises(UserError, match="has no file for csqa"):
        plan("table1", chosen)
    with pytest.raises(UserError, match="no such folder"):
        settings(recipes.read("paper"), demonstrations=tmp_path / "nowhere")


def test_annotated_training_questions_in_two_parts_are_what_settings_are_chosen_on(command, tmp_path):
    """`own` on rows that annotate wrote, some held out to test on: no recipe needs a look at a benchmark's test."""
    answers = tmp_path / "answers" / "own.jsonl"
    assert command(annotate, "--task", "pocket-choice", "--teacher", "pocket", "--limit", 8, "--output", answers) == 0
    rows = [row for _, row in read_lines(answers)]
    train, test = write(tmp_path / "train.jsonl", rows[:6]), write(tmp_path / "held-out.jsonl", rows[6:])
    assert read_questions(train) + read_questions(test) == questions("pocket-choice", "train", 0)[:8]
    given = {"output": tmp_path / "out", "train": train, "test": test, "demonstrations": answers.parent}
    steps = commands(plan("own", settings(recipes.read("small"), seeds=[0], **given)))
    assert [step.kind for step in steps].count("evaluate") == 4
    assert all(
        step.words[step.words.index("--questions") + 1] == str(test) for step in steps if step.kind == "evaluate"
    )
    (annotation,) = (step for step in steps if step.kind == "annotate")
    assert command(annotate, *annotation.words[2:]) == 0
    told = ("id", "input", "output", "target", "correct")
    assert [[row[name] for name in told] for _, row in read_lines(annotation.output)] == [
        [row[name] for name in told] for row in rows[:6]
    ]


def test_more_tasks_are_evaluated_on_and_not_trained_on():
    rows = plan("table1", replace(PAPER, tasks=("obqa",), also=("gsm8k", "multiarith")))
    assert {row.trained_on for row in rows} == {"", "obqa"}
    assert all(list(row.cells) == ["obqa", "gsm8k", "multiarith"] for row in rows)
    with pytest.raises(UserError, match='no task "nope"'):
        settings(recipes.read("paper"), also=["nope"])


@pytest.mark.parametrize(("name", "billions"), [("a/B-1.5B-chat", 1.5), ("SmolLM2-135M-Instruct", 0.135), ("m", None)])
def test_a_models_size_is_read_from_its_name(name, billions):
    assert model(name).billions == billions


def test_a_recipe_is_flags_of_each_command_and_the_users_win(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(
        json.dumps(
            {
                "experiments": {"--student": "m", "--tasks": ["gsm8k"], "--limit": 9, "--data": "rows"},
                "train_it": {"--gradient-checkpointing": True, "--plain": False},
                "evaluate": {"--limit": 7},
            }
        )
    )
    chosen = settings(recipes.read(str(file)), tasks=["obqa", "obqa"])
    assert (chosen.student, chosen.tasks, chosen.limit) == ("m", ("obqa",), 9)
    assert (chosen.output, chosen.data) == (Path("runs/mine"), Path("rows"))
    lines = {step.kind: step.line for step in commands(plan("figure2", chosen))}
    assert "--gradient-checkpointing" in lines["train_it"]
    assert "--plain" not in lines["train_it"]
    assert "--limit 9" in lines["evaluate"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"train": {}}', "no other names than about, annotate"),
        ('{"train_it": ["--epochs"]}', '"train_it" must be an object'),
        ('{"train_it": {"epochs": 3}}', "'epochs', which is no flag"),
        ('{"about": 3}', '"about" must be a text'),
        ('{"experiments": {"--plan": true}}', "has no flag --plan"),
        ('{"experiments": {"--tasks": ["nope"]}}', 'no task "nope"'),
        ('{"seconds": {"annotate": 1}}', '"seconds"'),
    ],
)
def test_what_is_no_recipe_is_one_sentence(content, said, tmp_path, command, capsys):
    file = tmp_path / "recipe.json"
    if content is not None:
        file.write_text(content)
    assert command(experiments, "table5", "--recipe", file, "--plan") == 2
    assert said in capsys.readouterr().err
