"""The report on an experiment, as far as it has run, in OUTPUT/reports/NAME.

report.html is one file that loads nothing and runs no script: the table with the paper beside it, the curves, question
by question what was answered. report.md is to be read, report.json for machines; each chart is an SVG file too.
"""

from dataclasses import asdict
from pathlib import Path

import jinja2

from selfrefine.experiments import charts, results, sections
from selfrefine.experiments.plans import CONTROL, FRACTIONS, NAMES, PRINTED, TEACHER, Row, commands
from selfrefine.experiments.results import columns
from selfrefine.experiments.run import state
from selfrefine.experiments.sections import titled
from selfrefine.experiments.settings import Settings
from selfrefine.files import write_json, write_whole
from selfrefine.paper import INSTRUCTED, REFINED
from selfrefine.runs import versions

QUESTIONS = 12  # of a task, that report.html shows


def write(name: str, settings: Settings, rows: list[Row]) -> dict:
    """Write the report's files and say where they are; what it says is returned."""
    folder = settings.output / "reports" / name
    folder.mkdir(parents=True, exist_ok=True)
    content = gather(name, settings, rows)
    drawn = [chart.svg() for chart in figures(name, rows)]
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
        "changes": {task: results.changed(rows, task, INSTRUCTED, REFINED) for task in trained},
        "questions": {task: results.side_by_side(rows, task, QUESTIONS) for task in trained},
        "control": CONTROL if any(row.method == CONTROL for row in rows) else None,
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
    return template.render(content=content, sections=sections, charts=drawn, curves=curves(content["training"]))


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


def figures(name: str, rows: list[Row]) -> list[charts.Bars | charts.Lines]:
    """The experiment's charts: bars per task as in Figures 2, 3 and 5, curves over demonstrations as in Figure 4."""
    draw = {"figure4": _over_demonstrations, "figure2": _bars, "figure3": _bars, "figure5": _bars}.get(name)
    panels = dict.fromkeys(row.panel for row in rows) if draw else ()
    return [chart for panel in panels for chart in draw(panel, [row for row in rows if row.panel == panel])]


def _bars(panel: str, rows: list[Row]) -> list[charts.Bars]:
    series = {row.method: row for row in rows}
    teacher, tasks = series.pop(TEACHER), columns(rows)
    numbers = {method: [results.number(row.cells[task]) for task in tasks] for method, row in series.items()}
    levels = [results.number(teacher.cells[task]) for task in tasks]
    published = {method: [row.cells[task].published for task in tasks] for method, row in series.items()}
    return [
        charts.Bars(
            f"accuracy (%), {panel}; dashed: the teacher; diamonds: published",
            [titled(task) for task in tasks],
            {method: [one and (one["mean"], one["std"]) for one in of] for method, of in numbers.items()},
            [one and one["mean"] for one in levels],
            {method: [one and one.mean for one in of] for method, of in published.items()},
        )
    ]


def _over_demonstrations(panel: str, rows: list[Row]) -> list[charts.Lines]:
    shares = {f"{fraction:.0%}": 100 * fraction for fraction in FRACTIONS}
    drawn = []
    for task in columns(rows):
        series: dict[str, list[tuple[float, float]]] = {}
        for row in (row for row in rows if task in row.cells):
            if found := results.number(row.cells[task]):
                series.setdefault(row.method, []).append((shares[row.trained_on], found["mean"]))
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
