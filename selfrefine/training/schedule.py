"""Learning rates as a factor of the peak, by optimizer step (from 0). The first is a step of the warm-up, not 0."""

import math


def cosine(step: int, steps: int, warmup: int) -> float:
    """Phase 1 (§3.2.1): linear warm-up, then half a cosine from 1 towards 0 at step `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def constant(step: int, steps: int, warmup: int) -> float:
    """Phase 2 as in the code of Rafailov et al.: linear warm-up, then no decay."""
    return (step + 1) / warmup if step < warmup else 1.0


def linear(step: int, steps: int, warmup: int) -> float:
    """Phase 2: linear warm-up (§3.2.1: 100 steps), then the trainer's default decay, linear to 0 at step `steps`."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / (steps - warmup)
