"""The report, on an experiment whose outputs are written by hand: its numbers, its files, and that it opens."""

import json
import math
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

import evaluate
import train_dpo
from selfrefine import paper
from selfrefine import report as any_report
from selfrefine.experiments import charts, recipes, report, results, run, sections
from selfrefine.experiments.plans import TEACHER, commands, plan
from selfrefine.experiments.settings import settings
from selfrefine.experiments.steps import Step
from selfrefine.paper import INSTRUCTED
from tests.conftest import phase_2

POCKET = settings(recipes.read("pocket"), seeds=(0, 1))
SVG = "{http://www.w3.org/2000/svg}"


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prediction(task: str, prompt: str, index: int, right: bool) -> dict:
    """A question that is answered with 5, rightly or with a text in which 5 is not the final answer."""
    text = "2 + 3 = 5. The answer is 5." if right else "5 <b>& more</b>: 6"
    graded = {"text": text, "read": "5" if right else "6", "rule": "last number", "correct": right, "substring": True}
    question = {"task": task, "id": f"{task}-{index}", "prompt": prompt, "seed": 0, "question": f"2 + 3, {index}?"}
    return question | {"options": [], "target": "5", "ended": index != 0} | graded


def evaluation(step: Step, accuracy: float) -> None:
    """As evaluate.py leaves it: of four questions a task, so many right."""
    words = list(step.words)
    tasks = words[words.index("--tasks") + 1 : words.index("--prompts")]
    prompts = words[words.index("--prompts") + 1 : words.index("--device")]
    numbers = {"mean": accuracy, "substring_mean": 100.0, "questions": 4}
    step.output.write_text(json.dumps({"results": {task: dict.fromkeys(prompts, numbers) for task in tasks}}))
    rights = [index < accuracy / 25 for index in range(4)]
    rows = [prediction(t, p, index, right) for t in tasks for p in prompts for index, right in enumerate(rights)]
    lines(step.predictions, rows)


def training(step: Step) -> None:
    """As the two loops leave it."""
    step.output.mkdir()
    (step.output / "config.json").write_text(json.dumps({"settings": {"batch_size": 2, "epochs": 3}}))
    rows = [{"step": number, "loss": 0.7 - number / 100, "tokens": 10} for number in (1, 2, 3)]
    if step.kind == "train_dpo":
        logged = {"margin": 0.1, "accuracy": 1.0, "chosen_logp": -9.0, "rejected_logp": -3.0}
        logged |= {"chosen_change": -0.25, "rejected_change": -1.5}
        rows = [row | logged for row in rows]
        rows.append(
            {"step": 3, "validation_loss": 0.6} | {f"validation_{name}": value for name, value in logged.items()}
        )
        rows.insert(0, {"step": 0, "pairs": 3})
        lines(
            step.output / "preferences.jsonl", [{"chosen_from": source} for source in ("student", "student", "teacher")]
        )
        lines(step.output / "answers.jsonl", [{"key": ["pocket", str(i), "cot"]} for i in range(4)])
    lines(step.output / "metrics.jsonl", rows)


def call(step: Step) -> int:
    """Stands for running the command: seed 0 gets 50 %, seed 1 75 %, self-refined students 25 % more."""
    if step.kind == "annotate":
        task = step.words[step.words.index("--task") + 1]
        lines(step.output, [{"task": task, "correct": index < 3} for index in range(4)])
    elif step.kind == "evaluate":
        evaluation(step, 50 + 25 * ("seed-1" in str(step.output)) + 25 * ("-sr" in step.output.name))
    elif step.kind == "judge":
        files = step.words[step.words.index("--predictions") + 1 : step.words.index("--seed")]
        rated = {"mean": 2.0, "rated": 50, "not_read": 0, "tasks": {}}
        step.output.write_text(json.dumps({"results": {file: {"standard": rated, "cot": rated} for file in files}}))
    else:
        training(step)
    return 0


