"""The experiments: what the paper did is all there, nothing twice; and running them, stopped and started again."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from itertools import permutations
from pathlib import Path

import pytest

from selfrefine import annotate, flags, judge, paper
from selfrefine.errors import RunError, UserError
from selfrefine.experiments import costs, recipes, run
from selfrefine.experiments.plans import CONTROL, EXPERIMENTS, FRACTIONS, TEACHER, commands, plan
from selfrefine.experiments.settings import OPENAI, settings
from selfrefine.experiments.steps import Step
from selfrefine.paper import CROSS, INSTRUCTED, REFINED
from selfrefine.tasks.splits import questions
from tests.conftest import ROOT

PAPER, POCKET = settings(recipes.read("paper")), settings(recipes.read("pocket"))
SCALES = pytest.mark.parametrize("chosen", [PAPER, POCKET], ids=["paper", "pocket"])
EVERY = pytest.mark.parametrize("name", EXPERIMENTS)


def flag(step: Step, name: str) -> str | None:
    """The (first) value of a flag in a command."""
    return step.words[step.words.index(name) + 1] if name in step.words else None


def of_kind(steps: list[Step], kind: str) -> list[Step]:
    return [step for step in steps if step.kind == kind]


def task_of(demonstrations: str) -> str:
    return Path(demonstrations).name.removesuffix("-train-cot.jsonl")


def phases(step: Step, steps: list[Step]) -> tuple[str, str]:
    """The tasks of phase 1 and of phase 2 behind a phase-2 command, from the files that it names."""
    first = next(one for one in steps if str(one.output) == flag(step, "--adapter"))
    return task_of(flag(first, "--demonstrations")), task_of(flag(step, "--demonstrations"))


def test_table_1_is_what_the_paper_did():
    steps = commands(plan("table1", PAPER))
    assert [flag(step, "--task") for step in of_kind(steps, "annotate")] == list(paper.TASKS)
    assert {flag(step, "--teacher") for step in of_kind(steps, "annotate")} == {"meta-llama/Llama-2-70b-chat-hf"}
    instructed = of_kind(steps, "train_it")
    assert sorted(task_of(flag(step, "--demonstrations")) for step in instructed) == sorted(paper.TASKS)
    pairs = [phases(step, steps) for step in of_kind(steps, "train_dpo")]
    cross = list(permutations(paper.TASKS, 2))
    assert len(pairs) == 36
    assert len(cross) == 30
    assert sorted(pairs) == sorted([*cross, *zip(paper.TASKS, paper.TASKS, strict=True)])
    evaluations = of_kind(steps, "evaluate")
    assert [step for step in evaluations if "--adapter" not in step.words] == [steps[0]]  # both baselines at once
    assert {flag(step, "--student") for step in steps if step.kind != "annotate"} == {"meta-llama/Llama-2-7b-chat-hf"}


def test_a_cross_cell_is_phase_1_on_a_phase_2_on_b_and_evaluated_on_b():
    rows = plan("table1", PAPER)
    steps = commands(rows)
    for row in (row for row in rows if row.method == CROSS):
        assert set(row.cells) == set(paper.TASKS) - {row.trained_on}
        for task, cell in row.cells.items():
            (evaluation,) = cell.steps
            (trained,) = evaluation.inputs
            assert phases(trained, steps) == (row.trained_on, task)
            tasks = evaluation.words[evaluation.words.index("--tasks") + 1 : evaluation.words.index("--prompts")]
            assert tasks == (task,)


@pytest.mark.parametrize("name", ["table1", "table10", "table11"])
def test_the_published_number_stands_beside_every_cell(name):
    printed = {"table1": paper.TABLE_1, "table10": paper.TABLE_10, "table11": paper.TABLE_11}[name]
    rows = plan(name, PAPER)
    assert [(row.trained_on, row.method) for row in rows] == list(printed)
    for row in rows:
        there = {task: cell for task, cell in printed[row.trained_on, row.method].items() if cell}
        assert {task: cell.published for task, cell in row.cells.items()} == there


@SCALES
@EVERY
def test_no_command_twice_and_none_before_its_inputs(name, chosen):
    steps = commands(plan(name, chosen))
    assert steps
    assert len({step.output for step in steps}) == len(steps)
    work = [tuple(word for word in step.words if word != str(step.output)) for step in steps]
    assert len(set(work)) == len(work)
    before = set()
    for step in steps:
        assert {needed.output for needed in step.inputs} <= before
        # what the words name below the output folder has been made by then
        named = {Path(word) for word in step.words if word.startswith(str(chosen.output)) and word != str(step.output)}
        assert named <= before | {needed.predictions for needed in step.inputs}
        before.add(step.output)


@SCALES
def test_experiments_share_what_they_have_in_common(chosen):
    """One output folder for all: the same output is the same command, whichever experiment asks for it."""
    recipes, counts = {}, {}
    for name in EXPERIMENTS:
        steps = commands(plan(name, chosen))
        counts[name] = len(steps)
        for step in steps:
            assert recipes.setdefault(step.output, step.recipe) == step.recipe
    assert len(recipes) < sum(counts.values())
    if chosen is PAPER:  # of Figure 2, Table 1 has all that is Llama-2-7's but the teacher's test answers
        mine = {step.output for step in commands(plan("table1", chosen))}
        shared = [step for step in commands(plan("figure2", chosen)) if step.output in mine]
        assert {kind: len(of_kind(shared, kind)) for kind in ("annotate", "train_it", "train_dpo", "evaluate")} == {
            "annotate": 6,
            "train_it": 6,
            "train_dpo": 6,
            "evaluate": 13,
        }


@SCALES
@EVERY
def test_every_command_is_one_that_its_program_takes(name, chosen, monkeypatch):
    programs = {
        "selfrefine.annotate": annotate._parse,
        "selfrefine.judge": judge._parse,
        "train_it.py": lambda: flags.phase_1(""),
        "train_dpo.py": lambda: flags.phase_2(""),
        "evaluate.py": lambda: flags.evaluation(""),
    }
    monkeypatch.chdir(ROOT)
    chosen = replace(chosen, limit=8, data=Path("some folder"))
    for step in commands(plan(name, chosen)):
        program, words = (step.words[1], step.words[2:]) if step.words[0] == "-m" else (step.words[0], step.words[1:])
        monkeypatch.setattr(sys, "argv", [program, *words])
        args = programs[Path(program).name]()
        assert args.output == step.output


def test_figures_2_and_3_have_the_families_of_the_paper():
    named = {name: list(dict.fromkeys(row.panel for row in plan(name, PAPER))) for name in ("figure2", "figure3")}
    assert named["figure2"] == ["Llama-2-70 → Llama-2-7", "Llama-2-70 → Llama-2-13", "Mixtral8x7 → Mistral-7"]
    assert named["figure3"] == [f"GPT-3.5 → {student}" for student in ("Llama-2-7", "Llama-2-13", "Mistral-7")]
    asked = of_kind(commands(plan("figure3", PAPER)), "annotate")
    assert {flag(step, "--server") for step in asked} == {OPENAI}


def test_figure_2_has_the_numbers_of_the_tables_and_figure_3_only_the_teachers_and_the_baselines():
    def printed(name: str, method: str) -> list[str | None]:
        rows = [row for row in plan(name, PAPER) if row.method == method]
        return [row.cells["obqa"].published and row.cells["obqa"].published.printed for row in rows]

    assert printed("figure2", INSTRUCTED) == ["65.3±.3", "68.5±.4", "78.3±.2"]
    assert printed("figure2", REFINED) == ["70.8±.3", "71.2±.4", "87.6±.2"]
    assert printed("figure2", TEACHER) == ["70.8±.1", "70.8±.1", "84.6±.2"]
    assert printed("figure3", INSTRUCTED) == printed("figure3", REFINED) == [None] * 3
    assert printed("figure3", TEACHER) == ["74.6±.4"] * 3
    assert printed("figure3", "Baseline CoT") == ["49.5±.4", "54.2±.2", "60.4±.3"]


def test_figure_4_has_every_share_for_either_phase_alone_and_for_both():
    steps = commands(plan("figure4", PAPER))
    shares = [str(share) for share in FRACTIONS]
    for kind, adapter, count in (("train_it", False, 1), ("train_dpo", False, 1), ("train_dpo", True, 1)):
        runs = [step for step in of_kind(steps, kind) if ("--adapter" in step.words) == adapter]
        found = sorted((task_of(flag(step, "--demonstrations")), flag(step, "--fraction")) for step in runs)
        assert found == sorted((task, share) for task in paper.TASKS for share in shares for _ in range(2 * count))


def test_figure_5_trains_and_evaluates_math_and_mmlu():
    steps = commands(plan("figure5", PAPER))
    assert {flag(step, "--task") for step in of_kind(steps, "annotate")} == {"math", "mmlu"}
    assert len(of_kind(steps, "train_it")) == len(of_kind(steps, "train_dpo")) == 12  # 6 pairs, 2 tasks


def test_dpo_answer_prefers_answers_and_has_the_teachers_answers_at_x():
    steps = commands(plan("dpo_answer", PAPER))
    preferred = [step for step in of_kind(steps, "train_dpo") if flag(step, "--preferred") == "answer"]
    assert len(preferred) == 6
    for step in preferred:
        assert [flag(needed, "--prompt") for needed in step.inputs if needed.kind == "annotate"] == ["cot", "standard"]
    assert not any(cell.published for row in plan("dpo_answer", PAPER) for cell in row.cells.values())


def test_tables_5_13_and_14_have_the_papers_cells():
    for row in plan("table5", PAPER):
        assert len(row.cells) == 6
        assert all(cell.published for cell in row.cells.values())
    published = {row.method: [cell.published.printed for cell in row.cells.values()] for row in plan("table13", PAPER)}
    assert published == {
        "Baseline": ["1.63", "1.68", "1.34"],
        "Baseline CoT": ["2.72", "2.89", "2.56"],
        "Target Answers": ["1", "1", "1"],
    }
    rows = plan("table14", PAPER)
    assert {(row.trained_on, row.method) for row in rows} == set(paper.TABLE_14)
    assert len(of_kind(commands(rows), "judge")) == 3  # a student's answers are rated once, in whichever family


def test_overrides():
    steps = commands(plan("table1", replace(PAPER, student="tiny", teacher="big-13b", tasks=("gsm8k", "obqa"))))
    assert {flag(step, "--student") for step in steps if step.kind != "annotate"} == {"tiny"}
    assert {flag(step, "--teacher") for step in of_kind(steps, "annotate")} == {"big-13b"}
    assert len(of_kind(steps, "train_dpo")) == 4
    limited = commands(plan("table1", replace(PAPER, limit=7, seeds=(0, 5))))
    assert all(flag(step, "--limit") == "7" for step in limited if step.kind in ("annotate", "evaluate"))
    assert {flag(step, "--seed") for step in limited} == {"0", "5"}
    assert len(of_kind(limited, "train_dpo")) == 72
    mistral = commands(plan("figure2", replace(PAPER, student="mistral-7b")))
    assert {flag(step, "--teacher") for step in of_kind(mistral, "annotate")} == {
        "mistralai/Mixtral-8x7B-Instruct-v0.1"
    }
    served = commands(plan("figure4", replace(PAPER, server="http://localhost:8000/v1")))
    servers = {flag(step, "--teacher"): flag(step, "--server") for step in of_kind(served, "annotate")}
    assert servers == {"meta-llama/Llama-2-70b-chat-hf": "http://localhost:8000/v1", "gpt-3.5-turbo": OPENAI}


def test_the_control_row_is_there_at_pocket_scale_and_where_it_is_asked_for():
    assert CONTROL not in {row.method for row in plan("table1", PAPER)}
    assert CONTROL in {row.method for row in plan("table1", POCKET)}
    rows = plan("table1", replace(PAPER, control=True))
    controls = [row for row in rows if row.method == CONTROL]
    assert len(controls) == 6
    for row in controls:
        (trained,) = row.cells[row.trained_on].steps[0].inputs
        own = next(one for one in rows if (one.trained_on, one.method) == (row.trained_on, INSTRUCTED))
        plain = own.cells[row.trained_on].steps[0].inputs[0]
        both = next(one for one in rows if (one.trained_on, one.method) == (row.trained_on, REFINED))
        refined = both.cells[row.trained_on].steps[0].inputs[0]
        assert trained.inputs[1:] == (plain, refined)
        assert int(flag(trained, "--epochs")) > costs.EPOCHS
        assert plain.hours + refined.hours < 2 * trained.hours  # the control costs about what both phases do


def test_the_control_pays_for_self_refine_in_epochs_of_phase_1(tmp_path):
    """Phase 1: 3 epochs of 1000 tokens. Phase 2: 2 steps of 40 pairs at 16 tokens are 1280 trained tokens; 90 pairs
    forward twice are 2880 tokens at a third, 960. So 2240 / 1000, rounded up: 3 epochs more."""
    chosen = replace(POCKET, output=tmp_path)
    rows = [row for row in plan("quickstart", chosen) if row.method in (INSTRUCTED, REFINED, CONTROL)]
    first, second, control = (row.cells["pocket"].steps[0].inputs[0] for row in rows)
    assert flag(control, "--epochs") == str(costs.control_epochs(320, 3, chosen.recipe["train_dpo"])) == "8"
    taken = {first: [{"tokens": 1000}] * 3, second: [{"reference_seconds": 1}, {"tokens": 640}, {"tokens": 640}]}
    for step, rows in taken.items():
        assert control.words_now == control.words  # an estimate until both have run
        step.output.mkdir(parents=True)
        (step.output / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (step.output / "config.json").write_text(json.dumps({"settings": {"batch_size": 40, "epochs": 3}}))
        if step is second:
            (step.output / "preferences.jsonl").write_text('{"id": "1"}\n' * 90)
    assert costs.spent(first.output) == (3000, 0)
    assert costs.spent(second.output) == (1280, 2880)
    changed = [(now, then) for now, then in zip(control.words_now, control.words, strict=True) if now != then]
    assert changed == [("6", "8")]
    assert "--epochs 6" in control.line
    asked = tmp_path / "asked"
    code = f"import pathlib, sys; pathlib.Path({str(asked)!r}).write_text(sys.argv[2])"
    with run.runner() as runner:  # and is what runs
        assert runner(replace(control, words=("-c", code, "--epochs", "8"))) == 0
    assert asked.read_text() == "6"


def test_a_recipes_seconds_and_environment_are_used(monkeypatch, capsys):
    steps = commands(plan("table1", POCKET))
    assert {step.kind: step.hours for step in steps} == {
        kind: POCKET.recipe["seconds"][kind] / 3600 for kind in ("annotate", "train_it", "train_dpo", "evaluate")
    }
    assert any(step.hours != 0 for step in commands(plan("table1", PAPER)))
    monkeypatch.delenv("SELFREFINE_ONE", raising=False)
    monkeypatch.setenv("SELFREFINE_TWO", "mine")
    run.prepare({"SELFREFINE_ONE": "1", "SELFREFINE_TWO": "2"})
    assert (os.environ.pop("SELFREFINE_ONE"), os.environ["SELFREFINE_TWO"]) == ("1", "mine")
    assert capsys.readouterr().out == "each command runs with SELFREFINE_ONE=1\n"


def test_estimates_grow_with_what_they_depend_on():
    assert costs.refining(13.0, 1000) > costs.refining(6.7, 1000) > costs.instructing(6.7, 1000)
    assert costs.answering(6.7, 200, ["cot"]) == pytest.approx(2 * costs.answering(6.7, 100, ["cot"]))
    assert costs.answering(6.7, 100, ["cot", "standard"]) == pytest.approx(1.5 * costs.answering(6.7, 100, ["cot"]))
    assert costs.instructing(None, 1000) is None
    assert costs.questions("gsm8k", "train", None) == 4000
    assert costs.questions("gsm8k", "train", 5) == 5
    assert costs.kept(420, "multiarith", "llama-2-70b") == round(420 * 0.908)
    assert costs.kept(4000, "obqa", "llama-2-70b", 0.5) == round(0.5 * min(3000, 4000 * 0.713))


def test_assumed_sizes_are_the_datas(benchmarks, capsys):
    for task in paper.TASKS:
        for split in ("train", "test"):
            size = len(questions(task, split, 0, benchmarks))
            assert costs.questions(task, split, None) == pytest.approx(size, rel=0.05), (task, split)


def test_the_plan_needs_neither_network_nor_torch(tmp_path):
    code = (
        "import runpy, socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        f"sys.argv = ['x', 'table1', '--plan', '--output', {str(tmp_path / 'out')!r}]\n"
        "try: runpy.run_module('selfrefine.experiments', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n      $ python ") == 103
    assert "6 annotations, 6 runs of phase 1, 36 runs of phase 2, 55 evaluations" in done.stdout
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["table99"], "table99"),
        (["table1", "--tasks", "obqa", "nope"], "nope"),
        (["table1", "--seeds", "x"], "--seeds"),
    ],
)
def test_bad_flags_are_one_sentence(flags, said):
    words = [sys.executable, "-m", "selfrefine.experiments", *flags]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_data_must_be_there_where_it_is_read_and_only_then(tmp_path):
    common = ["table1", "--data", "/nowhere", "--output", str(tmp_path)]
    for more, code in (([], 2), (["--plan"], 0), (["--plan", "--scale", "pocket"], 0), (["--report"], 0)):
        words = [sys.executable, "-m", "selfrefine.experiments", *common, *more]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert ("--data /nowhere: there is no such folder" in done.stderr) == (code == 2)


def test_a_terminal_without_greek_letters_ends_nothing(tmp_path):
    words = [sys.executable, "-m", "selfrefine.experiments", "--help"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"usage" in done.stdout


def stub(asked: list[Step], *, stop_at: int | None = None, code: int = 0):
    """A runner that makes an output for each command, and ends command number `stop_at` with `code` instead."""

    def call(step: Step) -> int:
        asked.append(step)
        if len(asked) == stop_at:
            return code
        step.output.write_text("made", encoding="utf-8")
        return 0

    return call


@EVERY
def test_stopped_half_way_and_started_again_only_what_is_missing_runs(name, tmp_path, capsys):
    steps = commands(plan(name, replace(POCKET, output=tmp_path)))
    half = len(steps) // 2 + 1
    first, second, third = [], [], []
    with pytest.raises(SystemExit) as stopped:
        run.execute(steps, stub(first, stop_at=half, code=143))
    assert stopped.value.code == 143
    assert [run.state(step) for step in steps] == ["done"] * (half - 1) + ["to do"] * (len(steps) - half + 1)
    run.execute(steps, stub(second))
    assert first == steps[:half]
    assert second == steps[half - 1 :]
    run.execute(steps, stub(third))
    assert third == []


def test_a_failure_names_the_command_and_keeps_what_is_done(tmp_path):
    steps = commands(plan("table1", replace(POCKET, output=tmp_path)))
    with pytest.raises(RunError) as failed:
        run.execute(steps, stub([], stop_at=3, code=2))
    assert "command 3 of 25" in str(failed.value)
    assert steps[2].line in str(failed.value)
    assert [run.state(step) for step in steps[:4]] == ["done", "done", "to do", "to do"]


def test_a_changed_flag_undoes_what_depends_on_it_and_nothing_else(tmp_path):
    chosen = replace(POCKET, output=tmp_path, tasks=("pocket", "pocket-choice"))
    run.execute(commands(plan("figure2", chosen)), stub([]))
    states = {step.kind: run.state(step) for step in commands(plan("figure2", replace(chosen, limit=10)))}
    # the limit is no flag of training, but the demonstrations that it trains on depend on it
    assert states == dict.fromkeys(("annotate", "train_it", "train_dpo", "evaluate"), "begun")
    more = commands(plan("table1", chosen))
    assert {step.kind for step in more if run.state(step) == "done"} == set(states)


def test_a_missing_key_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    steps = commands(plan("figure4", replace(PAPER, output=tmp_path)))
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        run.execute(steps, stub([]))
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    asked = []
    run.execute(steps, stub(asked))
    assert asked == steps


def test_an_output_that_cannot_be_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        run.execute(commands(plan("table5", replace(POCKET, output=tmp_path / "file"))), stub([]))


def test_a_signal_reaches_the_command_once_and_it_ends_in_its_own_time(tmp_path):
    """As train_it does: note the signal, save, exit with its code; a second signal would end it at once."""
    ready, saved = tmp_path / "ready", tmp_path / "saved"
    code = (
        "import pathlib, signal, sys, time\n"
        "got = []\n"
        "signal.signal(signal.SIGTERM, lambda number, _: got.append(number))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "while not got: time.sleep(0.01)\n"
        "time.sleep(0.5)\n"
        f"pathlib.Path({str(saved)!r}).write_text(str(len(got)))\n"
        "sys.exit(143)\n"
    )
    step = Step("train_it", "a run", ("-c", code), tmp_path / "run", (), None, "")

    def terminate():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(SystemExit) as stopped:
        run.execute([step])
    thread.join()
    assert stopped.value.code == 143
    assert saved.read_text() == "1"
    assert run.state(step) == "to do"
    assert signal.getsignal(signal.SIGTERM) is before


def test_waiting_for_another_start_can_be_stopped(tmp_path, capfd):
    step = Step("evaluate", "answers", ("-c", ""), tmp_path / "output", (), None, "")
    with open(tmp_path / "output.running", "a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(SystemExit) as stopped:
            run.execute([step])
    assert stopped.value.code == 130
    assert "waiting for it to end" in capfd.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_between_commands_stops_before_the_next(number, code, tmp_path):
    steps = [Step("evaluate", name, ("-c", ""), tmp_path / name, (), None, "") for name in ("one", "two")]
    asked = []
    with run.runner() as runner, pytest.raises(SystemExit) as stopped:

        def call(step: Step) -> int:
            asked.append(step.title)
            ended = runner(step)
            if not ended:
                step.output.touch()
                os.kill(os.getpid(), number)
            return ended

        run.execute(steps, call)
    assert stopped.value.code == code
    assert asked == ["one"]
    assert [run.state(step) for step in steps] == ["begun", "to do"]


def test_a_command_that_a_killed_start_left_running_is_waited_for(tmp_path, capfd):
    log, output = tmp_path / "log", tmp_path / "made" / "output"
    child = (
        "import pathlib, time\n"
        f"log = open({str(log)!r}, 'a', buffering=1)\n"
        "print('begin', file=log)\n"
        "time.sleep(1)\n"
        "print('end', file=log)\n"
        f"pathlib.Path({str(output)!r}).touch()\n"
    )
    step = Step("evaluate", "answers", ("-c", child), output, (), None, "")
    start = (
        "from pathlib import Path\n"
        "from selfrefine.experiments.run import execute\n"
        "from selfrefine.experiments.steps import Step\n"
        f"execute([Step('evaluate', 'answers', ('-c', {child!r}), Path({str(output)!r}), (), None, '')])\n"
    )
    first = subprocess.Popen([sys.executable, "-c", start], cwd=ROOT)
    while not log.exists() or not log.read_text():
        time.sleep(0.01)
    first.kill()
    first.wait()
    run.execute([step])
    assert "waiting for it to end" in capfd.readouterr().out
    assert log.read_text().split() == ["begin", "end", "begin", "end"]  # not both at once
    assert run.state(step) == "done"
    assert sorted(path.name for path in output.parent.iterdir()) == ["output", "output.done"]


@pytest.mark.long
@EVERY
def test_every_experiment_runs_at_pocket_scale_from_a_clean_folder_and_after_being_killed(name, tmp_path):
    words = [sys.executable, "-m", "selfrefine.experiments", name, "--scale", "pocket", "--limit", "24"]
    words += ["--output", str(tmp_path)]
    mine = {}
    for split in ("train", "test") if name == "own" else ():  # whose questions are the user's
        mine[split] = tmp_path / f"{split}.jsonl"
        asked = questions("pocket", split, seed=0)[:40]
        mine[split].write_text("".join(json.dumps(asdict(one)) + "\n" for one in asked))
        words += [f"--{split}", str(mine[split])]
    steps = commands(plan(name, replace(POCKET, output=tmp_path, limit=24, **mine)))
    half = run.marker(steps[len(steps) // 2])
    log = tmp_path / "log"
    with open(log, "w") as file:
        first = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=file)
        while first.poll() is None and not half.exists():
            time.sleep(0.05)
        first.send_signal(signal.SIGTERM)
        assert first.wait() in (0, 143), log.read_text()
    made = {step.output: run.marker(step).stat().st_mtime_ns for step in steps if run.marker(step).exists()}
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("\n$ ") == len(steps) - len(made)
    assert made.items() <= {step.output: run.marker(step).stat().st_mtime_ns for step in steps}.items()
    report = json.loads((tmp_path / "reports" / name / "report.json").read_text(encoding="utf-8"))
    assert report["commands"] == {"all": len(steps), "done": len(steps)}
    assert all(cell["ours"] for row in report["rows"] for cell in row["cells"].values())
