"""From token ids to the tensors of a micro-batch, and which sequences an optimizer step takes."""

from collections.abc import Sequence as Listed
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequence:
    """A prompt's token ids and those of the response to it, the end token included where it ended."""

    prompt: list[int]
    response: list[int]
    id: str = ""  # the record's, for messages

    @property
    def responses(self) -> tuple[list[int], ...]:
        return (self.response,)


@dataclass(frozen=True)
class Pair:
    """(x̂, y_w, y_l) as token ids: both responses follow the same prompt (Eq. 3)."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    id: str = ""

    @property
    def responses(self) -> tuple[list[int], ...]:
        return self.chosen, self.rejected


@dataclass(frozen=True)
class Batch:
    """B rows, a prompt and a response each, padded on the right to the longest, T tokens."""

    ids: Tensor  # (B, T) int64
    attended: Tensor  # (B, T) bool: what is no padding
    response: Tensor  # (B, T) bool: the instruction mask; true where a token is the response's, so that it is scored


def collate(sequences: Listed[Sequence], device: torch.device) -> Batch:
    """The rows of `sequences`. All masks come from lengths: no token id stands for padding."""
    width = max(len(s.prompt) + len(s.response) for s in sequences)
    ids = torch.zeros(len(sequences), width, dtype=torch.long)
    attended, response = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for row, s in enumerate(sequences):
        end = len(s.prompt) + len(s.response)
        ids[row, :end] = torch.tensor(s.prompt + s.response)
        attended[row, :end] = True
        response[row, len(s.prompt) : end] = True  # instruction-masked: the prompt is conditioned on and never scored
    return Batch(ids.to(device), attended.to(device), response.to(device))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps that see each of `count` sequences or pairs once; the last one may be smaller."""
    return -(-count // batch_size)


def step_indices(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `count` optimizer step `step` (from 0) takes: a pure function, so a resumed run sees the same ones."""
    epoch, position = divmod(step, steps_per_epoch(count, batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    return order[position * batch_size : (position + 1) * batch_size]


def micro_batches(indices: Listed[int], widths: Listed[int], budget: int) -> list[list[int]]:
    """Part a step's indices into micro-batches of like width, each filled up to `budget` tokens, padding included.

    widths[i] is what index i takes by itself. A group takes its size times its widest, and none in it is over a fifth
    narrower; one over the budget goes alone. Widest first: what does not fit in memory fails at once.
    """
    groups: list[list[int]] = []
    for index in sorted(indices, key=lambda index: -widths[index]):
        widest = widths[groups[-1][0]] if groups else 0
        if groups and (len(groups[-1]) + 1) * widest <= budget and widths[index] >= 0.8 * widest:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
