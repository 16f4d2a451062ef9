"""`metrics.jsonl`: a line per optimizer step, written as it happens; and the check that stops a run gone wrong."""

import json
import math
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from selfrefine import ranks
from selfrefine.errors import RunError
from selfrefine.files import read_lines, write_whole
from selfrefine.training.checkpoint import Progress


class Metrics:
    """Appends lines to `metrics.jsonl`; each carries the seconds since the one before, so that no time hides.

    Lines after `step`, of a run that went further than its last checkpoint, are cut.
    """

    def __init__(self, folder: Path, step: int):
        path = Path(os.devnull)  # of the ranks after the first
        if ranks.RANK == 0:
            path = folder / "metrics.jsonl"
            rows = read_lines(path, mend=True) if step and path.exists() else ()
            kept = [row for _, row in rows if row.get("step", 0) <= step]
            write_whole(path, "".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115, open as long as the run
        self._before = time.perf_counter()
        self.tokens, self.seconds = 0, 0.0

    def summary(self, progress: Progress) -> str:
        """A line on what this process did."""
        told = f"{progress.step} steps done; here {self.tokens:,} tokens in {self.seconds:.1f} s"
        if progress.best_step is not None:
            told += f"; lowest validation loss {progress.best_loss:.4f}, at step {progress.best_step}, which is kept"
        return told

    def write(self, **values: float) -> None:
        """One line of named numbers."""
        now = time.perf_counter()
        self.tokens += values.get("tokens", 0)
        self.seconds += now - self._before
        self._file.write(json.dumps(values | {"seconds": now - self._before}) + "\n")
        self._before = now


def means(told: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean of each named quantity over the pairs of all micro-batches, (P,) each, of all ranks."""
    own = {name: torch.cat([parts[name] for parts in told]).cpu() for name in told[0]} if told else None
    every = [parts for parts in ranks.gathered(own) if parts]
    return {name: torch.cat([parts[name] for parts in every]).mean().item() for name in every[0]}


def require_finite(loss: float, grad_norm: float, ids: list[str]) -> None:
    """Raise RunError before the optimizer steps where a loss or gradient is not finite, naming the step's rows."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise RunError(
            f"the loss is {loss} and the gradient's norm {grad_norm} on the rows {', '.join(ids[:20])}"
            f"{' ...' if len(ids) > 20 else ''}: nothing was changed by this step, the last checkpoint is good; "
            "look at these rows, or lower --learning-rate."
        )


def require_start(loss: float, margin: float, dtype: torch.dtype) -> None:
    """Raise RunError where step 0 of phase 2 is not at ln 2 and margin 0: then the reference is not π_inst.

    To the bit where a resumed run finds the same micro-batches; else log-probabilities of other batch shapes differ in
    their last bits, which are coarse in bfloat16.
    """
    allowed = 1e-6 if dtype == torch.float32 else 5e-3
    if abs(loss - math.log(2)) > allowed or abs(margin) > 2 * allowed:
        raise RunError(
            f"at the start the loss is {loss:.6f} (should be ln 2 = {math.log(2):.6f}) and the margin {margin:.6f} "
            "(should be 0): the reference is not the student that training starts from; nothing was trained."
        )


def displacement(means: dict[str, float]) -> str:
    """How far both sides moved from π_inst; a warning where y_w itself became less likely, which no loss notices."""
    chosen, rejected = means["chosen_change"], means["rejected_change"]
    told = f"log π(y_w|x̂) changed by {chosen:+.3f}, log π(y_l|x̂) by {rejected:+.3f} on average"
    if chosen < 0:
        told = (
            f"warning: {told}: the preferred answers became less likely, which the validation loss does not show; "
            "read some answers, and lower --learning-rate or --max-steps, or add --chosen-nll, if they got worse"
        )
    return told
