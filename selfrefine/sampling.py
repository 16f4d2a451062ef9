"""Sampling answers from the student: y ~ π_inst(· | x) (§2.2), batched, with the sampled token ids kept.

What is drawn for a prompt is a function of its own seed alone: neither the batch it stands in nor the order of the
work changes it (but for the last bits of batched arithmetic).
"""

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationConfig

from selfrefine.errors import UserError
from selfrefine.fast.dense import dequantized
from selfrefine.model.student import Student, additive, context

BLOCK = 64  # columns by which the cache grows
GREEDY = 1e-6  # a temperature below is 0: float32 has no such logits
TOP_K = 50  # transformers' default, where a repository's generation_config.json says nothing
READ = 8  # prompts read together: few enough to be of like lengths, so that little is padding


@dataclass(frozen=True)
class Sampled:
    """A sampled answer: its token ids without the end token, and whether the student ended it itself."""

    ids: list[int]
    ended: bool


class KeyValues(Cache):
    """Keys and values of all layers, (B, h_kv, capacity, d) each, a token at the column of its position.

    New ones are written in place, and room is made by blocks: transformers' own growing cache copies all of it every
    token. What stands right of a row's newest token is of no use and must be masked.
    """

    def __init__(self, rows: int):
        super().__init__(layers=[])
        self.rows, self.capacity = rows, 0
        self.positions = torch.empty(0)  # (B,) int64: where the next token of each row is written
        self.stored: list[list[torch.Tensor]] = []  # [keys, values] of each layer

    def reserve(self, length: int) -> None:
        """Make room for `length` tokens a row."""
        if length > self.capacity:
            more = -(-length // BLOCK) * BLOCK - self.capacity
            self.capacity += more
            for layer in self.stored:  # one by one: no more than a layer exists twice
                layer[:] = [F.pad(part, (0, 0, 0, more)) for part in layer]

    def put(self, begin: int, read: DynamicCache) -> None:
        """The prompts of the rows from `begin` on, as transformers' cache holds them after reading."""
        for number, layer in enumerate(read.layers):
            both = layer.keys, layer.values  # (b, h_kv, T, d) each
            if number == len(self.stored):
                self.stored.append([p.new_zeros(self.rows, p.shape[1], self.capacity, p.shape[3]) for p in both])
            for whole, part in zip(self.stored[number], both, strict=True):
                whole[begin : begin + len(part), :, : part.shape[2]] = part

    def update(self, key: torch.Tensor, value: torch.Tensor, layer: int, *_, **__) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's keys and values of one new token a row, (B, h_kv, 1, d); give all, unused room included."""
        keys, values = self.stored[layer]
        rows = torch.arange(len(keys), device=keys.device)
        keys[rows, :, self.positions], values[rows, :, self.positions] = key[:, :, 0], value[:, :, 0]
        return keys, values

    def keep(self, rows: torch.Tensor) -> None:
        """Only these rows go on."""
        for layer in self.stored:
            layer[:] = [part[rows] for part in layer]


def row_seed(seed: int, *key: str) -> int:
    """A seed for one answer from the run's seed and what names the answer (task, question, prompt)."""
    digest = hashlib.sha256("\0".join([str(seed), *key]).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def truncation(folder: Path, top_k: int | None, top_p: float | None) -> tuple[int | None, float | None]:
    """The top-k and top-p to sample a model with, each None where nothing is cut: as given (0 and 1: nothing), else
    "the default configurations proposed in the repositories" (Table 4, C.2), which `generate` takes too."""
    try:
        own = GenerationConfig.from_pretrained(folder) if (folder / "generation_config.json").exists() else None
        top_k = (TOP_K if own is None or own.top_k is None else int(own.top_k)) if top_k is None else top_k
        top_p = (1.0 if own is None or own.top_p is None else float(own.top_p)) if top_p is None else top_p
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: its generation_config.json cannot be read ({error}): mend it.") from None
    return top_k if top_k > 0 else None, top_p if 0 < top_p < 1 else None


def told(temperature: float, top_k: int | None, top_p: float | None) -> str:
    """How answers are drawn, for the user."""
    if temperature < GREEDY:
        return "temperature 0, the likeliest token each time"
    return f"temperature {temperature:g}, top-k {top_k or 'off'}, top-p {top_p or 'off'}"


def sample(
    student: Student,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    *,
    end_ids: Sequence[int],
    temperature: float,
    max_new_tokens: int,
    top_k: int | None = None,
    top_p: float | None = None,
    batch_size: int = 32,
    done: Container[int] = (),
) -> Iterator[tuple[int, Sampled]]:
    """Yield (index into `prompts`, answer) as answers are done, batches of like length together.

    `temperature` 0 takes the likeliest token; C.2 sets 0.1 for students. `top_k` and `top_p`: see `truncated`.
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
            pick = partial(draw, temperature=temperature, top_k=top_k, top_p=top_p)
            answers = _sample_batch(student, [prompts[row] for row in rows], uniforms, limits, end_ids, pick)
            yield from zip(rows, answers, strict=True)


@torch.inference_mode()
def _sample_batch(
    student: Student,
    prompts: list[list[int]],
    uniforms: torch.Tensor,
    limits: torch.Tensor,
    end_ids: Sequence[int],
    pick: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[Sampled]:
    device, dtype = student.device, student.dtype
    width = max(map(len, prompts))
    cache = KeyValues(len(prompts))
    cache.reserve(width)
    hidden = torch.cat(  # (B, H)
        [_read(student, prompts[begin : begin + READ], begin, cache) for begin in range(0, len(prompts), READ)]
    )
    positions = torch.tensor([len(prompt) for prompt in prompts], device=device)  # (B,): of the tokens to come
    ends = torch.tensor(list(end_ids), device=device)
    uniforms, limits = uniforms.to(device), limits.to(device)

    alive = torch.arange(len(prompts), device=device)  # rows that have not ended yet
    drawn: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    for step in range(uniforms.shape[1]):
        tokens = pick(student.get_output_embeddings()(hidden).float(), uniforms[alive, step])  # (alive,)
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
            alive, tokens, positions, limits = alive[keep], tokens[keep], positions[keep], limits[keep]
            cache.keep(keep)
        cache.reserve(width + step + 1)
        cache.positions = positions
        visible = torch.arange(cache.capacity, device=device) <= positions[:, None]  # (alive, capacity)
        hidden = student.base_model(
            input_ids=tokens[:, None],
            attention_mask=additive(visible[:, None, None], dtype),
            position_ids=positions[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # (alive, H)
        positions = positions + 1
    return [Sampled(row, stop) for row, stop in zip(drawn, ended, strict=True)]


def _read(student: Student, prompts: list[list[int]], begin: int, cache: KeyValues) -> torch.Tensor:
    """Put the prompts of the rows from `begin` on into the cache; the states that predict their first answer tokens,
    (b, H)."""
    width = max(map(len, prompts))
    ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=student.device)  # (b, T)
    read = DynamicCache()
    # right padding needs no mask: under causal attention no real token sees what comes after it
    hidden = student.base_model(input_ids=ids, past_key_values=read, use_cache=True).last_hidden_state  # (b, T, H)
    cache.put(begin, read)
    return hidden[torch.arange(len(prompts)), [len(prompt) - 1 for prompt in prompts]]


def draw(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution: logits (B, V) float32, uniforms (B,) -> (B,)."""
    if temperature < GREEDY:
        return logits.argmax(dim=-1)
    logits = truncated(logits / temperature, top_k, top_p)
    cumulative = torch.softmax(logits, dim=-1).cumsum(dim=-1)  # (B, V), its last column near 1
    thresholds = uniforms[:, None] * cumulative[:, -1:]  # scaled, so that rounding cannot leave the vocabulary
    return torch.searchsorted(cumulative, thresholds, right=True).squeeze(1).clamp(max=logits.shape[1] - 1)


def truncated(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Logits (B, V) with −∞ for what is not drawn: all but the `top_k` likeliest tokens, and of these all but the
    fewest, likeliest first, whose probabilities sum to `top_p`; equally likely ones share their fate."""
    if top_k is None and top_p is None:
        return logits
    likeliest = logits.topk(min(top_k or logits.shape[1], logits.shape[1]), dim=-1).values  # (B, k), descending
    lowest = likeliest[:, -1:]
    if top_p is not None:
        probabilities = torch.softmax(likeliest, dim=-1)
        enough = probabilities.cumsum(dim=-1) - probabilities >= top_p  # the ones before sum to it already
        lowest = likeliest.masked_fill(enough, torch.inf).amin(dim=-1, keepdim=True)
    return logits.masked_fill(logits < lowest, -torch.inf)
