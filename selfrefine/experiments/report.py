"""The report on an experiment, as far as it has run, in OUTPUT/reports/NAME.

report.html is one file that loads nothing and runs no script: the table with the paper beside it, the curves, question
by question what was answered. report.md is to be read, report.json for machines; each chart is an SVG file too.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import jinja2

from selfrefine.experiments import charts, results, sections
from selfrefine.experiments.plans import FRACTIONS, NAMES, PRINTED, TEACHER, Cell, Row, commands
from selfrefine.experiments.results import columns
from selfrefine.experiments.run import state
from selfrefine.experiments.sections import titled
from selfrefine.experiments.settings import Settings
from selfrefine.experiments.steps import Step
from selfrefine.files import write_json, write_whole
from selfrefine.paper import CROSS, REFINED
from selfrefine.runs import versions

DRAWN = ("table1", "table10", "table11", "figure2", "figure3", "figure4", "figure5", "own", "quickstart")
TAUGHT = "-train-cot.jsonl"  # how the demonstrations of a task end
QUESTIONS = 12  # of a task, that report.html shows


def write(name: str, settings: Settings, rows: list[Row]) -> dict:
    """Write the report's files and say where they are; what it says is returned."""
    folder = settings.output / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = gather(name, settings, rows)
    drawn = [chart.svg() for chart in figures(content)]
    for number, svg in enumerate(drawn, start=1):
        write_whole(folder / f"{name}-{number}.svg", svg.encode())
    write_json(folder / "report.json", content)
    write_whole(folder / "report.md", markdown(content, len(drawn)).encode())
    write_whole(folder / "report.html", page(content, drawn).encode())
    print(f"\n{folder}: report.html, report.md, report.json{f', {name}-*.svg' if drawn else ''}")
    return content


def gather(name: str, settings: Settings, rows: list[Row]) -> dict:
    """All that the report says, as plain data (report.json)."""
    steps = commands(rows)
    trained = [task for task in columns(rows) if any(step.kind == "train_it" for step in steps)]
    return {
        "experiment": name,
        "title": NAMES[name],
        "rating": name in ("table13", "table14"),
        "settings": asdict(settings),
        "versions": versions(),
        "commands": {"all": len(steps), "done": sum(state(step) == "done" for step in steps)},
        "rows": [_row(row) for row in rows],
        "printed": [] if any(c.published for r in rows for c in r.cells.values()) else _printed(PRINTED.get(name, {})),
        "training": results.training(steps),
        "differences": results.differences(rows),
        "teaching": teaching(steps),
        "questions": {task: results.side_by_side(rows, task, QUESTIONS) for task in trained},
    }


def markdown(content: dict, figures: int) -> str:
    """report.md; `figures` SVG files lie beside it."""
    parts = [f"# {content['title']}", sections.introduction(content)]
    for section in sections.tables(content):
        parts += [*([f"## {section.title}"] if section.title else []), grid(section.heads, section.lines)]
    parts += [f"![{content['title']}]({content['experiment']}-{number}.svg)" for number in range(1, figures + 1)]
    for section in sections.diagnostics(content):
        parts += [f"## {section.title}", section.said, grid(section.heads, section.lines)]
    return "\n\n".join(parts) + "\n"


def grid(heads: list[str], lines: list[list]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (heads, ["---"] * len(heads), *lines))


def page(content: dict, drawn: list[str]) -> str:
    """report.html, from page.html."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=folder, autoescape=True, trim_blocks=True).get_template("page.html")
    training = content["training"]
    shown = {"charts": [*drawn, *overview(training)], "curves": curves(training)}
    return template.render(content=content, sections=sections, **shown)


def overview(training: list[dict]) -> list[str]:
    """Where there are many runs: both phases on each task, of the first seed and student, a chart a phase; as SVG."""
    wanted = {"phase 1: loss": ("-it", "loss"), "phase 2: how log π(y_w|x̂) moved": ("-sr", "y_w")}
    series: dict[str, dict] = {title: {} for title in wanted}
    for run in training if len(training) > 4 else ():
        path = Path(run["run"])
        for title, (end, curve) in wanted.items():
            task = path.name.removesuffix(end)
            if path.parent == Path(training[0]["run"]).parent and path.name == task + end and "-it-" not in task:
                series[title][task] = run["curves"][curve]
    return [charts.Lines(title, of, "step", width=262, height=265).svg() for title, of in series.items() if of]


def curves(training: list[dict]) -> dict[str, list[str]]:
    """Loss of every run; of phase 2 also the margin and how both sides' log-probabilities moved; as SVG."""
    loss, moved = ("loss", "loss", "validation loss"), ("Δ log π(y|x̂)", "y_w", "y_l")
    drawn: dict[str, list[str]] = {}
    for run in training:
        title = "Phase 1: loss" if run["phase"] == 1 else "Phase 2: loss, margin, and how log π of both sides moved"
        for what, *names in [loss] if run["phase"] == 1 else [loss, ("margin", "margin"), moved]:
            series = {name: run["curves"][name] for name in names if run["curves"][name]}
            drawn.setdefault(title, []).append(charts.Lines(f"{run['title']}: {what}", series, "step").svg())
    return drawn


