"""The head where a response token is predicted, a chunk at a time, its gradient made beside its loss.

Plain (`training/log_probs.py`): log softmax(H Wᵀ) of all B × T states, then `gather`; all logits are held, in float32,
until the backward.
Here only the states that predict a response token go through the head. It is frozen and each token's term is linear
in its log-probability, so the slope d log π(w_t | s_t) / d h = W[w_t] − softmax(h Wᵀ) W is taken in the forward and
only scaled in the backward: no more than `CHUNK` logits exist at one time.
Held equal by tests/test_fast.py::test_head.
"""

import torch
from torch import Tensor

from selfrefine.fast.wide import product_type

CHUNK = 256  # tokens whose logits exist at one time: at a vocabulary of 32,000, 32 MiB in float32


class TokenLogProbs(torch.autograd.Function):
    """log softmax(h Wᵀ)[w] per token, in float32, for a frozen head W.

    states (N, H) in the compute dtype, head (V, H), targets (N,) int64 -> (N,) float32.
    """

    @staticmethod
    def forward(ctx, states: Tensor, head: Tensor, targets: Tensor) -> Tensor:
        log_probs = torch.empty(len(states), dtype=torch.float32, device=states.device)
        slopes = torch.empty_like(states) if ctx.needs_input_grad[0] else None  # d log π / d state, (N, H)
        head = head.to(product_type(states))
        for begin in range(0, len(states), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            logits = (states[chunk].to(head.dtype) @ head.T).float()  # (n, V)
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
