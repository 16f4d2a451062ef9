"""From rows to micro-batches: which rows a step takes, how they are grouped, and their tensors.

A row is a prompt and its responses, one after the other: [x, a] in phase 1, [x̂, y_w, y_l] in phase 2. The prompt is
computed once for both sides of a pair: each response sees the prompt and itself, at the positions it would have alone.
"""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from selfrefine.model.encoding import Sequence

GROUP_COST = 64  # what a micro-batch takes by itself, dequantising mostly, in the tokens that take as long


@dataclass(frozen=True)
class Batch:
    """B rows padded on the right to T tokens; R responses, N response tokens in all, row after row."""

    ids: Tensor  # (B, T) int64
    positions: Tensor  # (B, T) int64: each response goes on where the prompt ends
    visible: Tensor | None  # (B, T, T) bool: who sees whom; None where each row is one plain sequence
    rows: Tensor  # (N,) int64: the row of each response token
    columns: Tensor  # (N,) int64: where the state is that predicts it: before it, or at the prompt's end
    targets: Tensor  # (N,) int64: the response tokens themselves
    lengths: Tensor  # (R,) int64: tokens per response


def collate(sequences: Rows[Sequence], device: torch.device) -> Batch:
    """The tensors of a micro-batch. Everything comes from lengths: no token id stands for padding."""
    width = max(map(len, sequences))
    ids, positions, branches, columns = [], [], [], []
    for s in sequences:
        prompt, padding = len(s.prompt), width - len(s)
        ids.append([*s.prompt, *(token for response in s.responses for token in response), *[0] * padding])
        own = [t for response in s.responses for t in range(prompt, prompt + len(response))]
        # no jump after one response, which transformers would take for packed rows; a pair may be beyond the context
        beyond = range(len(s), width) if len(s.responses) == 1 else [0] * padding
        positions.append([*range(prompt), *own, *beyond])
        branch = [number for number, response in enumerate(s.responses, start=1) for _ in response]
        branches.append([*[0] * prompt, *branch, *[-1] * padding])
        begin = prompt
        for response in s.responses:
            columns += [prompt - 1, *range(begin, begin + len(response) - 1)][: len(response)]
            begin += len(response)
    rows = [row for row, s in enumerate(sequences) for response in s.responses for _ in response]
    targets = [token for s in sequences for response in s.responses for token in response]
    lengths = [len(response) for s in sequences for response in s.responses]

    visible = None
    if any(len(s.responses) > 1 for s in sequences):
        branch = torch.tensor(branches)
        same = branch[:, :, None] == branch[:, None, :]
        visible = (same | (branch == 0)[:, None, :]).tril().to(device, non_blocking=True)
    tensors = (torch.tensor(values).to(device, non_blocking=True) for values in (ids, positions))
    indices = (torch.tensor(values).to(device, non_blocking=True) for values in (rows, columns, targets, lengths))
    return Batch(*tensors, visible, *indices)


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Optimizer steps that see every row once; the last one may be smaller."""
    return -(-rows // batch_size)


def step_rows(rows: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The rows of optimizer step `step` (from 0): a pure function, so a resumed run sees the same ones."""
    epoch, position = divmod(step, steps_per_epoch(rows, batch_size))
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(rows, generator=generator).tolist()
    return order[position * batch_size : (position + 1) * batch_size]


def micro_batches(rows: Rows[int], sequences: Rows[Sequence], budget: int) -> list[list[int]]:
    """Group a step's rows (indices into `sequences`) by length, so that as few tokens as can be are computed.

    A group takes its size times its longest, at most `budget`; a row longer than that goes alone. Longest first: what
    does not fit in memory fails at once.
    """
    ordered = sorted(rows, key=lambda row: len(sequences[row]), reverse=True)
    best = [(0, 0)]  # for the first n rows: the least cost in tokens, and where their last group begins
    for end in range(1, len(ordered) + 1):
        ways = []
        for begin in reversed(range(end)):
            tokens = (end - begin) * len(sequences[ordered[begin]])  # grows as the group does
            if ways and tokens > budget:
                break
            ways.append((best[begin][0] + tokens + GROUP_COST, begin))
        best.append(min(ways))
    groups, end = [], len(ordered)
    while end:
        begin = best[end][1]
        groups.append(ordered[begin:end])
        end = begin
    return groups[::-1]
