"""The commands that experiments are made of, as data: what each runs, from what, into what."""

import hashlib
import os
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from selfrefine.experiments import costs
from selfrefine.experiments.settings import OPENAI, SCRIPTED, Model, Pair, Settings, own_questions
from selfrefine.files import beside, digest
from selfrefine.tasks import pocket

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = {  # each command as one would type it from here
    "annotate": ("-m", "selfrefine.annotate"),
    "train_it": (os.path.relpath(ROOT / "train_it.py"), "--resume"),
    "train_dpo": (os.path.relpath(ROOT / "train_dpo.py"), "--resume"),
    "evaluate": (os.path.relpath(ROOT / "evaluate.py"),),
    "judge": ("-m", "selfrefine.judge"),
}


@dataclass(frozen=True)
class Step:
    """One command: `words` follow the Python interpreter; `inputs` are the steps that must have run before it."""

    kind: str  # of PROGRAMS
    title: str
    words: tuple[str, ...]
    output: Path
    inputs: tuple["Step", ...]
    hours: float | None  # estimated: GPU hours, or hours of the machine on which a recipe's seconds were measured
    needs: str

    @property
    def words_now(self) -> tuple[str, ...]:
        """`words`; where both phases have run, the equal-compute control's epochs are counted from what they cost, not
        estimated: it is the run of phase 1 that has runs among its inputs."""
        both = [step.output for step in self.inputs if (self.kind, step.kind[:5]) == ("train_it", "train")]
        if not both or not all((run / "metrics.jsonl").exists() for run in both):
            return self.words
        at = self.words.index("--epochs") + 1
        return (*self.words[:at], str(costs.equal_epochs(*both)), *self.words[at + 1 :])

    @property
    def line(self) -> str:
        """As one would type it."""
        return shlex.join(["python", *self.words_now])

    @property
    def recipe(self) -> str:
        """What the output is a function of: this command, the user's files that it reads, what made its inputs."""
        read = [digest([Path(word)]) for flag, word in pairwise(self.words) if flag in ("--from", "--questions")]
        whole = "\n".join([shlex.join(self.words), *read, *(step.recipe for step in self.inputs)])
        return hashlib.sha256(whole.encode()).hexdigest()

    @property
    def predictions(self) -> Path:
        """Where the answers lie, question by question: an evaluation's predictions, or the annotation itself."""
        return beside(self.output, ".predictions.jsonl") if self.kind == "evaluate" else self.output


def in_order(wanted: Iterable[Step]) -> list[Step]:
    """The wanted steps and all that they need, each once, none before its inputs."""
    found: dict[Path, Step] = {}
    for step in wanted:
        if step.output not in found:
            found |= {one.output: one for one in (*in_order(step.inputs), step)}
    return list(found.values())


def annotate(s: Settings, teacher: Model, task: str, split: str, prompt: str, seed: int) -> Step:
    """A teacher's answers to a task's questions: demonstrations (split train), or its own accuracy (Table 5)."""
    task = "own" if s.train else task
    own, given = s.train if split == "train" else s.test, s.given(task, prompt) if split == "train" else None
    asked, server = _asked(s, task, split), s.server_of(teacher)
    flags: dict = {"--questions": own} if own else {"--task": task, "--split": split}
    flags |= {"--prompt": prompt, "--teacher": teacher.name}
    needs, hours = "nothing: the teacher is scripted", 0.0
    if given:
        flags, needs = flags | {"--from": given}, "nothing: the answers are given"
    elif server:
        flags, needs = flags | {"--server": server}, f"{_key(server)}about {asked} requests to {server}"
    elif teacher.name != SCRIPTED:
        # a dense 70B in NF4 fits one 48 GB card; of Mixtral, NF4 loading is refused (its experts are fused)
        weights = "nf4" if (teacher.billions or 0) > 60 else "bfloat16"
        flags |= {"--weights": weights} if weights == "nf4" else {}
        needs = f"{costs.memory(teacher.billions, weights)}, or --server"
        hours = costs.answering(teacher.billions, asked, [prompt])
    flags |= s.recipe["annotate"] | _shared(s, task) | {"--seed": seed}
    flags["--output"] = s.output / "demonstrations" / teacher.key / f"seed-{seed}" / f"{task}-{split}-{prompt}.jsonl"
    title = f"{teacher.title} answers {task}, {split} split, {prompt} prompt, seed {seed}"
    return _step(s, "annotate", title, flags, (), hours, needs)


