"""The paper's two losses, as pure functions of log-probabilities.

π_θ is the student in training; π_inst, the reference, is the student as phase 1 left it, frozen. log π(y | x) is the
sum over the response's tokens, the end token included where it ended, float32.
"""

from torch import Tensor
from torch.nn import functional as F


def instruction_loss(log_probs: Tensor) -> Tensor:
    """L_inst(θ) = −Σ_t log π_θ(w_t | s_t, i), §2.1, summed over the responses of a batch.

    log_probs: (B,) log π_θ(â | i, q). Returns a scalar. The loop divides once by the optimizer step's response
    tokens, which scales the formula's gradient, and so says where clipping begins.
    """
    return -log_probs.sum()  # §2.1, L_inst


def dpo_margin(
    chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor, beta: float
) -> Tensor:
    """M(x, y_w, y_l), Eq. 2: how much more θ prefers y_w to y_l than the reference does, times β. All (P,)."""
    return beta * (chosen - reference_chosen) - beta * (rejected - reference_rejected)  # Eq. 2


def dpo_loss(margin: Tensor) -> Tensor:
    """L_DPO = −log σ(M), Eq. 1; with M at x̂ and the pairs of Eq. 4, L_DPO_CoT (Eq. 3). (P,) to (P,).

    At M = 0 it is ln 2. Its gradient is ∇L = −β σ(−M) (∇ log π_θ(y_w|x̂) − ∇ log π_θ(y_l|x̂)): a pair counts the less,
    the better it is told apart; π_inst is a constant.
    """
    return -F.logsigmoid(margin)  # Eqs. 1 and 3


def chosen_nll(chosen: Tensor, tokens: Tensor) -> Tensor:
    """−log π_θ(y_w|x̂) per token of y_w, (P,): what --chosen-nll adds to L_DPO, against displacement.

    Not the paper's: the NLL term of Pang et al. (2024, arXiv 2404.19733). chosen: log π_θ(y_w|x̂); tokens: |y_w|.
    """
    return -chosen / tokens