def made(name: str, folder: Path, **changes) -> Path:
    """An experiment that has run: the folder of its report."""
    chosen = replace(POCKET, output=folder, **changes)
    rows = plan(name, chosen)
    run.execute(commands(rows), call)
    report.write(name, chosen, rows)
    return folder / "reports" / name


@pytest.fixture(scope="module")
def table1(tmp_path_factory) -> Path:
    """The folder of Table 1's report, its tasks the paper's so that the published numbers stand beside."""
    return made("table1", tmp_path_factory.mktemp("table1"), tasks=("obqa", "multiarith"))


def test_the_table_has_our_mean_and_deviation_and_the_papers_beside(table1):
    text = (table1 / "report.md").read_text(encoding="utf-8")
    assert "| trained on |  | OBQA | MultiArith |" in text
    assert "|  | Baseline | 62.5 ± 17.7 [24.2] (53.6±.2) | 62.5 ± 17.7 [24.2] (69.5±.2) |" in text
    assert "| OBQA | + Self-refine | 87.5 ± 17.7 [16.5] (70.8±.3) | 87.5 ± 17.7 [16.5] (69.8±.3) |" in text
    assert "| OBQA | Cross self-refine |  | 87.5 ± 17.7 [16.5] (83.2±.2) |" in text
    assert "| OBQA | Instruction-tuning, equal compute | 62.5 ± 17.7 [24.2] | 62.5 ± 17.7 [24.2] |" in text


def test_json_has_every_cell(table1):
    content = json.loads((table1 / "report.json").read_text(encoding="utf-8"))
    row = next(row for row in content["rows"] if (row["trained_on"], row["method"]) == ("obqa", "+ Self-refine"))
    cell = row["cells"]["obqa"]
    assert cell["ours"] == {
        "mean": 87.5,
        "std": pytest.approx(17.678, abs=1e-3),
        "runs": [75, 100],
        "item_stderr": pytest.approx(100 * math.sqrt(0.875 * 0.125 / 4)),
        "substring": 100,
    }
    assert cell["paper"] == {"mean": 70.8, "std": 0.3, "printed": "70.8±.3", "broken": False}
    assert len(cell["from"]) == 2
    assert content["commands"]["all"] == content["commands"]["done"]


def test_diagnostics(table1):
    text = (table1 / "report.md").read_text(encoding="utf-8")
    # 2 pairs of the student, 1 of the teacher, 1 question of 4 without; the preferred side became less likely
    assert "| obqa-sr, seed 0 | 2 | 1 | 1 | -0.25 | -1.50 | +0.10 |" in text.replace("pocket → pocket, ", "")
    # 3 steps of 2 pairs and 10 tokens, so 5 tokens a pair, and 3 pairs that went forward only twice
    assert "| obqa-sr, seed 0 | 3 | 30 | 30 | 40 | 0.670 |" in text.replace("pocket → pocket, ", "")
    # right after phase 1 and 2: with seed 0 two and three of four, with seed 1 three and four. So of the questions two
    # gain a half each, 25 points on average, and with random signs these two are as far from 0 half of the time
    row = next(line for line in text.split("\n") if line.startswith("| OBQA | Instruction-tuning | + Self-refine | "))
    assert row.startswith("| OBQA | Instruction-tuning | + Self-refine | +25.0 ± 14.4 | 2 | 0 | 8 |")
    assert float(row.split("|")[8]) == pytest.approx(0.5, abs=0.02)
    row = next(line for line in text.split("\n") if line.startswith("| OBQA, + Self-refine") and "| OBQA |" in line)
    assert [float(cell) for cell in row.split("|")[3:5]] == [87.5, 100.0]
    assert [float(cell) for cell in row.split("|")[5:8]] == [0.0, 7.8, 25.0]  # three answers of 9 words, one of 4