def figures(content: dict) -> list[charts.Bars | charts.Lines]:
    """Bars per task as in Figures 2, 3 and 5, for Table 1's rows too; curves over demonstrations as in Figure 4."""
    name, rows = content["experiment"], content["rows"]
    panels = dict.fromkeys(row["panel"] for row in rows) if name in DRAWN else ()
    draw = _over_demonstrations if name == "figure4" else partial(_bars, content["teaching"], len(panels) > 1)
    return [chart for panel in panels for chart in draw(panel, [row for row in rows if row["panel"] == panel])]


def _bars(teaching: dict[str, float], several: bool, panel: str, rows: list[dict]) -> list[charts.Bars]:
    """Every method on the task trained on; the line is the teacher, on the same questions or on those it taught."""
    cells: dict[str, dict[str, dict]] = {}
    for row in (row for row in rows if row["method"] != CROSS):
        own = {task: cell for task, cell in row["cells"].items() if row["trained_on"] in ("", task)}
        cells.setdefault(row["method"], {}).update(own)
    teacher = cells.pop(TEACHER, None)
    if teacher:
        teaching = {task: cell["ours"]["mean"] for task, cell in teacher.items() if cell["ours"]}
    tasks = [task for task in cells[REFINED] if all(task in of for of in cells.values())]
    paper = {method: [of[task]["paper"] for task in tasks] for method, of in cells.items()}
    marks = {method: [one and one["mean"] for one in of] for method, of in paper.items()}
    told = [f"accuracy (%){f', {panel}' if several else ''}"]
    told += ["dashed: the teacher" + ("" if teacher else " on what it taught")] if set(tasks) & set(teaching) else []
    told += ["diamonds: published"] if any(mark for of in marks.values() for mark in of) else []

    def bar(cell: dict) -> tuple[float, float | None] | None:
        ours = cell["ours"]
        return ours and (ours["mean"], ours["std"] or ours["item_stderr"])

    return [
        charts.Bars(
            "; ".join(told),
            [titled(task) for task in tasks],
            {method: [bar(of[task]) for task in tasks] for method, of in cells.items()},
            [teaching.get(task) for task in tasks],
            marks,
        )
    ]


def teaching(steps: list[Step]) -> dict[str, float]:
    """Each task's teacher on the questions that it demonstrates, over all seeds, where it has answered them."""
    of_task: dict[str, list[Step]] = {}
    for step in (step for step in steps if step.kind == "annotate" and step.output.name.endswith(TAUGHT)):
        of_task.setdefault(step.output.name.removesuffix(TAUGHT), []).append(step)
    read = {task: results.number(Cell(tuple(of), task, "cot")) for task, of in of_task.items()}
    return {task: number["mean"] for task, number in read.items() if number}


def _over_demonstrations(panel: str, rows: list[dict]) -> list[charts.Lines]:
    shares = {f"{fraction:.0%}": 100 * fraction for fraction in FRACTIONS}
    drawn = []
    for task in rows[0]["cells"]:
        series: dict[str, list[tuple[float, float]]] = {}
        for row in (row for row in rows if row["cells"][task]["ours"]):
            point = shares[row["trained_on"]], row["cells"][task]["ours"]["mean"]
            series.setdefault(row["method"], []).append(point)
        if series:
            title = f"{titled(task)}, {panel}: accuracy (%)"
            drawn.append(charts.Lines(title, series, "% of the demonstrations"))
    return drawn


def _row(row: Row) -> dict:
    cells = {}
    for column, cell in row.cells.items():
        cells[column] = {
            "ours": results.number(cell),
            "paper": cell.published and asdict(cell.published) | {"broken": cell.published.broken},
            "style": results.style(results.answers(cell.steps[0], cell.task, cell.prompt)),
            "from": [str(step.output) for step in cell.steps],
        }
    return {"panel": row.panel, "trained_on": row.trained_on, "method": row.method, "cells": cells}


def _printed(table: dict) -> list[dict]:
    """The paper's own table, to be shown whole where no task of this run is in it."""
    return [
        {"trained_on": task, "method": method, "cells": {t: cell.printed for t, cell in cells.items() if cell}}
        for (task, method), cells in table.items()
    ]
