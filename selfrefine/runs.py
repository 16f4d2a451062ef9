"""The run folder: claimed by one process, described by `config.json`, refused where it holds another run."""

import importlib.metadata
import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from selfrefine import ranks
from selfrefine.errors import UserError
from selfrefine.files import lock, write_json
from selfrefine.model import DATE, LINEARS

PACKAGES = ("torch", "transformers", "bitsandbytes", "safetensors", "numpy")
# what may differ between a run and its continuation: where and how fast, not what is computed but for dropout's draws
FREE = {"output", "resume", "save_every", "dry_run", "device", "micro_batch_tokens", "gradient_checkpointing"}
FREE |= {"dequantize_once", "sampling_batch_size", "student"}  # whose weights are compared, by `student_id`
# what a run was before there was the setting
BEFORE = {"plain": False, "answers_per_prompt": 1, "schedule": "linear", "chosen_nll": 0.0}
BEFORE |= {"lora_targets": list(LINEARS), "template_date": str(DATE)}
# what is compared by a digest, which tells a reader nothing
_INPUTS = {
    "student_id": "the student's weights",
    "adapter_id": "--adapter's weights",
    "data": "the rows of --demonstrations, --answers or --preferences",
}


class Run:
    """The run folder while one process trains in it: locked, described by `config.json`, and left in good order when a
    signal comes. SIGTERM and SIGINT are noted, and obeyed where what is done is kept; a second one stops at once."""

    def __init__(self, folder: Path, settings: dict, *, resume: bool, disk: int):
        self.folder, self.settings, self.resume, self.disk = folder, settings, resume, disk
        self.requested: int | None = None  # the signal that asked the run to end

    def __enter__(self) -> "Run":
        """Make the folder and claim it, by the first rank; before any weight is loaded.

        Raises UserError, with all that is wrong in one message, where the folder is in use, cannot be written, holds a
        run and `resume` is not given or of other settings, or lacks `disk` bytes of space; and where ranks differ.
        """
        first = ranks.from_first(self._claim)
        differing = [name for name in first if name not in FREE and first[name] != self.settings.get(name)]
        if differing:
            told = ", ".join(_INPUTS.get(name, name) for name in differing)
            raise UserError(f"not all machines have the same {told}: give each the same files.")
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _claim(self) -> dict:
        """Lock, check and describe the folder; gives the settings."""
        self._held = lock(self.folder / ".lock")
        problems = []
        described = self.folder / "config.json"
        if any(path.name not in (".lock", "config.json") for path in self.folder.iterdir()):  # a run that got anywhere
            if not self.resume:
                problems.append(f"--output {self.folder} already holds a run: add --resume to go on, or choose another")
            problems += changes(described, self.settings)
        elif described.exists() and _settings(described) is None:
            problems.append(f"{described} is not of a run: choose another --output")
        free = shutil.disk_usage(self.folder).free
        if free < self.disk:
            free, needed = (f"{size / 2**20:.0f}" for size in (free, self.disk))
            problems.append(f"--output {self.folder} has {free} MiB free, the run needs {needed}")
        if problems:
            self._held.release()
            raise UserError("; ".join(problems) + ".")
        write_json(described, {"settings": self.settings, "versions": versions(), "command": sys.argv})
        return self.settings

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if ranks.RANK == 0:
            self._held.release()

    def _note(self, number: int, _frame) -> None:
        if self.requested is not None and ranks.COUNT == 1:  # a rank has one of the job's and one of torchrun's
            raise KeyboardInterrupt
        self.requested = number
        at_once = "; once more to stop at once" if ranks.COUNT == 1 else ""
        print(f"\nstopping as soon as what is done is kept{at_once}", file=sys.stderr)

    def leave_if_requested(self) -> None:
        """After a signal, end the process with its exit code, 143 or 130; what is done must be on disk."""
        if self.requested is not None:
            print("stopped; --resume goes on from here", file=sys.stderr)
            sys.exit(128 + self.requested)

    def checkpoint(self, keep: Callable[[], None], *, due: bool) -> None:
        """Call `keep` where it is due or a signal came, to any rank, and leave after a signal. One that comes later
        waits: what came after the look has no checkpoint yet."""
        requested = next(filter(None, ranks.gathered(self.requested)), None)
        if requested or due:
            keep()
            self.requested = self.requested or requested
            if requested:
                ranks.gathered(None)  # no rank leaves before the first has written
            self.leave_if_requested()


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
    told = [
        f"{_INPUTS[name]} changed" if name in _INPUTS else f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in sorted((now.keys() | before.keys()) - free)
        if now.get(name) != before.get(name)
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