def test_questions_show_what_each_stage_answered(table1):
    content = json.loads((table1 / "report.json").read_text(encoding="utf-8"))
    question = content["questions"]["obqa"][2]
    assert question["target"] == "5"
    stages = ["Baseline", "Baseline CoT", "Instruction-tuning", "+ Self-refine", "Instruction-tuning, equal compute"]
    assert {name: answer["correct"] for name, answer in question["answers"].items()} == dict(
        zip(stages, (False, False, False, True, False), strict=True)
    )


def test_what_has_not_run_is_said_and_empty(tmp_path):
    chosen = replace(POCKET, output=tmp_path)
    rows = plan("table1", chosen)
    run.execute(commands(rows)[:1], call)
    report.write("table1", chosen, rows)
    text = (tmp_path / "reports" / "table1" / "report.md").read_text(encoding="utf-8")
    assert "1 of 50 commands are done" in text
    assert "| pocket | Instruction-tuning | – | – | – |" in text
    assert "| OBQA | Instruction-tuning | 65.3±.3 |" in text  # no task of the paper's: its table whole


def test_what_is_broken_in_print_is_said(tmp_path):
    folder = made("table11", tmp_path, tasks=("gsm8k", "multiarith"), seeds=(0,))
    for file in ("report.md", "report.html"):
        assert "65.2±. (broken in print)" in (folder / file).read_text(encoding="utf-8")


def test_ratings_are_the_mean_over_the_files(tmp_path):
    text = (made("table14", tmp_path) / "report.md").read_text(encoding="utf-8")
    assert "| in-family | + Self-refine | 2.00 ± 0.00 |" in text


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure5"])
def test_figures_have_bars_marks_and_the_teachers_lines(name, tmp_path):
    svg = ET.parse(made(name, tmp_path, tasks=("obqa", "gsm8k")) / f"{name}-1.svg").getroot()
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert "Baseline CoT, OBQA: 62.5 ± 17.7" in titles
    assert "+ Self-refine, GSM8K: 87.5 ± 17.7" in titles
    assert len([line for line in svg.iter(f"{SVG}line") if line.get("stroke-dasharray")]) == 2


@pytest.mark.parametrize(("name", "printed"), [("figure2", ("6.3", "8.2")), ("figure3", ("8.5", "8.7"))])
def test_the_gap_to_the_teacher_stands_beside_that_of_4_1(name, printed, tmp_path):
    """Ours: the teacher is right in 3 of 4, the instructed student in 62.5 %. The paper's tables, put in the pocket
    student's cells: Llama-2-7's gaps of 70.8 − 65.3, 81.8 − 71.4 and 92.3 − 75.6."""
    made(name, tmp_path, tasks=(tasks := ("obqa", "csqa", "multiarith")))
    chosen = replace(POCKET, output=tmp_path, tasks=tasks)
    rows = plan(name, chosen)
    tables = {
        TEACHER: {task: paper.TABLE_5["test", task]["llama-2-70b", "cot"] for task in paper.TASKS},
        INSTRUCTED: {task: paper.TABLE_1[task, INSTRUCTED][task] for task in paper.TASKS},
    }
    beside = [
        replace(row, cells={task: replace(cell, published=of[task]) for task, cell in row.cells.items()})
        for row in rows
        if (of := tables.get(row.method))
    ]
    others = [row for row in rows if row.method not in tables]
    for published, gaps in (([*others, *beside], ("7.95", "16.70")), (rows, ("–", "–"))):
        report.write(name, chosen, published)
        text = (tmp_path / "reports" / name / "report.md").read_text(encoding="utf-8")
        for kind, gap, average in zip(("QA", "MWP"), gaps, printed, strict=True):
            assert f"| pocket → pocket | {kind} | 12.50 | {gap} | {average} |" in text


def test_no_other_report_has_the_gaps_of_4_1(table1):
    assert "§4.1" not in (table1 / "report.md").read_text(encoding="utf-8")


