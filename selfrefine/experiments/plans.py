"""The experiments. What one prints and what it runs are one thing: its commands are those that its cells need."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from selfrefine import paper
from selfrefine.experiments import steps
from selfrefine.experiments.settings import Pair, Settings
from selfrefine.experiments.steps import Step
from selfrefine.paper import BASELINE, BASELINE_COT, CROSS, INSTRUCTED, REFINED, TARGET_ANSWERS, Published

TEACHER = "Teacher CoT"  # Figures 2 and 3: the horizontal lines
CONTROL = "Instruction-tuning, equal compute"
FRACTIONS = (0.25, 0.5, 0.75, 1.0)  # App. C.1
NAMES = {
    "table1": "Table 1: in-domain, out-domain and cross self-refine, Llama-2-7",
    "table10": "Table 10: as Table 1, Llama-2-13",
    "table11": "Table 11: as Table 1, Mistral-7",
    "figure2": "Figure 2: students instructed by teachers of their own family",
    "figure3": "Figure 3: students instructed by GPT-3.5",
    "figure4": "Figure 4: fewer demonstrations, for either phase alone and for both",
    "figure5": "Figure 5: MATH and MMLU, a quarter to train on",
    "table5": "Table 5: the teachers' own accuracy",
    "table13": "Table 13: the quality of the teachers' answers as a judge rates it",
    "table14": "Table 14: the quality of the students' answers as a judge rates it",
    "dpo_answer": "DPO_answer (App. B, Eq. 5) beside DPO_CoT",
    "own": "Your own task: --train FILE and --test FILE, their questions with their answers",
    "quickstart": "The quickstart: trained on one task, evaluated on it and on the others",
}
PRINTED = {"table1": paper.TABLE_1, "table10": paper.TABLE_10, "table11": paper.TABLE_11}
BY_STUDENT = {"llama-2-7b": paper.TABLE_1, "llama-2-13b": paper.TABLE_10, "mistral-7b": paper.TABLE_11}


@dataclass(frozen=True)
class Cell:
    """Where a number is: in the output of `steps`, one per seed, under a task and a prompt; and what was published.

    Of a rating, `answers` names for each seed the files whose answers were rated.
    """

    steps: tuple[Step, ...]
    task: str
    prompt: str
    published: Published | None = None
    answers: tuple[tuple[Path, ...], ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table or a bar's series: which panel it is in, what the student was trained on, how."""

    panel: str
    trained_on: str
    method: str
    cells: dict[str, Cell]


Evaluate = Callable[[list[Step]], dict[str, Cell]]  # the cells of a row, from each seed's run


def plan(name: str, s: Settings) -> list[Row]:
    """The rows of an experiment."""
    if name in WHOLE:
        return WHOLE[name](s)
    return [row for pair in s.pairs(name) for row in OF_A_PAIR.get(name, table_1)(name, s, pair)]


def commands(rows: Iterable[Row]) -> list[Step]:
    """Every command that the rows' cells need, in order, each once."""
    return steps.in_order(step for row in rows for cell in row.cells.values() for step in cell.steps)


def table_1(name: str, s: Settings, pair: Pair) -> list[Row]:
    """Tables 1, 10 and 11: trained on each task, evaluated on all."""
    tasks, trained = s.columns(name), s.trained(name)
    rows = baselines(s, pair, tasks)
    for task in trained:
        rows += in_domain(s, pair, task, partial(everywhere, s, pair, task, tasks))
        crossed = {}
        for other in (other for other in trained if other != task):
            # cell (A, B): phase 1 on A, phase 2 on B, evaluated on B
            runs = [
                steps.refine(s, pair, steps.instruct(s, pair, task, seed), other, f"{task}-it-{other}-sr", seed)
                for seed in s.seeds
            ]
            crossed |= evaluated(s, pair, runs, (other,))
        rows += [Row(pair.title, task, CROSS, crossed)] if crossed else []
    return [replace(row, cells=beside(row, PRINTED[name])) for row in rows]


def one_task(name: str, s: Settings, pair: Pair) -> list[Row]:
    """Trained on own questions (the teacher beside, if one is asked) or on the first task alone, evaluated on all."""
    tasks = s.columns(name)
    task, s = "own" if s.train else tasks[0], replace(s, control=True)
    rows = baselines(s, pair, tasks) + in_domain(s, pair, task, lambda runs: evaluated(s, pair, runs, tasks))
    if s.train and s.teacher:
        rows.append(Row(pair.title, "", TEACHER, {task: teacher_accuracy(s, pair.teacher, task) for task in tasks}))
    title = f"{pair.title}, trained on {paper.TITLES.get(task, task)}"
    return [replace(row, panel=title, trained_on="") for row in rows]


def beside(row: Row, printed: dict[tuple[str, str], dict[str, Published | None]]) -> dict[str, Cell]:
    """A row's cells with what a table of the paper has for them."""
    published = printed.get((row.trained_on, row.method), {})
    return {task: replace(cell, published=published.get(task)) for task, cell in row.cells.items()}


