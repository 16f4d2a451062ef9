"""Sampling answers from the student: y ~ π_inst(· | x) (§2.2), batched, with the sampled token ids kept.

What is drawn for a prompt is a function of its own seed alone: neither the batch it stands in nor the order of the
work changes it (but for the last bits of batched arithmetic).
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import DynamicCache, GenerationConfig

from selfrefine import ranks
from selfrefine.errors import UserError
from selfrefine.fast.decoding import alike
from selfrefine.model.cache import KeyValues
from selfrefine.model.student import Student, additive, context

GREEDY = 1e-6  # a temperature below is 0: float32 has no such logits
LEAST = -86.0  # a CPU's exp takes 20 to 70 times as long below, where float32's normal numbers end
MORE = 14  # than top-k are looked at, for those that are as likely as its last
TOP_K = 50  # transformers' default, where a repository's generation_config.json says nothing
READ = 4  # prompts read together, when so many rows are free
WINDOW = 8  # batches whose rows take each other's places: what is drawn again where a run was stopped, at most


@dataclass(frozen=True)
class Sampled:
    """A sampled answer: its token ids without the end token, and whether the student ended it itself."""

    ids: list[int]
    ended: bool


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


class Plain:
    """transformers' own forward over a cache of `rows` rows, which any causal model has; what `fast.decoding.Decoder`
    does too."""

    def __init__(self, student: Student, rows: int):
        self.student, self.cache = student, KeyValues(rows)

    def read(self, prompts: list[list[int]], begin: int) -> torch.Tensor:
        """Put the prompts into the rows from `begin` on; the logits of their first answer tokens, (b, V) float32."""
        width = max(map(len, prompts))
        ids = torch.tensor([prompt + [0] * (width - len(prompt)) for prompt in prompts], device=self.student.device)
        read = DynamicCache()
        # right padding needs no mask: under causal attention no real token sees what comes after it
        hidden = self.student.base_model(input_ids=ids, past_key_values=read, use_cache=True).last_hidden_state
        self.cache.reserve(width)
        for number, layer in enumerate(read.layers):
            for row, (keys, values) in enumerate(zip(layer.keys, layer.values, strict=True), start=begin):
                self.cache.put(number, row, keys, values)
        last = hidden[torch.arange(len(prompts)), [len(prompt) - 1 for prompt in prompts]]  # (b, H)
        return self.student.get_output_embeddings()(last).float()

    def step(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """A token (n,) more, at `positions` (n,), in the first n rows; the logits of the next, (n, V) float32."""
        hidden = self.student.base_model(
            attention_mask=additive(self.cache.visible(positions), self.student.dtype),  # first: it makes room
            input_ids=tokens[:, None],
            position_ids=positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # (n, H)
        return self.student.get_output_embeddings()(hidden).float()


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
    """Yield (index into `prompts`, answer) as answers are done, `batch_size` at a time: where one ends, another begins.

    `temperature` 0 takes the likeliest token; C.2 sets 0.1 for students. `top_k` and `top_p`: see `truncated`.
    An answer that reaches the end of the student's context is cut there, as at `max_new_tokens`; UserError for a prompt
    that leaves it no room. Prompts are answered in windows of `WINDOW` batches; a window that is all in `done` is
    skipped, any other drawn whole: a resumed run draws in the same batches as a straight one.
    """
    room = context(student.config)
    for prompt in prompts:
        if len(prompt) >= room:
            raise UserError(f"a prompt has {len(prompt)} tokens, the student's context {room}: leave it out.")
    limits = [min(max_new_tokens, room - len(prompt)) for prompt in prompts]
    student.eval()
    order, size = ranks.mine(in_order(prompts), READ), WINDOW * batch_size
    windows = [order[begin : begin + size] for begin in range(0, len(order), size)]
    left = [window for window in windows if not all(index in done for index in window)]
    if left:
        decoder = getattr(student, "decoder", Plain)(student, min(batch_size, len(prompts)))
        pick = partial(draw, temperature=temperature, top_k=top_k, top_p=top_p)
        for window in left:
            yield from _answers(decoder, prompts, seeds, limits, deque(window), end_ids, pick)


def in_order(prompts: Sequence[list[int]]) -> list[int]:
    """The prompts' indices: those that begin alike together, longest first: little is read twice or padded."""
    together = alike(sorted(range(len(prompts)), key=prompts.__getitem__), prompts)
    together.sort(key=lambda group: -max(len(prompts[index]) for index in group))
    return [index for group in together for index in group]


