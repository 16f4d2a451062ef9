"""The report on an experiment, as far as it has run, in OUTPUT/reports/NAME.

report.html is one file that loads nothing and runs no script: the table with the paper beside it, the curves, question
by question what was answered. report.md is to be read, report.json for machines; each chart is an SVG file too.
"""

from dataclasses import asdict
from pathlib import Path

import jinja2

from selfrefine.experiments import charts, results, sections
from selfrefine.experiments.plans import EXPERIMENTS, FRACTIONS, TEACHER, Cell, Row, commands
from selfrefine.experiments.results import columns
from selfrefine.experiments.run import state
from selfrefine.experiments.sections import titled
from selfrefine.experiments.settings import Settings
from selfrefine.experiments.steps import Step
from selfrefine.files import write_json, write_whole
from selfrefine.paper import CROSS, REFINED
from selfrefine.runs import versions

RATED = ("table13", "table14")
TAUGHT = "-train-cot.jsonl"  # how the demonstrations of a task end
QUESTIONS = 12  # of a task, that report.html shows
LOSS, MOVED = ("loss", "loss", "validation loss"), ("Δ log π(y|x̂)", "y_w", "y_l")


def write(name: str, settings: Settings, rows: list[Row]) -> dict:
    """Write the report's files and say where they are; what it says is returned."""
    folder = settings.output / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = gather(name, settings, rows)
    drawn = figures(content)
    for number, svg in enumerate(drawn, start=1):
        write_whole(folder / f"{name}-{number}.svg", svg.encode())
    write_json(folder / "report.json", content)
    write_whole(folder / "report.md", markdown(content, len(drawn)).encode())
    write_whole(folder / "report.html", page(content, drawn).encode())
    print(f"\n{folder}: report.html, report.md, report.json{f', {name}-*.svg' if drawn else ''}")
    return content


def gather(name: str, settings: Settings, rows: list[Row]) -> dict:
    """All that the report says, as plain data (report.json)."""
    steps, printed = commands(rows), EXPERIMENTS[name].printed
    if any(cell.published for row in rows for cell in row.cells.values()):
        printed = {}  # the paper's own table is shown whole where no task of this run is in it
    return {
        "experiment": name,
        "title": EXPERIMENTS[name].title,
        "rating": name in RATED,
        "settings": asdict(settings),
        "versions": versions(),
        "commands": {"all": len(steps), "done": sum(state(step) == "done" for step in steps)},
        "rows": [
            {"panel": row.panel, "trained_on": row.trained_on, "method": row.method}
            | {"cells": {column: _cell(cell) for column, cell in row.cells.items()}}
            for row in rows
        ],
        "printed": [
            {"trained_on": task, "method": method, "cells": {t: cell.printed for t, cell in cells.items() if cell}}
            for (task, method), cells in printed.items()
        ],
        "training": results.training(steps),
        "differences": results.differences(rows),
        "teaching": teaching(steps),
        "questions": {
            task: results.side_by_side(rows, task, QUESTIONS)
            for task in columns(rows)
            if any(step.kind == "train_it" for step in steps)
        },
    }


def _cell(cell: Cell) -> dict:
    return {
        "ours": results.number(cell),
        "paper": cell.published and asdict(cell.published) | {"broken": cell.published.broken},
        "style": results.style(results.answers(cell.steps[0], cell.task, cell.prompt)),
        "from": [str(step.output) for step in cell.steps],
    }


def teaching(steps: list[Step]) -> dict[str, float]:
    """Each task's teacher on the questions that it demonstrates, over all seeds, where it has answered them."""
    of_task: dict[str, list[Step]] = {}
    for step in (step for step in steps if step.kind == "annotate" and step.output.name.endswith(TAUGHT)):
        of_task.setdefault(step.output.name.removesuffix(TAUGHT), []).append(step)
    read = {task: results.number(Cell(tuple(of), task, "cot")) for task, of in of_task.items()}
    return {task: number["mean"] for task, number in read.items() if number}


def markdown(content: dict, figures: int) -> str:
    """report.md; `figures` SVG files lie beside it."""
    parts = [f"# {content['title']}", sections.introduction(content)]
    for section in sections.tables(content):
        parts += [*([f"## {section.title}"] if section.title else []), str(section)]
    parts += [f"![{content['title']}]({content['experiment']}-{number}.svg)" for number in range(1, figures + 1)]
    for section in sections.diagnostics(content):
        parts += [f"## {section.title}", section.said, str(section)]
    return "\n\n".join(parts) + "\n"