def test_table_1_has_bars_with_the_teacher_on_what_it_taught_and_errors_over_questions(tmp_path):
    folder = made("table1", tmp_path, tasks=("obqa", "multiarith"), seeds=(0,))
    svg = ET.parse(folder / "table1-1.svg").getroot()
    titles = [title.text for title in svg.iter(f"{SVG}title")]
    assert "accuracy (%); dashed: the teacher on what it taught; diamonds: published" in titles
    assert "+ Self-refine, OBQA: 75.0 ± 21.7" in titles  # of one seed, the binomial's: 3 of 4
    assert "paper, + Self-refine, OBQA: 70.8" in titles
    assert not any("Cross" in title for title in titles)
    assert len([line for line in svg.iter(f"{SVG}line") if line.get("stroke-dasharray")]) == 2
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.index("phase 2: how log π(y_w|x̂) moved") < page.index("<details")  # on the first screen


def test_a_difference_is_tested_by_question_as_exactly_as_by_hand():
    """Of one seed it is McNemar's exact test: the answers that changed are a fair coin's, or they are not."""

    def answers(right: int, wrong: int, same: int) -> tuple[list, list]:
        changes = [1] * right + [-1] * wrong + [0] * same
        return [{str(i): change < 0 for i, change in enumerate(changes)}], [
            {str(i): change > 0 for i, change in enumerate(changes)}
        ]

    for right, wrong in ((9, 2), (5, 5), (1, 0), (30, 12)):
        tested, changed = results.paired(*answers(right, wrong, 50)), right + wrong
        fewest = sum(math.comb(changed, k) for k in range(min(right, wrong) + 1)) / 2**changed
        assert tested["p"] == pytest.approx(min(1, 2 * fewest), abs=0.015), (right, wrong)
        assert tested["difference"] == pytest.approx(100 * (right - wrong) / (changed + 50))
        assert (tested["became right"], tested["became wrong"], tested["answers"]) == (right, wrong, changed + 50)
    # two seeds that agree are no more questions than one
    before, after = answers(9, 2, 50)
    assert results.paired(before * 2, after * 2)["p"] == results.paired(before, after)["p"]
    assert results.paired(before * 2, after * 2)["stderr"] == results.paired(before, after)["stderr"]
    assert results.paired([{}], after) is None


def test_what_is_more_than_noise_is_starred():
    one = {"panel": "p", "trained_on": "obqa", "task": "obqa", "from": "Instruction-tuning", "to": "+ Self-refine"}
    cells = {
        task: {"ours": {"mean": 50.0, "std": None, "item_stderr": 2.0}, "paper": None} for task in ("obqa", "csqa")
    }
    rows = [{"panel": "p", "trained_on": "obqa", "method": "+ Self-refine", "cells": cells}]
    for change, starred in (({"p": 0.01}, True), ({"p": 0.2}, False), ({"p": 0.01, "from": sections.CONTROL}, False)):
        (table,) = sections.tables({"rows": rows, "rating": False, "differences": [one | change]})
        assert [cell.differs for cell in table.lines[0][2:]] == [starred, False]


def test_figure_4_has_a_curve_for_each_method(tmp_path):
    files = sorted(made("figure4", tmp_path).glob("*.svg"))
    assert len(files) == 2  # a task each
    curves = [line.get("points").split() for line in ET.parse(files[0]).getroot().iter(f"{SVG}polyline")]
    assert [len(points) for points in curves] == [4, 4, 4]


def test_a_bar_is_as_high_as_its_value():
    series, marks = {"one": [(20.0, None)], "two": [(80.0, 4.0)]}, {"one": [50.0], "two": [None]}
    svg = ET.fromstring(charts.bars("t", ["a"], series, [None], marks))
    low, high = [float(bar.get("height")) for bar in svg.iter(f"{SVG}rect") if bar.find(f"{SVG}title") is not None]
    assert high == pytest.approx(4 * low, rel=0.01)
    assert "paper, one, a: 50.0" in [title.text for title in svg.iter(f"{SVG}title")]