@torch.inference_mode()
def _answers(
    decoder: Plain,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    limits: Sequence[int],
    waiting: deque[int],
    ends: Container[int],
    pick: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Iterator[tuple[int, Sampled]]:
    """A window's answers: `waiting` are its prompts, and `decoder` has as many rows as are answered at a time."""
    capacity = decoder.cache.rows
    rows: list[int] = []  # the prompt that each row of the cache answers; rows that ended leave no hole
    drawn = {index: [] for index in waiting}
    draws = {index: torch.Generator().manual_seed(seeds[index]) for index in waiting}
    logits = torch.empty(0)  # (n, V): of each row's next token
    while waiting or rows:
        due = capacity - len(rows) >= min(READ, capacity, len(waiting))
        while due and waiting and len(rows) < capacity:
            new = [waiting.popleft() for _ in range(min(READ, capacity - len(rows), len(waiting)))]
            read = decoder.read([prompts[index] for index in new], len(rows))
            logits = torch.cat((logits, read)) if rows else read
            rows += new
        uniforms = torch.stack([torch.rand((), generator=draws[index]) for index in rows])  # (n,): one a token
        tokens = pick(logits, uniforms.to(logits.device)).tolist()
        for row in reversed(range(len(rows))):
            index, token = rows[row], tokens[row]
            ended = token in ends
            if not ended:
                drawn[index].append(token)
            if ended or len(drawn[index]) == limits[index]:
                yield index, Sampled(drawn[index], ended)
                if row < len(rows) - 1:
                    decoder.cache.move(len(rows) - 1, row)
                    rows[row], tokens[row] = rows[-1], tokens[len(rows) - 1]
                rows.pop()
        if rows:
            device = logits.device
            positions = [len(prompts[index]) + len(drawn[index]) - 1 for index in rows]  # of the tokens just drawn
            logits = decoder.step(
                torch.tensor(tokens[: len(rows)], device=device), torch.tensor(positions, device=device)
            )


def draw(
    logits: torch.Tensor,
    uniforms: torch.Tensor,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
) -> torch.Tensor:
    """One token per row by inverting the cumulative distribution: logits (B, V) float32, which it
    writes over, uniforms (B,) -> (B,)."""
    if temperature < GREEDY:
        return logits.argmax(dim=-1)
    logits, tokens = logits.div_(temperature), None
    if top_k and top_k + MORE < logits.shape[1]:
        likeliest, indices = logits.topk(top_k + MORE, dim=-1)
        if (likeliest[:, -1] < likeliest[:, top_k - 1]).all():  # all that are as likely as the last of k are here
            tokens = indices.sort(dim=-1).values  # (B, k + MORE), in the vocabulary's order: the same draws
            logits = logits.gather(1, tokens)
    logits = truncated(logits, top_k, top_p)
    weights = logits.sub_(logits.amax(dim=-1, keepdim=True)).clamp_(min=LEAST).exp_()  # (B, V): the softmax, scaled
    weights = F.threshold_(weights, 2 * math.exp(LEAST), 0.0)  # as what is cut has to be
    cumulative = weights.cumsum_(dim=-1)  # in place, as all of it: the vocabulary is large
    thresholds = uniforms[:, None] * cumulative[:, -1:]
    drawn = torch.searchsorted(cumulative, thresholds, right=True).clamp(max=logits.shape[1] - 1)  # (B, 1)
    return (drawn if tokens is None else tokens.gather(1, drawn)).squeeze(1)


def truncated(logits: torch.Tensor, top_k: int | None, top_p: float | None) -> torch.Tensor:
    """Logits (B, V) with −∞ for what is not drawn: all but the `top_k` likeliest tokens, and of these all but the
    fewest, likeliest first, whose probabilities sum to `top_p`; equally likely ones share their fate. In place."""
    if top_k is None and top_p is None:
        return logits
    likeliest = logits.topk(min(top_k or logits.shape[1], logits.shape[1]), dim=-1).values  # (B, k), descending
    lowest = likeliest[:, -1:]
    if top_p is not None:
        probabilities = torch.softmax(likeliest, dim=-1)
        enough = probabilities.cumsum(dim=-1) - probabilities >= top_p  # the ones before sum to it already
        lowest = likeliest.masked_fill(enough, torch.inf).amin(dim=-1, keepdim=True)
    return logits.masked_fill_(logits < lowest, -torch.inf)