def page(content: dict, drawn: list[str]) -> str:
    """report.html, from page.html."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True).get_template("page.html")
    training = content["training"]
    shown = {"charts": [*drawn, *overview(training)], "curves": curves(training)}
    return template.render(content=content, sections=sections, **shown)


def overview(training: list[dict]) -> list[str]:
    """Where there are many runs: both phases on each task, of the first seed and student, a chart a phase; as SVG."""
    drawn = []
    for title, end, curve in (("phase 1: loss", "-it", "loss"), ("phase 2: how log π(y_w|x̂) moved", "-sr", "y_w")):
        series = {}
        for run in training if len(training) > 4 else ():
            path = Path(run["run"])
            if path.parent == Path(training[0]["run"]).parent and path.name.endswith(end) and "-it-" not in path.name:
                series[path.name.removesuffix(end)] = run["curves"][curve]
        drawn += [charts.lines(title, series, "step", 262, 265)] if series else []
    return drawn


def curves(training: list[dict]) -> dict[str, list[str]]:
    """Loss of every run; of phase 2 also the margin and how both sides' log-probabilities moved; as SVG."""
    drawn: dict[str, list[str]] = {}
    for run in training:
        title = "Phase 1: loss" if run["phase"] == 1 else "Phase 2: loss, margin, and how log π of both sides moved"
        for what, *names in [LOSS] if run["phase"] == 1 else [LOSS, ("margin", "margin"), MOVED]:
            series = {name: run["curves"][name] for name in names if run["curves"][name]}
            drawn.setdefault(title, []).append(charts.lines(f"{run['title']}: {what}", series, "step"))
    return drawn


def figures(content: dict) -> list[str]:
    """Curves over demonstrations as in Figure 4; where a student is refined, bars per task as in Figures 2, 3 and 5."""
    drawn = []
    for panel in dict.fromkeys(row["panel"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["panel"] == panel]
        if content["experiment"] == "figure4":
            drawn += _over_demonstrations(panel, rows)
        elif not content["rating"] and REFINED in [row["method"] for row in rows]:
            drawn.append(_bars(content["teaching"], panel if rows != content["rows"] else "", rows))
    return drawn


def _bars(teaching: dict[str, float], panel: str, rows: list[dict]) -> str:
    """Every method on the task trained on; the line is the teacher, on the same questions or on those it taught."""
    cells: dict[str, dict[str, dict]] = {}
    for row in (row for row in rows if row["method"] != CROSS):
        own = {task: cell for task, cell in row["cells"].items() if row["trained_on"] in ("", task)}
        cells.setdefault(row["method"], {}).update(own)
    teacher = cells.pop(TEACHER, None)
    if teacher:
        teaching = {task: cell["ours"]["mean"] for task, cell in teacher.items() if cell["ours"]}
    tasks = [task for task in cells[REFINED] if all(task in of for of in cells.values())]
    marks = {
        method: [of[task]["paper"] and of[task]["paper"]["mean"] for task in tasks] for method, of in cells.items()
    }
    told = ["accuracy (%)" + (f", {panel}" if panel else "")]
    told += ["dashed: the teacher" + ("" if teacher else " on what it taught")] if set(tasks) & set(teaching) else []
    told += ["diamonds: published"] if any(mark for of in marks.values() for mark in of) else []
    series = {
        method: [(ours := of[task]["ours"]) and (ours["mean"], ours["std"] or ours["item_stderr"]) for task in tasks]
        for method, of in cells.items()
    }
    return charts.bars("; ".join(told), [*map(titled, tasks)], series, [teaching.get(task) for task in tasks], marks)


def _over_demonstrations(panel: str, rows: list[dict]) -> list[str]:
    shares = {f"{fraction:.0%}": 100 * fraction for fraction in FRACTIONS}
    drawn = []
    for task in rows[0]["cells"]:
        series: dict[str, list[tuple[float, float]]] = {}
        for row in (row for row in rows if row["cells"][task]["ours"]):
            point = shares[row["trained_on"]], row["cells"][task]["ours"]["mean"]
            series.setdefault(row["method"], []).append(point)
        title = f"{titled(task)}, {panel}: accuracy (%)"
        drawn += [charts.lines(title, series, "% of the demonstrations")] if series else []
    return drawn
