"""Keys and values of what was read and sampled, kept for the tokens to come."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Cache

BLOCK = 64  # columns by which the cache grows


class KeyValues(Cache):
    """Keys and values of all layers, (rows, h_kv, capacity, d) each, a token at the column of its position.

    New ones are written in place, and room is made by blocks: transformers' own growing cache copies all of it every
    token. What stands right of a row's newest token is of no use and must be masked.
    """

    def __init__(self, rows: int):
        super().__init__(layers=[])
        self.rows, self.capacity = rows, 0
        self.stored: list[list[Tensor]] = []  # [keys, values] of each layer
        self.positions = torch.empty(0)  # (n,) int64: where the next token of each of the first n rows is written
        self.length = 0  # columns that these rows attend to, the next token's included

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens a row."""
        if length > self.capacity:
            more = -(-length // BLOCK) * BLOCK - self.capacity
            self.capacity += more
            for layer in self.stored:  # one by one: no more than a layer exists twice
                layer[:] = [F.pad(part, (0, 0, 0, more)) for part in layer]

    def put(self, layer: int, row: int, key: Tensor, value: Tensor) -> None:
        """A layer's keys and values of a prompt, (h_kv, T, d) each, for a row."""
        if layer == len(self.stored):
            self.stored.append([p.new_zeros(self.rows, p.shape[0], self.capacity, p.shape[2]) for p in (key, value)])
        for whole, part in zip(self.stored[layer], (key, value), strict=True):
            whole[row, :, : part.shape[1]] = part

    def move(self, source: int, target: int) -> None:
        """The row `source` stands at `target` from now on."""
        for layer in self.stored:
            for part in layer:
                part[target] = part[source]

    def visible(self, positions: Tensor) -> Tensor:
        """Get ready for a token at each of `positions` (n,); what it may see: (n, 1, 1, length) bool."""
        self.positions, self.length = positions, int(positions.max()) + 1
        self.reserve(self.length)
        return (torch.arange(self.length, device=positions.device) <= positions[:, None])[:, None, None]

    def update(self, key: Tensor, value: Tensor, layer: int, *_, **__) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values of tokens, (n, h_kv, 1, d); all that is attended to, (n, h_kv, length, d)."""
        rows = torch.arange(len(key), device=key.device)
        keys, values = self.stored[layer]
        keys[rows, :, self.positions], values[rows, :, self.positions] = key[:, :, 0], value[:, :, 0]
        return keys[: len(key), :, : self.length], values[: len(key), :, : self.length]
