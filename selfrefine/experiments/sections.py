"""The tables of a report: the experiment's own, and what the method needs to be trusted.

That is its pairs and where they moved, how answers are read, what changed, the cost.
"""

import statistics
from typing import NamedTuple

from selfrefine.experiments.plans import CONTROL, TEACHER
from selfrefine.paper import BASELINE_COT, GAPS, INSTRUCTED, KINDS, REFINED, TITLES
from selfrefine.scores import cell as accuracy

NOT_RUN = "–"
SIGNIFICANT = 0.05
STARRED = {INSTRUCTED: BASELINE_COT, REFINED: INSTRUCTED}  # compared with


class Shown(NamedTuple):
    """A cell of the experiment's table: our number, its standard error over questions, the paper's number, whether it
    is of the task trained on, and whether it differs from the row's that it is compared with."""

    ours: str
    error: str = ""
    paper: str = ""
    own: bool = False
    differs: bool = False

    def __str__(self) -> str:
        """ "65.0 ± 0.2 [2.1]* (65.3±.3)" """
        error = f"[{self.error}]{'*' if self.differs else ''}" if self.error else ""
        return " ".join(filter(None, (self.ours, error, f"({self.paper})" if self.paper else "")))


class Section(NamedTuple):
    """A table, with what a reader should know of it; its first columns are names."""

    title: str
    said: str
    heads: list[str]
    lines: list[list[str | Shown]]
    names: int = 1


def titled(name: str) -> str:
    """A task's name in the paper; any other as it is."""
    return TITLES.get(name, name)


def introduction(content: dict) -> str:
    """What the numbers are, and how many of them there are so far."""
    seeds, done = content["settings"]["seeds"], content["commands"]
    of = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
    what = "Mean rating from 1 to 3" if content["rating"] else "Accuracy in percent"
    printed = any(cell["paper"] for row in content["rows"] for cell in row["cells"].values())
    told = [f"{what}, {of}."]
    if not content["rating"]:
        told.append("[ ]: standard error over the questions (binomial).")
    if any(one["p"] < SIGNIFICANT for one in content["differences"]):
        told.append(f"*: differs from the row before, on the task trained on, by more than noise (p < {SIGNIFICANT}).")
    if printed:
        told.append("( ): what the paper prints, of its own models.")
    if done["done"] < done["all"]:
        told.append(f"{done['done']} of {done['all']} commands are done: {NOT_RUN} has not run.")
    return " ".join([*told, content["settings"]["recipe"]["about"]]).strip()


def tables(content: dict) -> list[Section]:
    """The experiment's own table, a panel each."""
    panels: dict[str, list[dict]] = {}
    for row in content["rows"]:
        panels.setdefault(row["panel"], []).append(row)
    differing = {
        (one["panel"], one["trained_on"], one["to"], one["task"])
        for one in content["differences"]
        if one["p"] < SIGNIFICANT and one["from"] == STARRED.get(one["to"])
    }
    return [_panel(title, rows, content["rating"], differing) for title, rows in panels.items()]


