"""From token ids to the tensors of a micro-batch, and which of them an optimizer step takes.

B rows, T tokens, P pairs, V words, in all of training/; an index is a place in the run's list of examples or pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A prompt's token ids and those of the response to it, the end token included where it ended."""

    prompt: list[int]
    response: list[int]
    id: str = ""  # the record's, for messages

    @property
    def responses(self) -> tuple[list[int], ...]:
        return (self.response,)


@dataclass(frozen=True)
class Pair:
    """(x̂, y_w, y_l) as token ids: both responses follow the same prompt, x̂ (Eq. 3), or x for Eq. 5."""

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
    response: Tensor  # (B, T) bool, for instruction-masked sums: true where a token is the response's


def collate(examples: Sequence[Example], device: torch.device) -> Batch:
    """A row of each. All masks come from lengths: no token id stands for padding."""
    longest = max(len(example.prompt) + len(example.response) for example in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    attended, response = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids, dtype=torch.bool)
    for row, example in enumerate(examples):
        begin, end = len(example.prompt), len(example.prompt) + len(example.response)
        ids[row, :end] = torch.tensor(example.prompt + example.response)
        attended[row, :end] = True
        response[row, begin:end] = True  # instruction-masked: the prompt is conditioned on and never scored
    return Batch(ids.to(device), attended.to(device), response.to(device))


SEED_STRIDE = 1_000_003  # between the random streams of two seeds: no run has as many steps


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Optimizer steps that see each of `count` examples or pairs once; the last one may be smaller."""
    return -(-count // batch_size)


def step_indices(count: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Which of `count` optimizer step `step` (from 0) takes: a pure function, so a resumed run sees the same ones."""
    epoch, position = divmod(step, steps_per_epoch(count, batch_size))
    generator = torch.Generator().manual_seed(seed * SEED_STRIDE + epoch)
    order = torch.randperm(count, generator=generator).tolist()
    return order[position * batch_size : (position + 1) * batch_size]


def micro_batches(indices: Sequence[int], widths: Sequence[int], budget: int) -> list[list[int]]:
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
