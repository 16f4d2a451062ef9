"""The frozen reference's log-probabilities, computed once: π_inst does not change while π_θ does."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from selfrefine.files import write_whole
from selfrefine.model.encoding import Sequence
from selfrefine.model.student import Student
from selfrefine.training.batches import collate, micro_batches
from selfrefine.training.log_probs import response_log_probs


@dataclass(frozen=True)
class Reference:
    """log π_inst(y_w | x̂) and log π_inst(y_l | x̂) of each pair, (P,) float32, NaN where no step needs it."""

    chosen: Tensor
    rejected: Tensor
    seconds: float


def reference_log_probs(
    student: Student,
    pairs: list[Sequence],
    groups: list[list[int]],
    budget: int,
    path: Path,
    *,
    after_each: Callable[[], None],
) -> Reference:
    """Score the pairs of each group (an optimizer step's rows, or the validation's) with the student as it is now.

    In the very micro-batches of training, `budget` tokens each, so that at step 0 π_θ / π_inst is 1 to the bit.
    Each group's are kept in `path`, and taken from there where they were made in the same way for the same token ids.
    """
    made = [student.device.type, budget, [[pair.prompt, *pair.responses] for pair in pairs]]
    key = hashlib.sha256(json.dumps(made).encode()).hexdigest()
    nothing = torch.full((len(pairs),), torch.nan, device=student.device)
    chosen, rejected, seconds = _kept(path, key, student.device) or (nothing, nothing.clone(), 0.0)
    student.eval()
    with torch.no_grad(), tqdm(total=sum(map(len, groups)), desc="log-probabilities of the reference") as bar:
        for group in groups:
            if not chosen[group].isnan().any():
                bar.update(len(group))
                continue
            begin = time.perf_counter()
            for micro in micro_batches(group, pairs, budget):
                batch = collate([pairs[row] for row in micro], student.device)
                chosen[micro], rejected[micro] = response_log_probs(student, batch).view(-1, 2).unbind(1)
                bar.update(len(micro))
                after_each()
            tensors = {"chosen": chosen.cpu(), "rejected": rejected.cpu()}
            seconds += time.perf_counter() - begin
            write_whole(path, save(tensors, metadata={"key": key, "seconds": str(seconds)}))
    return Reference(chosen, rejected, seconds)


def _kept(path: Path, key: str, device: torch.device) -> tuple[Tensor, Tensor, float] | None:
    """What earlier starts of this run computed, if it can be read and was made in the same way."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            if file.metadata()["key"] != key:
                return None
            return file.get_tensor("chosen"), file.get_tensor("rejected"), float(file.metadata()["seconds"])
    except (OSError, SafetensorError, KeyError):
        return None
