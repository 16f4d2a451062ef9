"""The tables of a report: the experiment's own, and what the method needs to be trusted.

That is its pairs and where they moved, how answers are read, what changed, the cost.
"""

import statistics
from collections.abc import Callable
from typing import NamedTuple

from selfrefine.experiments.plans import CONTROL, TEACHER
from selfrefine.experiments.results import COMPARED
from selfrefine.paper import GAPS, INSTRUCTED, KINDS, TITLES
from selfrefine.scores import cell as accuracy
from selfrefine.scores import grid

NOT_RUN = "–"
SIGNIFICANT = 0.05


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

    def __str__(self) -> str:
        """The table as Markdown."""
        return grid(self.heads, self.lines)


def titled(name: str) -> str:
    """A task's name in the paper; any other as it is."""
    return TITLES.get(name, name)


def introduction(content: dict) -> str:
    """What the numbers are, and how many of them there are so far."""
    seeds, done = content["settings"]["seeds"], content["commands"]
    of = f"seed {seeds[0]}" if len(seeds) == 1 else f"mean ± standard deviation over seeds {', '.join(map(str, seeds))}"
    told = [f"{'Mean rating from 1 to 3' if content['rating'] else 'Accuracy in percent'}, {of}."]
    if not content["rating"]:
        told.append("[ ]: standard error over the questions (binomial).")
    if any(one["p"] < SIGNIFICANT for one in content["differences"]):
        told.append(f"*: differs from the row before, on the task trained on, by more than noise (p < {SIGNIFICANT}).")
    if any(cell["paper"] for row in content["rows"] for cell in row["cells"].values()):
        told.append("( ): what the paper prints, of its own models.")
    if done["done"] < done["all"]:
        told.append(f"{done['done']} of {done['all']} commands are done: {NOT_RUN} has not run.")
    return " ".join([*told, content["settings"]["recipe"]["about"]]).strip()


def tables(content: dict) -> list[Section]:
    """The experiment's own table, a panel each."""
    differing = {
        (one["panel"], one["trained_on"], one["to"], one["task"])
        for one in content["differences"]
        if one["p"] < SIGNIFICANT and one["from"] == COMPARED[one["to"]][0]
    }

    def shown(row: dict, column: str) -> Shown:
        differs = (row["panel"], row["trained_on"], row["method"], column) in differing
        return _shown(row["cells"].get(column), content["rating"], own=column == row["trained_on"], differs=differs)

    panels = dict.fromkeys(row["panel"] for row in content["rows"])
    return [_layout(panel, "", [row for row in content["rows"] if row["panel"] == panel], shown) for panel in panels]