def test_a_line_goes_where_its_points_are():
    svg = ET.fromstring(charts.lines("t", {"a": [(0, 1.0), (5, 3.0), (10, 2.0)]}, "step"))
    points = [tuple(map(float, point.split(","))) for point in svg.find(f"{SVG}polyline").get("points").split()]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1)
    assert y0 - y1 == pytest.approx(2 * (y2 - y1), abs=0.2)  # down the page is less


@pytest.mark.parametrize("values", [[0.0], [1e-9, 2e-9], [-40.0, 17.5], [0.69, 0.6931], [99.9, 100.0]])
def test_any_values_have_an_axis(values):
    assert ET.fromstring(charts.lines("t", {"a": list(enumerate(values))}, "step")) is not None


def test_a_long_curve_is_thinned_to_its_averages():
    rows = [{"step": step, "loss": float(step)} for step in range(1, 1001)]
    points = results.curve(rows, "loss")
    assert len(points) <= results.POINTS
    assert points[-1][0] == 1000
    assert points[0][1] == pytest.approx(sum(range(1, 10)) / 9)
    assert results.curve(rows[:5], "loss") == [(step, float(step)) for step in range(1, 6)]


def test_the_page_loads_nothing_and_escapes_what_was_answered(table1):
    text = (table1 / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|\son\w+=", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "5 &lt;b&gt;&amp; more&lt;/b&gt;: 6" in text
    assert "<b>& more" not in text


def test_the_page_opens_in_a_browser_without_network(table1, tmp_path):
    browser = shutil.which("chromium")
    if not browser:
        pytest.skip("no chromium on the PATH: apt-get install chromium")
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --window-size=1200,900"
    words = [
        browser,
        *flags.split(),
        f"--user-data-dir={tmp_path / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ]
    page = (table1 / "report.html").as_uri()
    dumped = subprocess.run([*words, "--dump-dom", page], capture_output=True, text=True, timeout=120)
    assert dumped.returncode == 0, dumped.stderr
    assert dumped.stdout.count("<svg") == (table1 / "report.html").read_text(encoding="utf-8").count("<svg")
    assert "paper 70.8±.3" in dumped.stdout
    shot = tmp_path / "page.png"
    taken = subprocess.run([*words, f"--screenshot={shot}", page], capture_output=True, text=True, timeout=120)
    assert taken.returncode == 0, taken.stderr
    assert shot.read_bytes().startswith(b"\x89PNG")
    assert shot.stat().st_size > 20_000  # an empty page of this size has 5 kB


def test_a_cell_reads_as_the_paper_prints():
    def read(cell: dict | None, rating: bool) -> str:
        return str(sections._shown(cell, rating))

    printed = {"printed": "65.3±.3", "broken": False}
    ours = {"mean": 65.04, "std": None, "item_stderr": 2.14}
    assert read({"ours": ours, "paper": printed}, False) == "65.0 [2.1] (65.3±.3)"
    assert str(sections.Shown("65.0", "2.1", differs=True)) == "65.0 [2.1]*"
    assert read({"ours": {"mean": 2.756, "std": 0.1}, "paper": None}, True) == "2.76 ± 0.10"
    assert read({"ours": None, "paper": printed}, False) == "– (65.3±.3)"
    assert read(None, False) == ""


# Any runs and evaluations


def test_any_runs_and_evaluations_side_by_side(command, student_folder, instructed, preferences, tmp_path, capsys):
    """Made by the commands themselves: both phases' curves, a row a file and prompt, answers under their question."""
    sr = phase_2(student_folder, instructed, tmp_path / "sr")
    assert command(train_dpo, *sr, "--preferences", preferences, "--max-steps", 2) == 0
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({"question": f"1 + {n}?", "target": str(n + 1)}) + "\n" for n in range(3)))
    flags = ("--student", student_folder, "--questions", own, "--max-new-tokens", 4, "--device", "cpu")
    flags += ("--dtype", "float32", "--seeds", 0, 1)
    assert command(evaluate, *flags, "--output", tmp_path / "bare.json") == 0
    assert command(evaluate, *flags, "--output", tmp_path / "lr1e-3.b0.1", "--adapter", tmp_path / "sr") == 0
    capsys.readouterr()
    made = (instructed, tmp_path / "sr", tmp_path / "bare.json", tmp_path / "lr1e-3.b0.1.json")
    assert command(any_report, *made, "--output", tmp_path / "all.html", "--questions", 2) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert f"{instructed}: loss" in page and f"{tmp_path / 'sr'}: margin" in page
    for name in ("bare", "lr1e-3.b0.1"):
        for sign in ("x", "x̂"):
            assert f"| {tmp_path / name}, {sign} |" in said
            assert page.count(f"<b>{tmp_path / name}, {sign}</b>") == 2
    assert "mean ± standard deviation over seeds 0, 1" in page
    assert page.count("<p>Target: <b>") == 2 and "1 + 2?" not in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "") and "<script" not in page


