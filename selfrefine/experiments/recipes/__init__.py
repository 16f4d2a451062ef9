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
from pathlib import Path

from selfrefine.errors import UserError

FOLDER = Path(__file__).parent
COMMANDS = ("annotate", "train_it", "train_dpo", "evaluate", "judge")
PARTS = ("experiments", *COMMANDS, "environment", "seconds")  # objects
SHIPPED = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))


def read(name: str) -> dict:
    """A shipped recipe by its name, or anyone's by its file, with every part; UserError where it is not one."""
    path = FOLDER / f"{name}.json" if name in SHIPPED else Path(name)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--recipe {name}: {error.strerror}; give a JSON file, or {', '.join(SHIPPED)}.") from None
    except ValueError as error:
        raise UserError(f"--recipe {name} is not JSON ({error}): mend it.") from None
    if not isinstance(found, dict) or not found.keys() <= {"about", *PARTS}:
        known = ", ".join(sorted(["about", *PARTS]))
        raise UserError(f"--recipe {name} must be an object with no other names than {known}.")
    for part, value in found.items():
        if not isinstance(value, str if part == "about" else dict):
            raise UserError(f'--recipe {name}: "{part}" must be {"a text" if part == "about" else "an object"}.')
        flags = value if part in (*COMMANDS, "experiments") else {}
        if bad := [flag for flag in flags if not flag.startswith("--")]:
            raise UserError(f'--recipe {name}: "{part}" has {bad[0]!r}, which is no flag: flags begin with --.')
    if found.get("seconds") and set(found["seconds"]) != set(COMMANDS):
        raise UserError(f'--recipe {name}: "seconds" must have those of each of {", ".join(COMMANDS)}.')
    return {"name": path.stem, "about": "", **{part: {} for part in PARTS}, **found}
