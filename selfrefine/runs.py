"""The run folder: claimed by one process, described by `config.json`, refused where it holds another run."""

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from selfrefine.errors import UserError
from selfrefine.files import lock, write_json
from selfrefine.model import DATE, LINEARS

PACKAGES = ("torch", "transformers", "bitsandbytes", "safetensors", "numpy")
# what may differ between a run and its continuation: where and how fast, not what is computed but for dropout's draws
FREE = {
    "output",
    "resume",
    "save_every",
    "dry_run",
    "device",
    "micro_batch_tokens",
    "gradient_checkpointing",
    "dequantize_once",
    "sampling_batch_size",
}

# what a run was before there was the setting
BEFORE = {"lora_targets": list(LINEARS), "answers_per_prompt": 1, "schedule": "linear", "template_date": str(DATE)}
# what is compared by a digest, which tells a reader nothing
_INPUTS = {
    "student_id": "the student's weights",
    "adapter_id": "--adapter's weights",
    "data": "the rows of --demonstrations or --preferences",
}


def claim(folder: Path, settings: dict, *, resume: bool, disk: int) -> FileLock:
    """Make the folder, lock it for this process and write `config.json`; before any weight is loaded.

    Returns the lock, to be kept. Raises UserError, with all that is wrong in one message, where the folder is in use,
    cannot be written, holds a run and `resume` is not given or of other settings, or lacks `disk` bytes of space.
    """
    held = lock(folder / ".lock")
    problems = []
    described = folder / "config.json"
    if any(path.name not in (".lock", "config.json") for path in folder.iterdir()):  # a run that got anywhere
        if not resume:
            problems.append(f"--output {folder} already holds a run: add --resume to go on with it, or choose another")
        problems += changes(described, settings)
    elif described.exists() and _settings(described) is None:
        problems.append(f"{described} is not of a run: choose another --output")
    free = shutil.disk_usage(folder).free
    if free < disk:
        problems.append(f"--output {folder} has {free / 2**20:.0f} MiB free, the run needs {disk / 2**20:.0f}")
    if problems:
        raise UserError("; ".join(problems) + ".")
    write_json(described, {"settings": settings, "versions": versions(), "command": sys.argv})
    return held


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    return {"python": sys.version.split()[0]} | {name: importlib.metadata.version(name) for name in PACKAGES}


def changes(described: Path, settings: dict, free: set[str] = FREE) -> list[str]:
    """What is wrong with going on with the run that `described` is of: nothing, or one sentence on what changed."""
    before = _settings(described)
    if before is None:
        return [f"{described} is missing or broken, so the run cannot go on: choose another --output"]
    now = json.loads(json.dumps(settings, default=str))
    before = {name: value for name, value in BEFORE.items() if name in now} | before
    changed = [name for name in sorted(now.keys() | before.keys()) if now.get(name) != before.get(name)]
    told = [
        f"{_INPUTS[name]} changed" if name in _INPUTS else f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in changed
        if name not in free
    ]
    if not told:
        return []
    return [f"{described} is of a run with other settings: {', '.join(told)}; use the same, or another --output"]


def _settings(described: Path) -> dict | None:
    """The settings of the run that a file describes, None where it describes none."""
    try:
        return dict(json.loads(described.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
