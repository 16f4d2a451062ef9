"""The experiments. What one prints and what it runs are one thing: its commands are those that its cells need."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from selfrefine import paper
from selfrefine.experiments import steps
from selfrefine.experiments.settings import IN_FAMILY, LLAMA_7B, LLAMA_13B, MISTRAL, OUT_FAMILY, Model, Pair, Settings
from selfrefine.experiments.steps import Step
from selfrefine.paper import BASELINE, BASELINE_COT, CROSS, INSTRUCTED, REFINED, TARGET_ANSWERS, Published

TEACHER = "Teacher CoT"  # Figures 2 and 3: the horizontal lines
CONTROL = "Instruction-tuning, equal compute"
PROMPTS = {BASELINE: "standard", BASELINE_COT: "cot"}
FRACTIONS = (0.25, 0.5, 0.75, 1.0)  # App. C.1
FIGURE_5_TASKS = ("math", "mmlu")
BY_STUDENT = {"llama-2-7b": paper.TABLE_1, "llama-2-13b": paper.TABLE_10, "mistral-7b": paper.TABLE_11}
Printed = Mapping[tuple[str, str], dict[str, Published | None]]  # a table of the paper


@dataclass(frozen=True)
class Cell:
    """Where a number is: in the output of `steps`, one per seed, under a task and a prompt; and what was published.

    Of a rating, `answers` are the cells whose answers were rated; none: the bare targets.
    """

    steps: tuple[Step, ...]
    task: str
    prompt: str
    published: Published | None = None
    answers: tuple["Cell", ...] = ()


@dataclass(frozen=True)
class Row:
    """A row of a table or a bar's series: which panel it is in, what the student was trained on, how."""

    panel: str
    trained_on: str
    method: str
    cells: dict[str, Cell]


def plan(name: str, s: Settings) -> list[Row]:
    """The rows of an experiment."""
    of = EXPERIMENTS[name]
    if name == "figure5":
        s = replace(s, tasks=s.tasks or FIGURE_5_TASKS)
    rows = [row for pair in s.pairs(of.pairs) for row in of.rows(s, pair)]
    return beside(rows, of.printed) if of.printed else rows


def commands(rows: Iterable[Row]) -> list[Step]:
    """Every command that the rows' cells need, in order, each once."""
    return steps.in_order(step for row in rows for cell in row.cells.values() for step in cell.steps)


def table_1(s: Settings, pair: Pair) -> list[Row]:
    """Tables 1, 10 and 11: trained on each task, evaluated on all."""
    rows = baselines(s, pair)
    for task in s.trained:
        rows += in_domain(s, pair, task, partial(everywhere, s, pair, task))
        crossed = {}
        for other in (other for other in s.trained if other != task):
            # cell (A, B): phase 1 on A, phase 2 on B, evaluated on B
            runs = [steps.refine(s, pair, steps.instruct(s, pair, task, seed), other, seed) for seed in s.seeds]
            crossed |= evaluated(s, pair, runs, (other,))
        rows += [Row(pair.title, task, CROSS, crossed)] if crossed else []
    return rows


def one_task(s: Settings, pair: Pair) -> list[Row]:
    """Trained on own questions (the teacher beside, if one is asked) or on the first task alone, evaluated on all."""
    task, s = "own" if s.train else s.columns[0], replace(s, control=True)
    rows = baselines(s, pair) + in_domain(s, pair, task, lambda runs: evaluated(s, pair, runs, s.columns))
    if s.train and s.teacher:
        rows.append(Row(pair.title, "", TEACHER, {of: teacher_accuracy(s, pair.teacher, of) for of in s.columns}))
    title = f"{pair.title}, trained on {paper.TITLES.get(task, task)}"
    return [replace(row, panel=title, trained_on="") for row in rows]


def beside(rows: list[Row], printed: Printed) -> list[Row]:
    """Rows with what a table of the paper has for their cells. A trained row that names no task is of each cell's."""

    def published(row: Row, task: str) -> Published | None:
        trained_on = "" if row.method in PROMPTS else row.trained_on or task
        return printed.get((trained_on, row.method), {}).get(task)

    return [
        replace(row, cells={t: replace(cell, published=published(row, t)) for t, cell in row.cells.items()})
        for row in rows
    ]


def baselines(s: Settings, pair: Pair) -> list[Row]:
    """The bare student at x and at x̂, all of one evaluation of each seed."""
    runs = tuple(steps.evaluate(s, pair.student, None, s.columns, ("standard", "cot"), seed) for seed in s.seeds)
    methods = {BASELINE: "standard", BASELINE_COT: "cot"}
    return [
        Row(pair.title, "", name, {t: Cell(runs, t, prompt) for t in s.columns}) for name, prompt in methods.items()
    ]


