"""What an experiment is run with: the paper's models and tasks, and what a recipe and the user put in their place."""

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from selfrefine import paper
from selfrefine.errors import UserError
from selfrefine.tasks import pocket
from selfrefine.tasks.own import read_questions

OPENAI = "https://api.openai.com/v1"
SCRIPTED = "pocket"  # the teacher and the judge that need neither weights nor a server
UNTRAINED = ("pocket-unseen",)  # a test without a train split


class Model(NamedTuple):
    """A student or teacher: its folder's name, its name in the paper, what the commands take, its size."""

    key: str
    title: str
    name: str
    billions: float | None  # of parameters; None where it is not known: nothing is estimated then


# Table 4, where the chat versions are meant that the text names; GPT-3.5 is asked at its server
_MODELS = (
    Model("llama-2-7b", "Llama-2-7", "meta-llama/Llama-2-7b-chat-hf", 6.7),
    Model("llama-2-13b", "Llama-2-13", "meta-llama/Llama-2-13b-chat-hf", 13.0),
    Model("llama-2-70b", "Llama-2-70", "meta-llama/Llama-2-70b-chat-hf", 69.0),
    Model("mistral-7b", "Mistral-7", "mistralai/Mistral-7B-Instruct-v0.1", 7.2),
    Model("mixtral-8x7b", "Mixtral8x7", "mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7),
    Model("gpt-3.5", "GPT-3.5", "gpt-3.5-turbo", None),
    Model("pocket", "pocket", "pocket", 0.001),
)
MODELS = {model.key: model for model in _MODELS}


class Pair(NamedTuple):
    """Who teaches whom, and whether they are of one family (§3, Figures 2 and 3)."""

    teacher: Model
    student: Model
    family: str  # "in-family" or "out-family"

    @property
    def title(self) -> str:
        """As the figures' legends have it: teacher -> student."""
        return f"{self.teacher.title} → {self.student.title}"


@dataclass(frozen=True)
class Settings:
    """All that a plan is a function of, besides the experiment's name: `experiments`' flags, by their names."""

    recipe: dict
    output: Path
    student: str | None = None  # None: the experiment's own
    teacher: str | None = None
    tasks: tuple[str, ...] = ()
    also: tuple[str, ...] = ()  # to evaluate on, not to train on
    seeds: tuple[int, ...] = (0,)  # each a whole run of the method
    limit: int | None = None  # questions of each task, to train on and to test
    data: Path | None = None
    train: Path | None = None  # own questions, to train on
    test: Path | None = None  # and to evaluate on
    demonstrations: Path | None = None  # a folder of teachers' answers, TASK.jsonl, in place of annotation
    server: str | None = None
    judge: str = "gpt-4"  # App. H
    judge_server: str | None = None
    control: bool = False  # the equal-compute row

    @property
    def columns(self) -> tuple[str, ...]:
        """The tasks of the experiment's tables."""
        if self.test:
            return tuple(dict.fromkeys(question.task for question in own_questions(self.test)))
        return (self.tasks or paper.TASKS) + self.also

    @property
    def trained(self) -> tuple[str, ...]:
        """The tasks that students are trained on."""
        return tuple(task for task in self.columns if task not in (*UNTRAINED, *self.also))

    def pairs(self, papers: list[Pair]) -> list[Pair]:
        """The paper's teachers and students, with the user's in their place."""
        mine = [pair for pair in papers if self.student in (None, pair.student.key, pair.student.name)]
        student = self.student and model(self.student)
        teacher = self.teacher or (self.demonstrations and self.demonstrations.name)
        teacher = teacher and model(teacher)
        of = mine or papers[:1]
        return list(dict.fromkeys(Pair(teacher or p.teacher, student or p.student, p.family) for p in of))

    def teachers(self) -> list[Model]:
        """Those of Tables 5 and 13."""
        return [model(self.teacher)] if self.teacher else [MODELS[key] for key in paper.TEACHERS]

    def given(self, task: str, prompt: str) -> Path | None:
        """The file of --demonstrations that has answers to a task's training questions; None: a teacher is asked."""
        if not self.demonstrations:
            return None
        names = [f"{task}-train-{prompt}.jsonl"]
        if prompt == "cot":  # the names of the pocket tasks begin alike
            names += [f"{task}.jsonl"] if task in pocket.TASKS else [f"{task}.jsonl", f"{task}-*.jsonl"]
        for name in names:
            if len(found := list(self.demonstrations.glob(name))) == 1:
                return found[0]
        if self.teacher:
            return None
        raise UserError(
            f"--demonstrations {self.demonstrations} has no file for {task}, {prompt} prompt (such as "
            f"{task}{'' if prompt == 'cot' else f'-train-{prompt}'}.jsonl): add it, or a --teacher to ask."
        )

    def server_of(self, teacher: Model) -> str | None:
        """Where a teacher is asked: GPT-3.5 at OpenAI's unless it is the teacher that the user named with --server."""
        if teacher.name.startswith("gpt-") and not (self.server and self.teacher):
            return OPENAI
        return None if teacher.name == SCRIPTED else self.server


def settings(recipe: dict, **given) -> Settings:
    """A recipe's choices, and in their place what is given; UserError for a flag or a task that is none."""
    chosen = {flag.removeprefix("--").replace("-", "_"): value for flag, value in recipe["experiments"].items()}
    if strange := sorted(chosen.keys() - Settings.__dataclass_fields__.keys()):
        raise UserError(f'recipe {recipe["name"]}: "experiments" has no flag --{strange[0].replace("_", "-")}.')
    flags = {"output": Path("runs") / recipe["name"]} | chosen | given
    for name in ("tasks", "also", "seeds"):
        flags[name] = tuple(dict.fromkeys(flags.get(name, Settings.__dataclass_fields__[name].default)))
    for name in ("output", "data", "train", "test", "demonstrations"):  # texts in a recipe
        flags[name] = flags.get(name) and Path(flags[name])
    known = (*paper.TITLES, *pocket.TASKS)
    for task in (*flags["tasks"], *flags["also"]):
        if task not in known:
            raise UserError(f'--tasks: there is no task "{task}": the tasks are {", ".join(known)}.')
    if flags["demonstrations"] and not flags["demonstrations"].is_dir():
        raise UserError(f"--demonstrations {flags['demonstrations']}: there is no such folder.")
    if flags["tasks"] and set(flags["tasks"]) <= set(UNTRAINED):
        raise UserError(f"--tasks {' '.join(flags['tasks'])}: that is a test only, add a task to train on.")
    return Settings(recipe, **flags)


own_questions = lru_cache(read_questions)  # a plan asks for them at every command


def model(name: str) -> Model:
    """A model by its key, by its name on the Hub, or any other: its size is read from its name where it tells."""
    for known in MODELS.values():
        if name in (known.key, known.name):
            return known
    base = Path(name).name
    size = re.search(r"(\d+(?:\.\d+)?)\s*([bm])\b", base, re.IGNORECASE)
    billions = float(size[1]) / (1 if size[2].lower() == "b" else 1000) if size else None
    return Model(base.lower(), base, name, billions)


# The paper's teachers and students (§3.2)
LLAMA_7B = Pair(MODELS["llama-2-70b"], MODELS["llama-2-7b"], "in-family")
LLAMA_13B = Pair(MODELS["llama-2-70b"], MODELS["llama-2-13b"], "in-family")
MISTRAL = Pair(MODELS["mixtral-8x7b"], MODELS["mistral-7b"], "in-family")
IN_FAMILY = [LLAMA_7B, LLAMA_13B, MISTRAL]
OUT_FAMILY = [Pair(MODELS["gpt-3.5"], pair.student, "out-family") for pair in IN_FAMILY]
