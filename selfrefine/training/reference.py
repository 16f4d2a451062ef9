"""The frozen reference's log-probabilities, computed once: π_inst does not change while π_θ does."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from selfrefine import ranks
from selfrefine.files import write_whole
from selfrefine.model.student import Student
from selfrefine.training.batches import Pair


@dataclass(frozen=True)
class Reference:
    """log π_inst(y_w | x̂) and log π_inst(y_l | x̂) of each pair, (P,) float32, NaN where no step needs it."""

    chosen: Tensor
    rejected: Tensor
    seconds: float


@torch.no_grad()
def reference_log_probs(
    student: Student,
    pairs: list[Pair],
    groups: list[list[list[int]]],
    path: Path,
    *,
    pair_log_probs: Callable[[Student, list[Pair]], tuple[Tensor, Tensor]],
    after_each: Callable[[], None],
) -> Reference:
    """Score pairs with the student as it is now: the very function that training takes, without gradient or dropout.

    A group is an optimizer step's micro-batches (or the validation's), of indices into `pairs`: those of training, so
    that at step 0 π_θ / π_inst is 1 to the bit. Each rank scores its own as it will train on them; all get all values.
    Each group's are kept in `path`, and taken from there where they were made in the same way for the same token ids.
    """
    made = [student.device.type, groups, [[pair.prompt, *pair.responses] for pair in pairs]]
    key = "".join(ranks.gathered(hashlib.sha256(json.dumps(made).encode()).hexdigest()))
    nothing = torch.full((len(pairs),), torch.nan)
    chosen, rejected, seconds = ranks.from_first(lambda: _kept(path, key)) or (nothing, nothing.clone(), 0.0)
    student.eval()
    for group in tqdm(groups, desc="log-probabilities of the reference", unit="step"):
        if not any(ranks.gathered(any(chosen[micro].isnan().any().item() for micro in group))):
            continue
        begin, own = time.perf_counter(), []
        for micro in group:
            own.append((micro, *pair_log_probs(student, [pairs[index] for index in micro])))
            after_each()
        own = [(micro, of_chosen.cpu(), of_rejected.cpu()) for micro, of_chosen, of_rejected in own]
        for micro, of_chosen, of_rejected in chain.from_iterable(ranks.gathered(own)):
            chosen[micro], rejected[micro] = of_chosen, of_rejected
        seconds += time.perf_counter() - begin
        if ranks.RANK == 0:
            tensors = {"chosen": chosen, "rejected": rejected}
            write_whole(path, save(tensors, metadata={"key": key, "seconds": str(seconds)}))
    return Reference(chosen.to(student.device), rejected.to(student.device), seconds)


def _kept(path: Path, key: str) -> tuple[Tensor, Tensor, float] | None:
    """What earlier starts of this run computed, if it can be read and was made in the same way."""
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata()["key"] != key:
                return None
            return file.get_tensor("chosen"), file.get_tensor("rejected"), float(file.metadata()["seconds"])
    except (OSError, SafetensorError, KeyError):
        return None