def in_domain(s: Settings, pair: Pair, task: str, evaluate: Callable[[list[Step]], dict[str, Cell]]) -> list[Row]:
    """Trained on one task: after phase 1, after both phases and, where asked for, after as much more of phase 1."""
    instructed = [steps.instruct(s, pair, task, seed) for seed in s.seeds]
    both = [refined(s, pair, task, seed) for seed in s.seeds]
    runs = {INSTRUCTED: instructed, REFINED: both}
    if s.control:
        phases = zip(instructed, both, s.seeds, strict=True)
        runs[CONTROL] = [steps.instruct(s, pair, task, seed, both=(first, second)) for first, second, seed in phases]
    return [Row(pair.title, task, method, evaluate(of)) for method, of in runs.items()]


def refined(s: Settings, pair: Pair, task: str, seed: int, fraction: float = 0, **how) -> Step:
    """Both phases on one task."""
    return steps.refine(s, pair, steps.instruct(s, pair, task, seed, fraction), task, seed, fraction, **how)


def evaluated(
    s: Settings, pair: Pair, runs: list[Step], tasks: tuple[str, ...], prompt: str = "cot"
) -> dict[str, Cell]:
    """The cells of one evaluation of each seed's run; trained rows are asked at x̂ (Table 3)."""
    seeds = zip(runs, s.seeds, strict=True)
    of = tuple(steps.evaluate(s, pair.student, run, tasks, (prompt,), seed) for run, seed in seeds)
    return {task: Cell(of, task, prompt) for task in tasks}


def everywhere(s: Settings, pair: Pair, own: str, runs: list[Step]) -> dict[str, Cell]:
    """On the task trained on and, in a command of their own, on the others: the figures share the first."""
    others = tuple(task for task in s.columns if task != own)
    cells = evaluated(s, pair, runs, (own,)) | (evaluated(s, pair, runs, others) if others else {})
    return {task: cells[task] for task in s.columns}


def on_own_task(s: Settings, pair: Pair, run: Callable[[str, int], Step], prompt: str = "cot") -> dict[str, Cell]:
    """The run (a function of task and seed) on every task, evaluated on that task."""
    return {t: evaluated(s, pair, [run(t, seed) for seed in s.seeds], (t,), prompt)[t] for t in s.trained}


def bars(s: Settings, pair: Pair) -> list[Row]:
    """Figures 2 and 5: every task's student before, between and after the phases, and its teacher."""
    rows = [replace(row, cells={task: row.cells[task] for task in s.trained}) for row in baselines(s, pair)]
    for method, run in {INSTRUCTED: partial(steps.instruct, s, pair), REFINED: partial(refined, s, pair)}.items():
        rows.append(Row(pair.title, "", method, on_own_task(s, pair, run)))
    # the bars have no numbers, but the in-family students are those of Tables 1, 10 and 11, the teachers Table 5's
    printed = BY_STUDENT.get(pair.student.key, {})
    if pair.family != "in-family":
        printed = {(task, method): of for (task, method), of in printed.items() if not task}
    teacher = Row(pair.title, "", TEACHER, {task: teacher_accuracy(s, pair.teacher, task) for task in s.trained})
    return [*beside(rows, printed), teacher]


def bars_at_cot(s: Settings, pair: Pair) -> list[Row]:
    """Figure 3: as Figure 2, without the bare student at x."""
    return [row for row in bars(s, pair) if row.method != BASELINE]


def teacher_accuracy(s: Settings, teacher: Model, task: str, split: str = "test", prompt: str = "cot") -> Cell:
    """A teacher on a task's questions, and what Table 5 has."""
    of = tuple(steps.annotate(s, teacher, task, split, prompt, seed) for seed in s.seeds)
    return Cell(of, task, prompt, paper.TABLE_5.get((split, task), {}).get((teacher.key, prompt)))


def low_resource(s: Settings, pair: Pair) -> list[Row]:
    """Figure 4, App. C.1: 25, 50, 75 and 100 % of 3000 demonstrations."""
    methods = {
        INSTRUCTED: partial(steps.instruct, s, pair),
        "Self-refine only": partial(steps.refine, s, pair, None),
        REFINED: partial(refined, s, pair),
    }
    return [
        Row(pair.title, f"{share:.0%}", method, on_own_task(s, pair, partial(run, fraction=share)))
        for method, run in methods.items()
        for share in FRACTIONS
    ]


def dpo_answer(s: Settings, pair: Pair) -> list[Row]:
    """Each task's student after phase 1, after DPO_CoT and after DPO_answer, at x̂ and at x."""
    methods = {
        INSTRUCTED: partial(steps.instruct, s, pair),
        f"{REFINED} (DPO_CoT)": partial(refined, s, pair),
        f"{REFINED} (DPO_answer)": partial(refined, s, pair, preferred="answer"),
    }
    return [
        Row(pair.title, f"asked at {sign}", method, on_own_task(s, pair, run, prompt))
        for prompt, sign in (("cot", "x̂"), ("standard", "x"))
        for method, run in methods.items()
    ]