def instruct(s: Settings, pair: Pair, task: str, seed: int, fraction: float = 0, both: tuple[Step, ...] = ()) -> Step:
    """Phase 1 on a task's demonstrations, or on a fraction of 3000 of them (0: on all); the equal-compute control takes
    as long as the runs of `both` phases."""
    demonstrations = annotate(s, pair.teacher, task, "train", "cot", seed)
    name = f"{task}-it{_percent(fraction)}{'-control' if both else ''}"
    flags = {"--student": pair.student.name, "--demonstrations": demonstrations.output}
    flags |= {"--output": _folder(s, pair, seed) / name} | s.recipe["train_it"]
    flags |= ({"--fraction": fraction} if fraction else {}) | {"--seed": seed}
    rows, epochs = _kept(s, pair, task, fraction), s.recipe["train_it"].get("--epochs", costs.EPOCHS)
    if both:
        flags["--epochs"] = epochs = costs.control_epochs(rows, epochs, s.recipe["train_dpo"])
    title, hours = f"phase 1, {pair.title}, {name}, seed {seed}", costs.instructing(pair.student.billions, rows, epochs)
    needs = costs.memory(pair.student.billions, "train")
    return _step(s, "train_it", title, flags, (demonstrations, *both), hours, needs)


def refine(
    s: Settings, pair: Pair, instructed: Step | None, task: str, seed: int, fraction: float = 0, preferred: str = "cot"
) -> Step:
    """Phase 2 on a task's demonstrations from the instructed student; None: from the bare one (Figure 4)."""
    prompts = ("cot", "standard") if preferred == "answer" else ("cot",)  # Eq. 5 falls back to a_i, answered at x
    demonstrations = tuple(annotate(s, pair.teacher, task, "train", prompt, seed) for prompt in prompts)
    inputs = (*demonstrations, instructed) if instructed else demonstrations
    name = f"{task}-sr{'' if instructed else '-only'}{_percent(fraction)}{'-answer' if preferred == 'answer' else ''}"
    if instructed and instructed.inputs[0] not in demonstrations:  # phase 1 was on another task
        name = f"{instructed.output.name}-{name}"
    flags = {"--student": pair.student.name} | ({"--adapter": instructed.output} if instructed else {})
    flags |= {"--demonstrations": [step.output for step in demonstrations], "--output": _folder(s, pair, seed) / name}
    flags |= ({"--preferred": preferred} if preferred != "cot" else {}) | s.recipe["train_dpo"]
    flags |= ({"--fraction": fraction} if fraction else {}) | {"--seed": seed}
    hours = costs.refining(pair.student.billions, _kept(s, pair, task, fraction))
    title, needs = f"phase 2, {pair.title}, {name}, seed {seed}", costs.memory(pair.student.billions, "train")
    return _step(s, "train_dpo", title, flags, inputs, hours, needs)