def _layout(title: str, said: str, rows: list[dict], shown: Callable[[dict, str], Shown | str]) -> Section:
    """Rows as in Table 1, without the first column where it would be empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row["cells"]))
    heads = ["trained on", "", *map(titled, columns)]
    lines = [[titled(row["trained_on"]), row["method"], *(shown(row, column) for column in columns)] for row in rows]
    names = 1 + any(row["trained_on"] for row in rows)
    return Section(title, said, heads[2 - names :], [line[2 - names :] for line in lines], names)


def _shown(cell: dict | None, rating: bool, **where: bool) -> Shown:
    """A cell; `where`: the other fields of Shown."""
    if not cell:  # the table has no such cell
        return Shown("")
    ours, paper = cell["ours"], cell["paper"]
    printed = paper["printed"] + (" (broken in print)" if paper["broken"] else "") if paper else ""
    if not ours:
        return Shown(NOT_RUN, paper=printed, **where)
    error = "" if rating else f"{ours['item_stderr']:.1f}"
    return Shown(accuracy(ours["mean"], ours["std"], 2 if rating else 1), error, printed, **where)


def diagnostics(content: dict) -> list[Section]:
    """The other tables, those that have lines."""
    made = (make(content) for make in (_printed, _gaps, _differences, _pairs, _reading, _training))
    return [section for section in made if section.lines]


def _printed(content: dict) -> Section:
    said = "Other models, other tasks: only directions compare."
    return _layout("The paper's own table", said, content["printed"], lambda row, task: row["cells"].get(task, ""))


def _gaps(content: dict) -> Section:
    """§4.1, for Figures 2 (in-family) and 3 (out-family): a line for each panel and kind of task that is there."""
    printed = GAPS.get({"figure2": "in-family", "figure3": "out-family"}.get(content["experiment"], ""), {})
    lines = []
    for panel in dict.fromkeys(row["panel"] for row in content["rows"]):
        of = {row["method"]: row["cells"] for row in content["rows"] if row["panel"] == panel}
        for kind, average in printed.items():
            pairs = [(of[TEACHER][task], of[INSTRUCTED][task]) for task in KINDS[kind] if task in of[TEACHER]]
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


def _differences(content: dict) -> Section:
    lines = [
        [
            *(_row(one["panel"], one["task"], among=content["differences"]), one["from"], one["to"]),
            f"{one['difference']:+.1f} ± {one['stderr']:.1f}",
            *(one["became right"], one["became wrong"], one["answers"]),
            f"{one['p']:.3f}" if one["p"] >= 0.001 else "< 0.001",
        ]
        for one in content["differences"]
    ]
    return Section(
        "Differences: more than noise?",
        "On the task trained on, paired by question over all seeds. p: how often random signs of the questions' own "
        "differences make one as large, that is, how easily chance alone would.",
        ["task", "from", "to", "points", "became right", "became wrong", "answers", "p"],
        lines,
        3,
    )


def _row(panel: str, *names: str, among: list[dict]) -> str:
    """What a line is of, with its panel where there are several."""
    several = len({one["panel"] for one in among}) > 1
    return ", ".join(filter(None, (panel * several, *map(titled, names))))


def _pairs(content: dict) -> Section:
    moved = ("chosen_change", "rejected_change", "margin")
    lines = [
        [run["title"]]
        + [run["pairs"][source] if run["pairs"] else NOT_RUN for source in ("student", "teacher", "none")]
        + [NOT_RUN if run["last"][name] is None else f"{run['last'][name]:+.2f}" for name in moved]
        for run in content["training"]
        if run["phase"] == 2
    ]
    return Section(
        "Pairs, and how far both sides moved",
        "Eq. 4 prefers the student's ŷ where it is right, else the teacher's â; equal sides make no pair. Then how "
        "log π of both sides changed from π_inst, on validation pairs where there are any: below 0 for y_w, the "
        "preferred answers themselves became less likely (displacement), which the loss does not show.",
        ["run", "ŷ of the student", "â of the teacher", "no pair", "log π(y_w)", "log π(y_l)", "margin"],
        lines,
    )


def _reading(content: dict) -> Section:
    read = [(row, column, cell) for row in content["rows"] for column, cell in row["cells"].items() if cell["style"]]
    rows = [row for row, _, _ in read]
    lines = [
        [_row(row["panel"], row["trained_on"], row["method"], among=rows), titled(column)]
        + [f"{cell['ours'][name]:.1f}" for name in ("mean", "substring")]
        + [f"{cell['style'][name]:.1f}" for name in ("unread", "words", "cut")]
        for row, column, cell in read
    ]
    return Section(
        "Answers: how they are read, and their style",
        "Accuracy by the final answer, which the tables above have, beside the paper's literal rule (the target occurs "
        "anywhere, §3.3). Words an answer, the share that could not be read, and the share cut at the token limit "
        "(no EOS) are the first seed's.",
        ["row", "evaluated on", "final answer (%)", "substring rule (%)", "not read (%)", "words", "without EOS (%)"],
        lines,
        2,
    )


def _training(content: dict) -> Section:
    said = "Tokens that went forward only (phase 2's sampling and reference) count a third of a trained one."
    if any(row["method"] == CONTROL for row in content["rows"]):
        said += f' "{CONTROL}" is phase 1 for about as long as both phases cost: the run -control.'
    lines = []
    for run in content["training"]:
        counts = run["steps"], run["tokens"], run["forward_only"], run["tokens"] + run["forward_only"] // 3
        lines.append([run["title"], *(f"{count:,}" for count in counts), f"{run['curves']['loss'][-1][1]:.3f}"])
    heads = ["run", "steps", "tokens", "forward only", "cost", "last loss"]
    return Section("Training, and what it cost", said, heads, lines)