def teachers_accuracy(s: Settings, _: Pair) -> list[Row]:
    """Table 5: on training and testing questions, at x and at x̂."""
    rows, columns = [], {BASELINE: "standard", "CoT": "cot"}
    for split, panel in (("train", "Training"), ("test", "Testing")):
        for task in s.trained:
            cells = {
                f"{teacher.title}, {column}": teacher_accuracy(s, teacher, task, split, prompt)
                for teacher in s.teachers()
                for column, prompt in columns.items()
            }
            rows.append(Row(panel, "", paper.TITLES.get(task, task), cells))
    return rows


def teachers_quality(s: Settings, _: Pair) -> list[Row]:
    """Table 13: at x, at x̂, and the bare targets."""
    answers: dict[Model, list[Row]] = {}
    for teacher in s.teachers():
        for method, prompt in PROMPTS.items():
            cells = {task: teacher_accuracy(s, teacher, task, prompt=prompt) for task in s.trained}
            answers.setdefault(teacher, []).append(Row("", "", method, cells))
    return ratings(s, "teacher", answers, paper.TABLE_13)


def students_quality(s: Settings, _: Pair) -> list[Row]:
    """Table 14: before and after each phase, taught in the family and out of it; a student's answers are rated once."""
    s, answers = replace(s, tasks=s.trained, also=()), {}
    for pair in s.pairs(EVERY_PAIR):
        rows = answers.setdefault(pair.student, baselines(s, pair))
        for method, run in ((INSTRUCTED, steps.instruct), (REFINED, refined)):
            rows.append(Row("", pair.family, method, on_own_task(s, pair, partial(run, s, pair))))
    return ratings(s, "student", answers, paper.TABLE_14)


def ratings(s: Settings, kind: str, answers: dict[Model, list[Row]], printed: Printed) -> list[Row]:
    """For each row of answers the rating of them all, a column a model; of a model and seed one command rates all."""
    rated: dict[tuple[str, str], dict[str, Cell]] = {}
    targets = [Row("", "", TARGET_ANSWERS, {})] if ("", TARGET_ANSWERS) in printed else []
    for model, rows in answers.items():
        judged = []
        for index, seed in enumerate(s.seeds):
            every = dict.fromkeys(cell.steps[index] for row in rows for cell in row.cells.values())
            judged.append(steps.judge(s, f"{kind}-{model.key}", tuple(every), seed, targets=bool(targets)))
        for row in rows + targets:
            of, key = tuple(row.cells.values()), (row.trained_on, row.method)
            published = printed.get(key, {}).get(model.key)
            cell = Cell(tuple(judged), "", of[0].prompt if of else "target", published, of)
            rated.setdefault(key, {})[model.title] = cell
    return [Row("", *key, cells) for key, cells in rated.items()]


class Experiment(NamedTuple):
    """Its title, what makes the rows of a pair of teacher and student, the paper's pairs, and its table."""

    title: str
    rows: Callable[[Settings, Pair], list[Row]]
    pairs: Sequence[Pair] = (LLAMA_7B,)
    printed: Printed = MappingProxyType({})


EVERY_PAIR, BOTH = [*IN_FAMILY, *OUT_FAMILY], [LLAMA_7B, OUT_FAMILY[0]]
EXPERIMENTS = {
    "table1": Experiment(
        "Table 1: in-domain, out-domain and cross self-refine, Llama-2-7", table_1, printed=paper.TABLE_1
    ),
    "table10": Experiment("Table 10: as Table 1, Llama-2-13", table_1, [LLAMA_13B], paper.TABLE_10),
    "table11": Experiment("Table 11: as Table 1, Mistral-7", table_1, [MISTRAL], paper.TABLE_11),
    "figure2": Experiment("Figure 2: students instructed by teachers of their own family", bars, IN_FAMILY),
    "figure3": Experiment("Figure 3: students instructed by GPT-3.5", bars_at_cot, OUT_FAMILY),
    "figure4": Experiment("Figure 4: fewer demonstrations, for either phase alone and for both", low_resource, BOTH),
    "figure5": Experiment("Figure 5: MATH and MMLU, a quarter to train on", bars, EVERY_PAIR),
    "table5": Experiment("Table 5: the teachers' own accuracy", teachers_accuracy),
    "table13": Experiment("Table 13: the quality of the teachers' answers as a judge rates it", teachers_quality),
    "table14": Experiment("Table 14: the quality of the students' answers as a judge rates it", students_quality),
    "dpo_answer": Experiment("DPO_answer (App. B, Eq. 5) beside DPO_CoT", dpo_answer),
    "own": Experiment("Your own task: --train FILE and --test FILE, their questions with their answers", one_task),
    "quickstart": Experiment("The quickstart: trained on one task, evaluated on it and on the others", one_task),
}
