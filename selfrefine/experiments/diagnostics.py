"""What the method needs to be trusted: its pairs and where they moved, how answers are read, what changed, the cost."""

import statistics
from dataclasses import dataclass

from selfrefine.experiments.plans import TEACHER
from selfrefine.paper import GAPS, INSTRUCTED, KINDS, TITLES


@dataclass(frozen=True)
class Section:
    """A table of the report, with what a reader should know of it."""

    title: str
    said: str
    heads: list[str]
    lines: list[list[str]]


def sections(content: dict) -> list[Section]:
    """The tables that have lines."""
    made = [_gaps(content), _pairs(content), _reading(content), _changes(content), _training(content)]
    return [section for section in made if section.lines]


def where(row: dict) -> str:
    """A row's name out of its table."""
    return ", ".join(filter(None, (row["method"], TITLES.get(row["trained_on"], row["trained_on"]), row["panel"])))


def _gaps(content: dict) -> Section:
    """§4.1, for Figures 2 (in-family) and 3 (out-family): a line for each panel and kind of task that is there."""
    printed = GAPS.get({"figure2": "in-family", "figure3": "out-family"}.get(content["experiment"], ""), {})
    lines = []
    for panel in dict.fromkeys(row["panel"] for row in content["rows"]):
        of = {row["method"]: row["cells"] for row in content["rows"] if row["panel"] == panel}
        for kind, average in printed.items():
            tasks = [task for task in KINDS[kind] if task in of[TEACHER]]
            pairs = [(of[TEACHER][task], of[INSTRUCTED][task]) for task in tasks]
            if pairs:
                lines.append([panel, kind, _gap(pairs, "ours"), _gap(pairs, "paper"), f"{average:.1f}"])
    return Section(
        "From the teacher to the instruction-tuned student",
        "Points of accuracy that the student stays below its teacher, on average over the tasks of a kind that are "
        "here; beside it the same from the paper's tables, where they have these models, and §4.1's own average, which "
        "does not say over which models.",
        ["teacher → student", "tasks", "ours", "by the paper's tables", "§4.1"],
        lines,
    )


def _gap(pairs: list[tuple[dict, dict]], whose: str) -> str:
    """The mean difference of pairs of cells; a dash where one of them has no number."""
    if not all(cell[whose] for pair in pairs for cell in pair):
        return "–"
    return f"{statistics.mean(high[whose]['mean'] - low[whose]['mean'] for high, low in pairs):.2f}"


def _pairs(content: dict) -> Section:
    return Section(
        "Pairs, and how far both sides moved",
        "Eq. 4 prefers the student's ŷ where it is right, else the teacher's â; equal sides make no pair. Then how "
        "log π of both sides changed from π_inst, on validation pairs where there are any: below 0 for y_w, the "
        "preferred answers themselves became less likely (displacement), which the loss does not show.",
        ["run", "ŷ of the student", "â of the teacher", "no pair", "log π(y_w)", "log π(y_l)", "margin"],
        [
            [
                _name(run),
                *(str(run["pairs"][source]) for source in ("student", "teacher", "none")),
                *(f"{run['last'][name]:+.2f}" for name in ("chosen_change", "rejected_change", "margin")),
            ]
            for run in content["training"]
            if run["phase"] == 2
        ],
    )


def _reading(content: dict) -> Section:
    cells = [(row, column, cell) for row in content["rows"] for column, cell in row["cells"].items() if cell["style"]]
    return Section(
        "Answers: how they are read, and their style",
        "Accuracy by the final answer, which the tables above have, beside the paper's literal rule (the target occurs "
        "anywhere, §3.3). Words an answer, the share that could not be read, and the share cut at the token limit "
        "(no EOS) are the first seed's.",
        ["row", "evaluated on", "final answer (%)", "substring rule (%)", "not read (%)", "words", "without EOS (%)"],
        [
            [
                where(row),
                TITLES.get(column, column),
                *(f"{cell['ours'][name]:.1f}" for name in ("mean", "substring")),
                *(f"{cell['style'][name]:.1f}" for name in ("unread", "words", "cut")),
            ]
            for row, column, cell in cells
        ],
    )


def _changes(content: dict) -> Section:
    return Section(
        "From instruction-tuning to self-refine",
        "Test questions of the task trained on whose answer became right or wrong, first seed.",
        ["task", "became right", "became wrong", "questions"],
        [[TITLES.get(task, task), *map(str, change.values())] for task, change in content["changes"].items() if change],
    )


def _training(content: dict) -> Section:
    said = "Tokens that went forward only (phase 2's sampling and reference) count a third of a trained one."
    if content["control"]:
        said += f' "{content["control"]}" is phase 1 for about as long as both phases cost: the run -control.'
    return Section(
        "Training, and what it cost",
        said,
        ["run", "steps", "tokens", "forward only", "cost", "last loss"],
        [[_name(run), *_cost(run), f"{run['curves']['loss'][-1][1]:.3f}"] for run in content["training"]],
    )


def _name(run: dict) -> str:
    return run["title"].partition(", ")[2]


def _cost(run: dict) -> list[str]:
    counts = run["steps"], run["tokens"], run["forward_only"], run["tokens"] + run["forward_only"] // 3
    return [f"{count:,}" for count in counts]
