"""log π_θ(y | x) as the paper reads: the plain path (`--plain`). `selfrefine/fast/` has the same functions, sooner."""

from collections.abc import Sequence

from torch import Tensor

from selfrefine.model.student import Student
from selfrefine.training.batches import Example, Pair, collate


def masked_log_probs(logits: Tensor, ids: Tensor, response: Tensor) -> Tensor:
    """Σ_t log π_θ(w_t | s_t) over each row's response (§2.1), in float32: sums, not means.

    logits: (B, T, V) in the compute dtype; ids: (B, T) int64; response: (B, T) bool, true on what is scored. (B,) back.
    """
    log_softmax = logits[:, :-1].float().log_softmax(dim=-1)  # (B, T-1, V): state s_t is all that comes before w_t
    per_token = log_softmax.gather(-1, ids[:, 1:, None]).squeeze(-1)  # (B, T-1): log π_θ(w_t | s_t)
    return per_token.where(response[:, 1:], 0).sum(dim=-1)  # instruction-masked: what is no response adds nothing


def response_log_probs(student: Student, examples: Sequence[Example]) -> Tensor:
    """(B,) float32: log π_θ(y | x) of each example's response."""
    batch = collate(examples, student.device)
    logits = student(input_ids=batch.ids, attention_mask=batch.attended, use_cache=False).logits  # (B, T, V)
    return masked_log_probs(logits, batch.ids, batch.response)


def pair_log_probs(student: Student, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """log π_θ(y_w | x̂) and log π_θ(y_l | x̂), (P,) float32 each: all y_w, then all y_l, are rows of one batch."""
    chosen = [Example(pair.prompt, pair.chosen) for pair in pairs]
    rejected = [Example(pair.prompt, pair.rejected) for pair in pairs]
    return response_log_probs(student, chosen + rejected).chunk(2)


def width(example: Example | Pair) -> int:
    """Tokens that an example or a pair takes in a batch: each response is a row, padded to the longest."""
    return len(example.responses) * (len(example.prompt) + max(map(len, example.responses)))