def evaluate(
    s: Settings, student: Model, adapter: Step | None, tasks: tuple[str, ...], prompts: tuple[str, ...], seed: int
) -> Step:
    """The test questions of tasks, by an adapter or by the bare student.

    The seed says which of Figure 5's questions were trained on; the pocket tasks' test is that of seed 0 for every run.
    """
    folder = adapter.output.parent if adapter else s.output / student.key / f"seed-{seed}"
    on = "own" if s.test else "+".join(tasks)
    name = f"{adapter.output.name if adapter else 'baseline'}-on-{on}-{'+'.join(prompts)}"
    flags = {"--student": student.name} | ({"--adapter": adapter.output} if adapter else {})
    flags |= {"--questions": s.test} if s.test else {"--tasks": list(tasks)}
    flags |= {"--prompts": list(prompts)} | s.recipe["evaluate"] | _shared(s, *tasks)
    flags |= {"--seed": 0 if set(tasks) & set(pocket.TASKS) else seed, "--seeds": seed}
    flags |= {"--output": folder / "evaluations" / f"{name}.json"}
    title = f"evaluation, {student.title}, {name}, seed {seed}"
    hours = costs.answering(student.billions, sum(_asked(s, task, "test") for task in tasks), prompts)
    inputs, needs = (adapter,) if adapter else (), costs.memory(student.billions, "sample")
    return _step(s, "evaluate", title, flags, inputs, hours, needs)


def judge(s: Settings, name: str, answers: tuple[Step, ...], seed: int, *, targets: bool = False) -> Step:
    """The quality of answers (App. H), by the judge at a server; the scripted one rates by rule."""
    flags: dict = {"--targets": targets, "--predictions": [step.predictions for step in answers]}
    needs, server = "nothing: the judge is scripted", s.judge_server or OPENAI
    if s.judge != SCRIPTED or s.judge_server:
        flags, needs = flags | {"--server": server}, f"{_key(server)}requests to {s.judge} at {server}, 50 a task"
    flags |= {"--judge": s.judge} | s.recipe["judge"] | {"--seed": seed}
    flags |= {"--output": s.output / "judged" / f"seed-{seed}" / f"{name}.json"}
    return _step(s, "judge", f"ratings, {name}, seed {seed}", flags, answers, 0.0, needs)


def _step(
    s: Settings, kind: str, title: str, flags: dict, inputs: tuple[Step, ...], hours: float | None, needs: str
) -> Step:
    """The step; a recipe's measured seconds are believed rather than the estimate for GPUs."""
    if s.recipe["seconds"]:
        hours, needs = s.recipe["seconds"][kind] / 3600, needs if kind in ("annotate", "judge") else "a CPU"
    return Step(kind, title, (*PROGRAMS[kind], *words_of(flags)), flags["--output"], inputs, hours, needs)


def words_of(flags: dict) -> list[str]:
    """Flags as the words of a command line: {"--a": [1, 2], "--b": True, "--c": False} is --a 1 2 --b."""
    words = []
    for flag, value in flags.items():
        if value is not False:
            words += [flag, *map(str, value if isinstance(value, list) else [] if value is True else [value])]
    return words


def _folder(s: Settings, pair: Pair, seed: int) -> Path:
    """Of a pair's training runs."""
    return s.output / pair.student.key / pair.teacher.key / f"seed-{seed}"


def _percent(fraction: float) -> str:
    return f"-{100 * fraction:.0f}" if fraction else ""


def _kept(s: Settings, pair: Pair, task: str, fraction: float) -> int:
    """About how many demonstrations a run learns from."""
    return costs.kept(_asked(s, task, "train"), task, pair.teacher.key, fraction)


def _asked(s: Settings, task: str, split: str) -> int:
    """How many questions of a task there are; of own ones, all that are asked at once."""
    own = s.train if split == "train" else s.test
    if own:
        size = sum(task in ("own", question.task) for question in own_questions(own))
        return min(size, s.limit or size)
    return costs.questions(task, split, s.limit)


def _shared(s: Settings, *tasks: str) -> dict:
    """Where questions come from and how many."""
    flags = {"--data": s.data} if s.data and not (s.test or set(tasks) <= set(pocket.TASKS)) else {}
    return flags | ({"--limit": s.limit} if s.limit else {})


def _key(server: str) -> str:
    return "OPENAI_API_KEY and " if server == OPENAI else ""