def _panel(title: str, rows: list[dict], rating: bool, differing: set[tuple]) -> Section:
    """In the layout of Table 1; without its first column where that would be empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row["cells"]))
    trained = any(row["trained_on"] for row in rows)
    lines = [
        [*([titled(row["trained_on"])] if trained else []), row["method"]]
        + [
            _shown(row["cells"].get(column), rating)._replace(
                own=column == row["trained_on"] and column in row["cells"],
                differs=(title, row["trained_on"], row["method"], column) in differing,
            )
            for column in columns
        ]
        for row in rows
    ]
    return Section(title, "", [*(["trained on"] if trained else []), "", *map(titled, columns)], lines, 1 + trained)


def _shown(cell: dict | None, rating: bool) -> Shown:
    if not cell:  # the table has no such cell
        return Shown("")
    ours, paper = cell["ours"], cell["paper"]
    printed = paper["printed"] + (" (broken in print)" if paper["broken"] else "") if paper else ""
    if not ours:
        return Shown(NOT_RUN, paper=printed)
    if not rating:
        return Shown(accuracy(ours["mean"], ours["std"]), f"{ours['item_stderr']:.1f}", printed)
    return Shown(f"{ours['mean']:.2f}" + ("" if ours["std"] is None else f" ± {ours['std']:.2f}"), paper=printed)


def diagnostics(content: dict) -> list[Section]:
    """The other tables, those that have lines."""
    made = [
        _printed(content),
        _gaps(content),
        _differences(content),
        _pairs(content),
        _reading(content),
        _training(content),
    ]
    return [section for section in made if section.lines]


def _printed(content: dict) -> Section:
    tasks = list(dict.fromkeys(task for row in content["printed"] for task in row["cells"]))
    lines = [
        [titled(row["trained_on"]), row["method"], *(row["cells"].get(task, "") for task in tasks)]
        for row in content["printed"]
    ]
    said = "Other models, other tasks: only directions compare."
    return Section("The paper's own table", said, ["trained on", "", *map(titled, tasks)], lines, 2)


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
        return NOT_RUN
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
                run["title"],
                *(str(run["pairs"][source]) if run["pairs"] else NOT_RUN for source in ("student", "teacher", "none")),
                *(_signed(run["last"][name]) for name in ("chosen_change", "rejected_change", "margin")),
            ]
            for run in content["training"]
            if run["phase"] == 2
        ],
    )


def _signed(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:+.2f}"


def _reading(content: dict) -> Section:
    cells = [(row, column, cell) for row in content["rows"] for column, cell in row["cells"].items() if cell["style"]]
    several = len({row["panel"] for row, _, _ in cells}) > 1
    return Section(
        "Answers: how they are read, and their style",
        "Accuracy by the final answer, which the tables above have, beside the paper's literal rule (the target occurs "
        "anywhere, §3.3). Words an answer, the share that could not be read, and the share cut at the token limit "
        "(no EOS) are the first seed's.",
        ["row", "evaluated on", "final answer (%)", "substring rule (%)", "not read (%)", "words", "without EOS (%)"],
        [
            [
                ", ".join(filter(None, (row["panel"] * several, titled(row["trained_on"]), row["method"]))),
                titled(column),
                *(f"{cell['ours'][name]:.1f}" for name in ("mean", "substring")),
                *(f"{cell['style'][name]:.1f}" for name in ("unread", "words", "cut")),
            ]
            for row, column, cell in cells
        ],
        2,
    )


def _differences(content: dict) -> Section:
    several = len({one["panel"] for one in content["differences"]}) > 1
    return Section(
        "Differences: more than noise?",
        "On the task trained on, paired by question over all seeds. p: how often random signs of the questions' own "
        "differences make one as large, that is, how easily chance alone would.",
        ["task", "from", "to", "points", "became right", "became wrong", "answers", "p"],
        [
            [
                ", ".join(filter(None, (one["panel"] * several, titled(one["task"])))),
                *(one["from"], one["to"]),
                f"{one['difference']:+.1f} ± {one['stderr']:.1f}",
                *(str(one[name]) for name in ("became right", "became wrong", "answers")),
                f"{one['p']:.3f}" if one["p"] >= 0.001 else "< 0.001",
            ]
            for one in content["differences"]
        ],
        3,
    )


def _training(content: dict) -> Section:
    said = "Tokens that went forward only (phase 2's sampling and reference) count a third of a trained one."
    if any(row["method"] == CONTROL for row in content["rows"]):
        said += f' "{CONTROL}" is phase 1 for about as long as both phases cost: the run -control.'
    return Section(
        "Training, and what it cost",
        said,
        ["run", "steps", "tokens", "forward only", "cost", "last loss"],
        [[run["title"], *_cost(run), f"{run['curves']['loss'][-1][1]:.3f}"] for run in content["training"]],
    )


def _cost(run: dict) -> list[str]:
    counts = run["steps"], run["tokens"], run["forward_only"], run["tokens"] + run["forward_only"] // 3
    return [f"{count:,}" for count in counts]