STEP = {"step": 1, "loss": 2.0, "tokens": 100, "seconds": 1.0}
ANSWER = {"task": "t", "id": "1", "prompt": "cot", "seed": 0, "question": "1 + 1?", "options": [], "target": "2"}
ANSWER |= {"text": "So 2.", "read": "2", "rule": "stated", "correct": True, "substring": True}


def written(path, *rows, torn="", results=None):
    """A run folder, or an evaluation whose results are these."""
    lines = "".join(json.dumps(row) + "\n" for row in rows) + torn
    if results is None:
        path.mkdir()
        (path / "metrics.jsonl").write_text(lines)
    else:
        path.write_text(json.dumps({"results": results, "settings": {}}))
        path.with_suffix(".predictions.jsonl").write_text(lines)
    return path


def test_what_is_under_way_is_shown_as_far_as_it_is(command, tmp_path, capsys):
    """A run or evaluation that was killed or still writes: half a line is passed over and left to its writer."""
    run = written(tmp_path / "run", STEP, STEP | {"step": 2, "loss": 1.5}, torn='{"step": 3, "lo')
    half = written(tmp_path / "half.json", ANSWER, torn='{"task": "t"', results={})
    bare = written(tmp_path / "bare", {"step": 0, "validation_loss": 1.0})
    asked = written(tmp_path / "asked.json", results={})
    assert command(any_report, run, half, bare, asked, "--output", tmp_path / "r.html") == 0
    said = capsys.readouterr().out
    assert f"{half} is not finished: 1 answers so far" in said and f"| {tmp_path / 'half'}, x̂ | 100.0" in said
    for path in (bare, asked):
        assert f"{path} has nothing to show yet: left out" in said
    assert "1 runs, 1 evaluations" in said and "1.500" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (run / "metrics.jsonl").read_text().endswith('"lo')
    assert command(any_report, bare, asked, "--output", tmp_path / "r.html") == 2
    assert "there is nothing to report on" in capsys.readouterr().err


def test_what_older_versions_did_not_note_is_a_dash(command, tmp_path, capsys):
    """Results without standard errors, predictions without `ended`, steps of phase 2 with their margin alone."""
    run = written(tmp_path / "sr", STEP | {"margin": 0.25})
    old = written(tmp_path / "old.json", ANSWER, results={"t": {"cot": {"mean": 100.0}}})
    assert command(any_report, run, old, "--output", tmp_path / "r.html") == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "+0.25" in page and "So 2." in page


def test_what_is_neither_is_one_sentence(command, tmp_path, capsys):
    written(tmp_path / "y.json", {"task": "t"}, results={})
    for path in (tmp_path / "y.json", tmp_path, tmp_path / "nowhere"):
        assert command(any_report, path) == 2
        assert "is neither a run folder with metrics.jsonl nor an evaluation's" in capsys.readouterr().err
