"""log π_θ(y | x), computed only where a response token is predicted, without ever holding all logits.

The head is frozen and each token's loss is linear in its log-probability, so the gradient of log π(w_t | s_t) to the
hidden state, W[w_t] − softmax(W h)ᵀ W, can be taken chunk by chunk in the forward pass; the backward only scales it.
`losses.plain_log_probs` is the same by the formula, and what the tests compare with.
"""

import torch
from torch import Tensor

from selfrefine.model.attention import additive
from selfrefine.model.student import Student
from selfrefine.training.batches import Batch

CHUNK = 256  # tokens whose logits exist at one time: at a vocabulary of 32,000, 32 MiB in float32


def response_log_probs(student: Student, batch: Batch) -> Tensor:
    """(R,) float32: log π_θ(y | x) of each response, summed over its tokens, row after row."""
    # right padding needs no mask: under causal attention no real token sees what comes after it
    mask = None if batch.visible is None else additive(batch.visible[:, None], student.dtype)
    hidden = student.base_model(
        input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, use_cache=False
    ).last_hidden_state  # (B, T, H), compute dtype
    states = hidden[batch.rows, batch.columns]  # (N, H): s_t, the state before each response token
    per_token = TokenLogProbs.apply(states, student.get_output_embeddings().weight, batch.targets)  # (N,) float32
    return torch.segment_reduce(per_token, "sum", lengths=batch.lengths, unsafe=True)  # (R,): sums, not means


class TokenLogProbs(torch.autograd.Function):
    """log softmax(h Wᵀ)[w] per token, in float32, for a frozen head W.

    states (N, H) in the compute dtype, head (V, H), targets (N,) int64 -> (N,) float32.
    """

    @staticmethod
    def forward(ctx, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        log_probs = torch.empty(len(states), dtype=torch.float32, device=states.device)
        slopes = torch.empty_like(states) if ctx.needs_input_grad[0] else None  # d log π / d state, (N, H)
        for begin in range(0, len(states), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            logits = (states[chunk] @ head.T).float()  # (n, V)
            picked = logits.gather(1, targets[chunk, None])  # (n, 1)
            highest = logits.amax(dim=1, keepdim=True)  # (n, 1), for no exponential to overflow
            weights = logits.sub_(highest).exp_()  # (n, V), in place
            total = weights.sum(dim=1, keepdim=True)  # (n, 1): softmax(h Wᵀ) = weights / total
            log_probs[chunk] = (picked - highest - total.log()).squeeze(1)
            if slopes is not None:
                weights.scatter_add_(1, targets[chunk, None], -total)  # softmax − 1 at w_t, before any rounding
                slopes[chunk] = (weights.to(head.dtype) @ head) / -total
        ctx.slopes = slopes
        return log_probs

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.slopes * gradient[:, None].to(ctx.slopes.dtype), None, None
