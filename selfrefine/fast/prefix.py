"""A prompt computed once for all responses that follow it: y_w and y_l of a pair are branches of one row.

Plain (`training/log_probs.py`): each response is a row of its own, [x̂, y_w] and [x̂, y_l].
Here a row is [x̂, y_w, y_l]; each response goes on where the prompt ends, and sees the prompt and itself:

              x̂₁ x̂₂ w₁ w₂ l₁        position 0 1 2 3 2
        x̂₁    ■
        x̂₂    ■  ■
        w₁    ■  ■  ■
        w₂    ■  ■  ■  ■
        l₁    ■  ■  ·  ·  ■

Held equal by tests/test_fast.py::test_prefix.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from selfrefine.fast.head import TokenLogProbs
from selfrefine.model.student import Student, additive
from selfrefine.training.batches import Example, Pair


def laid_out(rows: Sequence[tuple[list[int], list[list[int]]]], student: nn.Module):
    """Rows of a prompt and what follows it, laid out as above: ids and positions (B, T) int64; the mask that is added
    to attention's scores, (B, 1, T, T), or None without a second branch; the columns where branches begin."""
    longest = max(len(prompt) + sum(map(len, responses)) for prompt, responses in rows)
    ids, positions, branches, starts = [], [], [], []  # in branches 0 is the prompt, n its nth response, −1 padding
    for prompt, responses in rows:
        begin = len(prompt)
        ids.append([*prompt])
        positions.append([*range(begin)])
        branches.append([0] * begin)
        starts.append([])
        for branch, response in enumerate(responses, start=1):
            starts[-1].append(len(ids[-1]))
            ids[-1] += response
            positions[-1] += range(begin, begin + len(response))
            branches[-1] += [branch] * len(response)
        padding = longest - len(ids[-1])
        ids[-1] += [0] * padding
        # after one response positions go on: without a mask, transformers takes a fall in them for packed rows;
        # after branches they are 0: a row may be longer than the context that rotations are made for
        positions[-1] += range(len(positions[-1]), longest) if len(responses) == 1 else [0] * padding
        branches[-1] += [-1] * padding

    mask = None  # right padding needs none: under causal attention no real token sees what comes after it
    if any(len(responses) > 1 for _, responses in rows):
        branch = torch.tensor(branches)
        visible = ((branch[:, :, None] == branch[:, None, :]) | (branch == 0)[:, None, :]).tril()  # (B, T, T) bool
        mask = additive(visible[:, None].to(student.device), student.dtype)
    return _on(student, ids), _on(student, positions), mask, starts


def _on(student: nn.Module, values: list) -> Tensor:
    return torch.tensor(values).to(student.device, non_blocking=True)


def response_log_probs(student: Student, examples: Sequence[Example]) -> Tensor:
    """(R,) float32: log π_θ(y | x) of each example's response. Neighbours that hold one prompt are branches of one row.

    One prompt is one list, not two of the same ids: so a row is what `width` says of its pair.
    """
    same = [list(group) for _, group in groupby(examples, key=lambda example: id(example.prompt))]
    rows = [(group[0].prompt, [example.response for example in group]) for group in same]
    ids, positions, mask, starts = laid_out(rows, student)
    hidden = student.base_model(
        input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state  # (B, T, H), compute dtype
    places, columns, targets, lengths = [], [], [], []  # of each response token: its row, the column that predicts it
    for row, (prompt, responses) in enumerate(rows):
        for response, start in zip(responses, starts[row], strict=True):
            # a branch's first token is predicted by the prompt's last, each other one by that before it
            columns += [len(prompt) - 1, *range(start, start + len(response) - 1)]
            targets += response
            places += [row] * len(response)
            lengths.append(len(response))
    states = hidden[_on(student, places), _on(student, columns)]  # (N, H): s_t, the state before each response token
    head = student.get_output_embeddings().weight
    per_token = TokenLogProbs.apply(states, head, _on(student, targets))  # (N,) float32
    return torch.segment_reduce(per_token, "sum", lengths=_on(student, lengths), unsafe=True)  # (R,), nothing checked


def pair_log_probs(student: Student, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """log π_θ(y_w | x̂) and log π_θ(y_l | x̂), (P,) float32 each, the two sides of a pair beside each other."""
    sides = [Example(pair.prompt, response) for pair in pairs for response in pair.responses]
    return response_log_probs(student, sides).view(-1, 2).unbind(1)


def width(example: Example | Pair) -> int:
    """Tokens that an example or a pair takes in a batch: its prompt once, and every response."""
    return len(example.prompt) + sum(map(len, example.responses))
