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
    The result is kept in `path`, and taken from there where it was made for the same token ids.
    """
    key = hashlib.sha256(json.dumps([[pair.prompt, *pair.responses] for pair in pairs]).encode())
    kept = _kept(path, key.hexdigest(), student.device)
    if kept:
        return kept
    begin = time.perf_counter()
    chosen = torch.full((len(pairs),), torch.nan, device=student.device)
    rejected = chosen.clone()
    student.eval()
    with torch.no_grad(), tqdm(total=sum(map(len, groups)), desc="log-probabilities of the reference") as bar:
        for group in groups:
            for micro in micro_batches(group, pairs, budget):
                batch = collate([pairs[row] for row in micro], student.device)
                chosen[micro], rejected[micro] = response_log_probs(student, batch).view(-1, 2).unbind(1)
                bar.update(len(micro))
                after_each()
    seconds = time.perf_counter() - begin
    tensors = {"chosen": chosen.cpu(), "rejected": rejected.cpu()}
    write_whole(path, save(tensors, metadata={"key": key.hexdigest(), "seconds": str(seconds)}))
    return Reference(chosen, rejected, seconds)


def _kept(path: Path, key: str, device: torch.device) -> Reference | None:
    """What an earlier start of this run computed, if it is whole and for the same token ids."""
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            if file.metadata()["key"] != key:
                return None
            return Reference(file.get_tensor("chosen"), file.get_tensor("rejected"), float(file.metadata()["seconds"]))
    except (OSError, SafetensorError, KeyError):
        return None