def baselines(s: Settings, pair: Pair, tasks: tuple[str, ...]) -> list[Row]:
    """The bare student at x and at x̂, all of one evaluation of each seed."""
    runs = tuple(steps.evaluate(s, pair.student, None, tasks, ("standard", "cot"), seed) for seed in s.seeds)
    methods = {BASELINE: "standard", BASELINE_COT: "cot"}
    return [Row(pair.title, "", name, {t: Cell(runs, t, prompt) for t in tasks}) for name, prompt in methods.items()]


def in_domain(s: Settings, pair: Pair, task: str, evaluate: Evaluate) -> list[Row]:
    """Trained on one task: after phase 1, after both phases and, where asked for, after as much more of phase 1."""
    instructed = [steps.instruct(s, pair, task, seed) for seed in s.seeds]
    both = [refined(s, pair, task, seed) for seed in s.seeds]
    runs = {INSTRUCTED: instructed, REFINED: both}
    if s.control:
        phases = zip(instructed, both, s.seeds, strict=True)
        runs[CONTROL] = [steps.instruct(s, pair, task, seed, both=(first, second)) for first, second, seed in phases]
    return [Row(pair.title, task, method, evaluate(of)) for method, of in runs.items()]


def refined(s: Settings, pair: Pair, task: str, seed: int) -> Step:
    """Both phases on one task."""
    return steps.refine(s, pair, steps.instruct(s, pair, task, seed), task, f"{task}-sr", seed)


def evaluated(
    s: Settings, pair: Pair, runs: list[Step], tasks: tuple[str, ...], prompt: str = "cot"
) -> dict[str, Cell]:
    """The cells of one evaluation of each seed's run; trained rows are asked at x̂ (Table 3)."""
    seeds = zip(runs, s.seeds, strict=True)
    of = tuple(steps.evaluate(s, pair.student, run, tasks, (prompt,), seed) for run, seed in seeds)
    return {task: Cell(of, task, prompt) for task in tasks}


def everywhere(s: Settings, pair: Pair, own: str, tasks: tuple[str, ...], runs: list[Step]) -> dict[str, Cell]:
    """On the task trained on and, in a command of their own, on the others: the figures share the first."""
    others = tuple(task for task in tasks if task != own)
    cells = evaluated(s, pair, runs, (own,)) | (evaluated(s, pair, runs, others) if others else {})
    return {task: cells[task] for task in tasks}


def on_own_task(
    s: Settings, pair: Pair, run: Callable[[str, int], Step], tasks: tuple[str, ...], prompt: str = "cot"
) -> dict[str, Cell]:
    """The run (a function of task and seed) on every task, evaluated on that task."""
    return {t: evaluated(s, pair, [run(t, seed) for seed in s.seeds], (t,), prompt)[t] for t in tasks}


def bars(name: str, s: Settings, pair: Pair) -> list[Row]:
    """Figures 2, 3 and 5: every task's student before, between and after the phases, and its teacher."""
    trained = s.trained(name)
    rows = baselines(s, pair, s.columns(name))[1 if name == "figure3" else 0 :]
    rows = [replace(row, cells={task: row.cells[task] for task in trained}) for row in rows]
    for method, run in {INSTRUCTED: partial(steps.instruct, s, pair), REFINED: partial(refined, s, pair)}.items():
        rows.append(Row(pair.title, "", method, on_own_task(s, pair, run, trained)))
    # the bars have no numbers, but the in-family students are those of Tables 1, 10 and 11, the teachers Table 5's
    printed = BY_STUDENT.get(pair.student.key, {})

    def published(method: str, task: str) -> Published | None:
        if method in (BASELINE, BASELINE_COT):
            return printed.get(("", method), {}).get(task)
        return printed.get((task, method), {}).get(task) if pair.family == "in-family" else None

    rows = [
        replace(row, cells={t: replace(cell, published=published(row.method, t)) for t, cell in row.cells.items()})
        for row in rows
    ]
    return [*rows, Row(pair.title, "", TEACHER, {task: teacher_accuracy(s, pair.teacher, task) for task in trained})]


def teacher_accuracy(s: Settings, teacher: steps.Model, task: str, split: str = "test", prompt: str = "cot") -> Cell:
    """A teacher on a task's questions, and what Table 5 has."""
    of = tuple(steps.annotate(s, teacher, task, split, prompt, seed) for seed in s.seeds)
    return Cell(of, task, prompt, paper.TABLE_5.get((split, teacher.key, prompt), {}).get(task))


