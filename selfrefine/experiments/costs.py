"""What commands cost: before they have run an estimate, good to a factor of two or so; afterwards, counted.

GPU hours are of one A100 with 80 GB. A trained token costs 4 FLOP a parameter (forward, and backward through a frozen
base), a scored one 2, at 60 TFLOP/s: Qwen-7B's README measures 2340 tokens/s of QLoRA, which is 66 TFLOP/s. Sampling
reads the bfloat16 weights once for 32 answers' next token, at half of the card's 2 TB/s, and 15 ms for all else.
Lengths are assumed, not measured.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path

from selfrefine import paper
from selfrefine.files import read_lines
from selfrefine.tasks.splits import LOW_RESOURCE_BASE, POCKET

FLOPS, BANDWIDTH, STEP_SECONDS = 60e12, 1e12, 0.015
BATCH, WASTE = 32, 1.5  # answers sampled at once, and how much longer the longest of them is
PROMPT, ANSWER = 100, {"cot": 200, "standard": 100}  # tokens
BOTH = sum(ANSWER.values())
EPOCHS, STEPS, BATCH_SIZE = 4, 1000, 128  # §3.2.1
KEPT = 0.8  # of a teacher's demonstrations, where Table 5 does not tell
QUARTER = {"math": {"train": 1250, "test": 3750}, "mmlu": {"train": 3510, "test": 10532}}  # Figure 5
FORWARD_ONLY = 1 / 3  # a trained token goes forward and backward (twice a forward), a sampled or scored one forward


def questions(task: str, split: str, limit: int | None) -> int:
    """The questions of a task's split: Table 8's, Figure 5's quarters, the pocket ones."""
    sizes = QUARTER.get(task) or paper.TABLE_8.get(task) or POCKET
    size = sizes[split] * max(sizes.get("classes", 1), 1)
    return min(size, limit or size)


def kept(asked: int, task: str, teacher: str, fraction: float = 0) -> int:
    """Of the questions asked, the demonstrations that a student learns from: those that are right (Table 5), and of
    these a share of 3000."""
    published = paper.TABLE_5.get(("train", task), {}).get((teacher, "cot"))
    right = round((published.mean / 100 if published else KEPT) * asked)
    return max(1, round(fraction * min(right, LOW_RESOURCE_BASE)) if fraction else right)


def answering(billions: float | None, asked: int, prompts: Iterable[str]) -> float | None:
    """GPU hours of a teacher that answers here, or of an evaluation."""
    return _hours(billions, sampled=asked * sum(ANSWER[prompt] for prompt in prompts))


def instructing(billions: float | None, rows: int, epochs: int = EPOCHS) -> float | None:
    """GPU hours of phase 1."""
    return _hours(billions, trained=rows * epochs * (PROMPT + ANSWER["cot"]))


def refining(billions: float | None, rows: int) -> float | None:
    """GPU hours of phase 2: sampling y and ŷ, the reference's log-probabilities, 1000 steps of 128 pairs."""
    pair = PROMPT + BOTH  # x̂ goes through once for both sides
    return _hours(billions, sampled=rows * BOTH, trained=STEPS * BATCH_SIZE * pair, scored=rows * pair)


def control_epochs(rows: int, epochs: int, phase_2: dict) -> int:
    """Epochs of phase 1 that will cost what both phases do, as long as these have not run: see `equal_epochs`.

    From the assumed lengths: a pair has the tokens of 5/3 rows of phase 1 (x̂ twice, y_w and y_l).
    """
    batch = phase_2.get("--batch-size", BATCH_SIZE)
    steps = phase_2["--epochs"] * rows / batch if "--epochs" in phase_2 else phase_2.get("--max-steps", STEPS)
    pair = (2 * PROMPT + BOTH) / (PROMPT + ANSWER["cot"])
    return epochs + math.ceil(pair * (steps * min(batch, rows) / rows + 2 * FORWARD_ONLY))


def spent(run: Path) -> tuple[int, int]:
    """Tokens that a run trained on, and those that phase 2 sent forward only.

    Every pair went forward twice more: when it was sampled, and when the reference scored it.
    """
    trained = [row["tokens"] for _, row in read_lines(run / "metrics.jsonl", torn_end=True) if "tokens" in row]
    made = run / "preferences.jsonl"
    pairs = sum(1 for _ in read_lines(made, torn_end=True)) if made.exists() else 0
    forward = pairs and 2 * pairs * sum(trained) / (len(trained) * min(pairs, _settings(run)["batch_size"]))
    return sum(trained), round(forward)


def equal_epochs(first: Path, second: Path) -> int:
    """Epochs of phase 1 that cost what a run of it and one of phase 2 did together, rounded up: the control's."""
    (phase_1, _), (phase_2, forward), epochs = spent(first), spent(second), _settings(first)["epochs"]
    return epochs + math.ceil(epochs * (phase_2 + FORWARD_ONLY * forward) / phase_1)


def _settings(run: Path) -> dict:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]


def _hours(billions: float | None, sampled: int = 0, trained: int = 0, scored: int = 0) -> float | None:
    if billions is None:
        return None
    parameters = billions * 1e9
    step = 2 * parameters / BANDWIDTH + STEP_SECONDS
    return (WASTE * sampled / BATCH * step + (4 * trained + 2 * scored) * parameters / FLOPS) / 3600


def memory(billions: float | None, work: str) -> str:
    """The GPU memory that a command wants, roughly: training's own `--dry-run` estimates it from the configuration.

    `work`: "train" (2048 tokens at a time, their activations kept), "sample" (weights in bfloat16 while it samples),
    "bfloat16" or "nf4" (a teacher's weights).
    """
    slope, base = {"train": (3.2, 4), "sample": (2, 10), "bfloat16": (2, 2), "nf4": (0.55, 6)}[work]
    return "a GPU" if billions is None else f"a GPU with {slope * billions + base:.0f} GB"
