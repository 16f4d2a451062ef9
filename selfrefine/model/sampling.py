"""Sampling answers from the student: y ~ π_inst(· | x) (§2.2), batched, with the sampled token ids kept.

What is drawn for a prompt is a function of its own seed alone: neither the batch it stands in nor the order of the
work changes it (but for the last bits of batched arithmetic).
"""

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import Cache

from selfrefine.errors import UserError
from selfrefine.model.attention import additive
from selfrefine.model.nf4 import dequantized
from selfrefine.model.student import Student, context

BLOCK = 64  # columns by which the cache grows


@dataclass(frozen=True)
class Sampled:
    """A sampled answer: its token ids without the end token, and whether the student ended it itself."""

    ids: list[int]
    ended: bool


class KeyValues(Cache):
    """Keys and values of all layers so far, (rows, h_kv, capacity, d) each, written in place and grown by blocks.

    What is not written yet is zero and must be masked. transformers' own growing cache copies all of it every token.
    """

    def __init__(self):
        super().__init__(layers=[])
        self.capacity = 0
        self.stored: list[list[torch.Tensor]] = []  # [keys, values] of each layer
        self.lengths: list[int] = []

    def reserve(self, length: int) -> int:
        """Make room for `length` columns in all; the number of columns that attention will see."""
        if length > self.capacity:
            self.capacity = -(-length // BLOCK) * BLOCK
            for layer in self.stored:
                layer[:] = [F.pad(part, (0, 0, 0, self.capacity - part.shape[2])) for part in layer]
        return self.capacity

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_, **__) -> tuple[torch.Tensor, torch.Tensor]:
        """Append a layer's new keys and values, (rows, h_kv, T, d); give all, the room for later ones included."""
        if layer == len(self.stored):
            rows, heads, _, size = key.shape
            self.stored.append([key.new_zeros(rows, heads, self.capacity, size) for _ in range(2)])
            self.lengths.append(0)
        begin, end = self.lengths[layer], self.lengths[layer] + key.shape[2]
        keys, values = self.stored[layer]
        keys[:, :, begin:end], values[:, :, begin:end] = key, value
        self.lengths[layer] = end
        return keys, values

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows go on."""
        self.stored = [[part[rows] for part in layer] for layer in self.stored]


def row_seed(seed: int, *key: str) -> int:
    """A seed for one answer from the run's seed and what names the answer (task, question, prompt)."""
    digest = hashlib.sha256("\0".join([str(seed), *key]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def sample(
    student: Student,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    *,
    end_ids: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    batch_size: int = 32,
    done: Container[int] = (),
) -> Iterator[tuple[int, Sampled]]:
    """Yield (index into `prompts`, answer) as answers are done, batches of like length together.

    `temperature` 0 takes the likeliest token; C.2 sets 0.1 for students. All else of generation is at its default.
    An answer that reaches the end of the student's context is cut there, as at `max_new_tokens`; UserError for a prompt
    that leaves it no room. Batches whose every prompt is in `done` are skipped: a resumed run draws in the same
    batches as a straight one.
    """
    room = context(student.config)
    for prompt in prompts:
        if len(prompt) >= room:
            raise UserError(f"a prompt has {len(prompt)} tokens, the student's context {room}: leave it out.")
    longest_first = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    max_new_tokens = min(max_new_tokens, room)
    student.eval()
    with dequantized(student):
        for begin in range(0, len(prompts), batch_size):
            rows = longest_first[begin : begin + batch_size]
            if all(row in done for row in rows):
                continue
            uniforms = torch.stack(
                [torch.rand(max_new_tokens, generator=torch.Generator().manual_seed(seeds[row])) for row in rows]
            )  # (B, max_new_tokens) float32: one draw per token to come
            limits = torch.tensor([min(max_new_tokens, room - len(prompts[row])) for row in rows])  # (B,)
            answers = _sample_batch(student, [prompts[row] for row in rows], uniforms, limits, end_ids, temperature)
            yield from zip(rows, answers, strict=True)


@torch.inference_mode()
def _sample_batch(
    student: Student,
    prompts: list[list[int]],
    uniforms: torch.Tensor,
    limits: torch.Tensor,
    end_ids: Sequence[int],
    temperature: float,
) -> list[Sampled]:
    device, dtype = student.device, student.dtype
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=device)  # (B, T), left pads
    padding = width - lengths  # (B,): from lengths, no token id stands for padding
    positions = (torch.arange(width, device=device) - padding[:, None]).clamp(min=0)  # (B, T), padding not counted
    ends = torch.tensor(list(end_ids), device=device)
    uniforms, limits = uniforms.to(device), limits.to(device)

    cache = KeyValues()
    alive = torch.arange(len(prompts), device=device)  # rows that have not ended yet
    drawn: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for step in range(uniforms.shape[1]):
        columns = torch.arange(cache.reserve(width + step), device=device)
        own = columns[width + step - ids.shape[1] : width + step, None]  # (T, 1): where the new tokens stand
        visible = (columns <= own) & (columns >= padding[:, None, None])  # (alive, T, columns): no padding, no future
        visible |= columns == own  # padding sees itself: no kernel gets a row that sees nothing
        hidden = student.base_model(
            input_ids=ids,
            attention_mask=additive(visible[:, None], dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # (alive, H)
        tokens = draw(student.get_output_embeddings()(hidden).float(), uniforms[alive, step], temperature)  # (alive,)
        stops = torch.isin(tokens, ends)
        for row, token, stop in zip(alive.tolist(), tokens.tolist(), stops.tolist(), strict=True):
            if stop:
                ended[row] = True
            else:
                drawn[row].append(token)
        keep = torch.nonzero(~stops & (step + 1 < limits)).squeeze(1)
        if keep.numel() == 0:
            break
        if keep.numel() < alive.numel():  # ended rows leave the batch
            alive, tokens, positions = alive[keep], tokens[keep], positions[keep]
            padding, limits = padding[keep], limits[keep]
            cache.keep(keep)
        ids = tokens[:, None]
        positions = positions[:, -1:] + 1
    return [Sampled(row, stop) for row, stop in zip(drawn, ended, strict=True)]


def draw(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution: logits (B, V) float32, uniforms (B,) -> (B,)."""
    if temperature < 1e-6:  # 0, or so little that float32 has no such logits
        return logits.argmax(dim=-1)
    cumulative = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1)  # (B, V), its last column near 1
    thresholds = uniforms[:, None] * cumulative[:, -1:]  # scaled, so that rounding cannot leave the vocabulary
    return torch.searchsorted(cumulative, thresholds, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)