def low_resource(name: str, s: Settings, pair: Pair) -> list[Row]:
    """Figure 4, App. C.1: 25, 50, 75 and 100 % of 3000 demonstrations."""

    def instructed(share: float, task: str, seed: int) -> Step:
        return steps.instruct(s, pair, task, seed, fraction=share)

    def alone(share: float, task: str, seed: int) -> Step:
        return steps.refine(s, pair, None, task, f"{task}-sr-only-{100 * share:.0f}", seed, fraction=share)

    def both(share: float, task: str, seed: int) -> Step:
        first = instructed(share, task, seed)
        return steps.refine(s, pair, first, task, f"{task}-sr-{100 * share:.0f}", seed, fraction=share)

    return [
        Row(pair.title, f"{share:.0%}", method, on_own_task(s, pair, partial(run, share), s.trained(name)))
        for method, run in {INSTRUCTED: instructed, "Self-refine only": alone, REFINED: both}.items()
        for share in FRACTIONS
    ]


def dpo_answer(name: str, s: Settings, pair: Pair) -> list[Row]:
    """Each task's student after phase 1, after DPO_CoT and after DPO_answer, at x̂ and at x."""

    def answering(task: str, seed: int) -> Step:
        first = steps.instruct(s, pair, task, seed)
        return steps.refine(s, pair, first, task, f"{task}-sr-answer", seed, preferred="answer")

    methods = {
        INSTRUCTED: partial(steps.instruct, s, pair),
        f"{REFINED} (DPO_CoT)": partial(refined, s, pair),
        f"{REFINED} (DPO_answer)": answering,
    }
    return [
        Row(pair.title, f"asked at {sign}", method, on_own_task(s, pair, run, s.trained(name), prompt))
        for prompt, sign in (("cot", "x̂"), ("standard", "x"))
        for method, run in methods.items()
    ]


def teachers_accuracy(s: Settings) -> list[Row]:
    """Table 5: on training and testing questions, at x and at x̂."""
    prompts = {BASELINE: "standard", "CoT": "cot"}
    return [
        Row(
            panel,
            "",
            paper.TITLES.get(task, task),
            {
                f"{teacher.title}, {column}": teacher_accuracy(s, teacher, task, split, prompt)
                for teacher in s.teachers()
                for column, prompt in prompts.items()
            },
        )
        for split, panel in (("train", "Training"), ("test", "Testing"))
        for task in s.trained("table5")
    ]


def teachers_quality(s: Settings) -> list[Row]:
    """Table 13: at x, at x̂, and the bare targets."""
    columns = {}
    for teacher in s.teachers():
        rows = [
            Row("", "", method, {t: teacher_accuracy(s, teacher, t, "test", prompt) for t in s.trained("table13")})
            for method, prompt in ((BASELINE, "standard"), (BASELINE_COT, "cot"))
        ]
        published = {("", method): cell for method, cell in paper.TABLE_13.get(teacher.key, {}).items()}
        columns[teacher.title] = rated(s, f"teacher-{teacher.key}", rows, published, targets=True)
    return from_columns(columns)


def students_quality(s: Settings) -> list[Row]:
    """Table 14: before and after each phase, taught in the family and out of it; a student's answers are rated once."""
    tasks, pairs, columns = s.trained("table14"), s.pairs("table14"), {}
    for student in dict.fromkeys(pair.student for pair in pairs):
        mine = [pair for pair in pairs if pair.student == student]
        rows = baselines(s, mine[0], tasks) + [
            Row("", pair.family, method, on_own_task(s, pair, partial(run, s, pair), tasks))
            for pair in mine
            for method, run in ((INSTRUCTED, steps.instruct), (REFINED, refined))
        ]
        published = {row: of.get(student.key) for row, of in paper.TABLE_14.items()}
        columns[student.title] = rated(s, f"student-{student.key}", rows, published)
    return from_columns(columns)


def rated(s: Settings, name: str, rows: list[Row], published: dict, *, targets: bool = False) -> dict[tuple, Cell]:
    """For each row a cell with the rating of all its answers; a seed's answers are rated by one command."""
    seeds = list(enumerate(s.seeds))
    answers = [dict.fromkeys(cell.steps[index] for row in rows for cell in row.cells.values()) for index, _ in seeds]
    judged = tuple(steps.judge(s, name, tuple(answers[index]), seed, targets=targets) for index, seed in seeds)
    files = {
        (row.trained_on, row.method, next(iter(row.cells.values())).prompt): tuple(
            tuple(dict.fromkeys(cell.steps[index].predictions for cell in row.cells.values())) for index, _ in seeds
        )
        for row in rows
    }
    files |= {("", TARGET_ANSWERS, "target"): ((Path("target answers"),),) * len(seeds)} if targets else {}
    return {
        (trained_on, method): Cell(judged, "", prompt, published.get((trained_on, method)), of)
        for (trained_on, method, prompt), of in files.items()
    }


def from_columns(columns: dict[str, dict[tuple[str, str], Cell]]) -> list[Row]:
    """Rows, from a table's columns."""
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return [Row("", *row, {name: column[row] for name, column in columns.items() if row in column}) for row in rows]


WHOLE = {"table5": teachers_accuracy, "table13": teachers_quality, "table14": students_quality}
OF_A_PAIR = {"figure2": bars, "figure3": bars, "figure4": low_resource, "figure5": bars, "dpo_answer": dpo_answer}
OF_A_PAIR |= {"own": one_task, "quickstart": one_task}
