"""Recipes: the flags with which an experiment's commands run. What one leaves out stays as the commands have it.

A recipe is a JSON file that anyone can write, like those beside this file:

    {"about": "a sentence for the plan and the report",
     "train_it": {"--learning-rate": 2e-5, "--gradient-checkpointing": true},       flags of a command,
     "annotate": {...}, "train_dpo": {...}, "evaluate": {...}, "judge": {...},
     "experiments": {"--student": "...", "--teacher": "...", "--tasks": [...]},     and of `experiments` itself
     "environment": {"OMP_NUM_THREADS": "1"},                                       unless they are set already
     "seconds": {"train_it": 30, ...}}                                              measured, of one command, for --plan
"""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path

from selfrefine.errors import UserError

FOLDER = Path(__file__).parent
COMMANDS = ("annotate", "train_it", "train_dpo", "evaluate", "judge")
SHIPPED = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


@dataclass(frozen=True)
class Recipe:
    """Flags by command, `experiments` among them; and what is said of it."""

    name: str
    about: str = ""
    experiments: dict = field(default_factory=dict)
    annotate: dict = field(default_factory=dict)
    train_it: dict = field(default_factory=dict)
    train_dpo: dict = field(default_factory=dict)
    evaluate: dict = field(default_factory=dict)
    judge: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    seconds: dict = field(default_factory=dict)


def read(name: str) -> Recipe:
    """A shipped recipe by its name, or anyone's by its file; UserError where it is not one."""
    path = FOLDER / f"{name}.json" if name in SHIPPED else Path(name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--recipe {name}: {error.strerror}; give a JSON file, or {', '.join(SHIPPED)}.") from None
    except ValueError as error:
        raise UserError(f"--recipe {name} is not JSON ({error}): mend it.") from None
    known = {entry.name for entry in fields(Recipe)} - {"name"}
    if not isinstance(found, dict) or not found.keys() <= known:
        raise UserError(f"--recipe {name} must be an object with no other names than {', '.join(sorted(known))}.")
    for part, value in found.items():
        if not isinstance(value, str if part == "about" else dict):
            raise UserError(f'--recipe {name}: "{part}" must be {"a text" if part == "about" else "an object"}.')
        flags = value if part in (*COMMANDS, "experiments") else {}
        if bad := [flag for flag in flags if not flag.startswith("--")]:
            raise UserError(f'--recipe {name}: "{part}" has {bad[0]!r}, which is no flag: flags begin with --.')
    if found.get("seconds") and set(found["seconds"]) != set(COMMANDS):
        raise UserError(f'--recipe {name}: "seconds" must have those of each of {", ".join(COMMANDS)}.')
    return Recipe(path.stem, **found)
