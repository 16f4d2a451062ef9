"""What the paper published, as data: Tables 1, 5, 8, 10, 11, 13 and 14, and §4.1's gaps.

Every cell is kept as it is printed and read by `cell`. Where the print is broken the cell has no ±, and says so:

- Table 5, training, PIQA, Llama-2-70 with CoT: "85.8±.2±.3", two deviations
- Table 5, testing, MultiArith, GPT-3.5 with CoT: "97.4±3", a point is missing or the deviation is 3
- Table 5, testing, SIQA, GPT-3.5: "66.9", no deviation
- Table 11, GSM8K to MultiArith, instruction-tuning: "65.2±.", the digit is missing

Table 10 prints the same baseline means (63.4, 62.8) for CSQA and MultiArith, as if one column were copied.
Figures 2 to 5 have bars without numbers, and the DPO_answer results that App. B promises in "Table 4" are not there.
"""

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import product

TASKS = ("obqa", "csqa", "piqa", "siqa", "gsm8k", "multiarith")  # the columns of Tables 1, 10 and 11
TITLES = {"obqa": "OBQA", "csqa": "CSQA", "piqa": "PIQA", "siqa": "SIQA", "gsm8k": "GSM8K", "multiarith": "MultiArith"}
TITLES |= {"math": "MATH", "mmlu": "MMLU"}

BASELINE, BASELINE_COT = "Baseline", "Baseline CoT"
INSTRUCTED, REFINED, CROSS = "Instruction-tuning", "+ Self-refine", "Cross self-refine"


@dataclass(frozen=True)
class Published:
    """A number of the paper: accuracy in percent, or a rating from 1 to 3; `std` is None where none can be read."""

    mean: float
    std: float | None
    printed: str

    @property
    def broken(self) -> bool:
        """Whether the print cannot be read in full: all accuracies should have a ±, the ratings have none."""
        return self.std is None and self.mean > 3


def cell(printed: str) -> Published | None:
    """Read a cell as it is printed, such as "65.3±.3"; None for "-", a table's empty diagonal."""
    if printed == "-":
        return None
    mean, _, deviation = printed.partition("±")
    return Published(float(mean), float(deviation) if re.fullmatch(r"\.\d", deviation) else None, printed)


def _table(columns: Iterable, printed: str) -> dict[tuple[str, str], dict[Hashable, Published | None]]:
    """{(what stands before a bar, or "", row): {column: number}} of lines such as "obqa | + Self-refine: 70.8±.3"."""
    rows = {}
    for line in printed.strip().split("\n"):
        label, cells = line.split(":")
        left, _, row = label.rpartition(" | ")
        rows[left, row] = dict(zip(columns, map(cell, cells.split()), strict=True))
    return rows


# Table 1: Llama-2-7, instructed by Llama-2-70; {(task trained on, or "", row): {task evaluated on: accuracy}}
_TABLE_1 = """
Baseline: 53.6±.2 50.6±.4 61.6±.1 46.5±.3 68.2±.5 69.5±.2
Baseline CoT: 49.5±.4 55.8±.3 63.8±.1 51.3±.5 71.3±.2 72.6±.4
obqa | Instruction-tuning: 65.3±.3 65.4±.2 66.3±.4 59.2±.2 61.4±.2 60.2±.3
obqa | + Self-refine: 70.8±.3 73.2±.2 75.3±.1 62.6±.3 68.7±.4 69.8±.3
obqa | Cross self-refine: - 78.4±.1 78.3±.5 64.5±.3 74.4±.4 83.2±.2
csqa | Instruction-tuning: 57.8±.1 71.4±.3 65.5±.4 61.8±.2 60.1±.5 59.3±.1
csqa | + Self-refine: 69.5±.5 79.8±.3 74.2±.1 66.3±.2 61.2±.3 60.3±.3
csqa | Cross self-refine: 68.7±.4 - 78.4±.2 64.1±.3 72.1±.4 73.4±.2
piqa | Instruction-tuning: 56.9±.1 64.3±.2 80.2±.3 57.3±.3 58.3±.1 59.1±.3
piqa | + Self-refine: 68.2±.4 67.3±.5 84.6±.3 63.4±.2 67.8±.1 66.9±.3
piqa | Cross self-refine: 68.2±.3 71.3±.3 - 64.2±.1 68.7±.4 67.6±.1
siqa | Instruction-tuning: 58.9±.2 62.8±.5 63.2±.1 62.8±.3 59.6±.1 60.2±.3
siqa | + Self-refine: 68.3±.3 68.5±.2 78.3±.3 66.2±.4 61.3±.5 60.9±.4
siqa | Cross self-refine: 69.4±.2 68.5±.2 77.9±.3 - 65.1±.3 64.7±.2
gsm8k | Instruction-tuning: 53.2±.4 54.9±.5 63.7±.1 52.5±.2 71.2±.3 70.3±.2
gsm8k | + Self-refine: 58.6±.3 61.7±.4 62.3±.2 52.4±.3 76.9±.1 74.3±.2
gsm8k | Cross self-refine: 64.6±.5 64.3±.2 77.6±.4 60.3±.2 - 75.3±.3
multiarith | Instruction-tuning: 53.6±.2 55.7±.3 53.8±.3 51.5±.3 69.3±.1 75.6±.2
multiarith | + Self-refine: 59.1±.2 63.2±.5 58.3±.3 58.6±.1 70.2±.4 85.8±.2
multiarith | Cross self-refine: 65.3±.4 61.3±.1 62.1±.2 60.7±.5 73.4±.3 -
"""
TABLE_1 = _table(TASKS, _TABLE_1)

# Table 10: Llama-2-13, instructed by Llama-2-70
_TABLE_10 = """
Baseline: 55.4±.2 63.4±.3 66.4±.2 48.3±.2 65.6±.4 63.4±.2
Baseline CoT: 54.2±.2 62.8±.4 71.2±.3 46.9±.5 70.5±.1 62.8±.2
obqa | Instruction-tuning: 68.5±.4 67.5±.3 69.4±.1 60.1±.2 62.3±.4 61.5±.5
obqa | + Self-refine: 71.2±.4 74.1±.2 76.2±.3 63.4±.3 69.9±.4 70.7±.2
obqa | Cross self-refine: - 79.2±.1 79.5±.2 65.6±.3 75.2±.4 84.3±.5
csqa | Instruction-tuning: 58.4±.4 77.5±.2 66.4±.2 61.8±.3 62.4±.4 60.2±.2
csqa | + Self-refine: 69.5±.5 81.4±.2 74.2±.5 67.9±.1 62.1±.3 61.4±.4
csqa | Cross self-refine: 70.2±.4 - 79.5±.3 65.2±.1 73.3±.3 75.3±.5
piqa | Instruction-tuning: 57.8±.2 65.2±.3 81.9±.4 58.5±.4 59.2±.4 60.3±.3
piqa | + Self-refine: 69.6±.2 68.2±.4 85.1±.5 64.3±.1 69.3±.2 68.1±.3
piqa | Cross self-refine: 69.9±.1 71.3±.1 - 65.3±.1 69.6±.4 69.2±.2
siqa | Instruction-tuning: 59.6±.1 63.9±.4 67.1±.2 64.5±.3 60.3±.4 61.3±.2
siqa | + Self-refine: 69.2±.2 69.4±.1 79.2±.4 66.7±.3 62.4±.4 61.8±.2
siqa | Cross self-refine: 71.2±.2 69.2±.1 80.4±.2 - 66.5±.1 66.7±.2
gsm8k | Instruction-tuning: 54.3±.2 55.8±.3 64.3±.4 53.2±.3 72.3±.3 71.6±.2
gsm8k | + Self-refine: 59.3±.4 62.2±.2 63.5±.3 53.5±.5 77.2±.4 75.2±.3
gsm8k | Cross self-refine: 65.7±.1 65.2±.5 78.1±.3 61.6±.4 - 76.2±.2
multiarith | Instruction-tuning: 54.7±.2 56.6±.3 54.5±.3 52.4±.3 70.2±.1 75.8±.2
multiarith | + Self-refine: 60.3±.2 64.1±.4 59.4±.3 59.7±.1 72.1±.4 86.2±.3
multiarith | Cross self-refine: 66.2±.3 62.4±.1 63.2±.3 61.5±.4 73.9±.2 -
"""
TABLE_10 = _table(TASKS, _TABLE_10)

# Table 11: Mistral-7; the teacher is not printed, Mixtral by §3.2's in-family pairs
_TABLE_11 = """
Baseline: 62.7±.3 69.2±.4 67.3±.1 55.3±.2 54.2±.2 88.4±.1
Baseline CoT: 60.4±.3 68.7±.2 66.1±.2 54.8±.4 55.6±.3 87.3±.2
obqa | Instruction-tuning: 78.3±.2 65.4±.2 67.2±.3 59.2±.1 64.2±.2 62.1±.3
obqa | + Self-refine: 87.6±.2 73.1±.2 76.1±.1 63.3±.3 69.1±.4 70.7±.3
obqa | Cross self-refine: - 79.4±.1 80.1±.2 68.2±.4 75.2±.4 81.3±.1
csqa | Instruction-tuning: 58.9±.1 73.1±.4 65.8±.2 62.1±.1 62.2±.3 60.2±.2
csqa | + Self-refine: 69.5±.5 81.3±.1 75.1±.1 66.5±.2 61.1±.4 62.4±.1
csqa | Cross self-refine: 69.2±.2 - 79.3±.1 65.2±.4 72.8±.4 74.4±.2
piqa | Instruction-tuning: 58.6±.2 64.8±.2 81.6±.2 59.2±.4 60.2±.2 60.3±.4
piqa | + Self-refine: 68.2±.4 68.2±.5 85.6±.2 63.8±.2 67.9±.2 67.2±.4
piqa | Cross self-refine: 69.2±.3 71.9±.3 - 63.2±.1 68.4±.5 69.6±.1
siqa | Instruction-tuning: 59.3±.2 66.8±.2 63.2±.4 61.5±.2 60.2±.1 61.3±.3
siqa | + Self-refine: 68.3±.3 68.5±.2 78.3±.3 65.8±.4 62.4±.5 61.3±.4
siqa | Cross self-refine: 71.3±.4 69.2±.2 78.1±.2 - 65.6±.3 68.3±.1
gsm8k | Instruction-tuning: 52.4±.1 54.9±.5 58.7±.1 51.8±.3 56.1±.1 65.2±.
gsm8k | + Self-refine: 57.6±.3 58.7±.4 59.3±.2 51.4±.2 63.4±.1 60.3±.1
gsm8k | Cross self-refine: 61.3±.5 64.3±.2 70.1±.4 58.2±.1 - 70.5±.3
multiarith | Instruction-tuning: 57.9±.2 59.2±.3 53.8±.4 51.5±.3 69.3±.2 89.6±.4
multiarith | + Self-refine: 59.1±.2 63.2±.4 59.4±.5 59.9±.2 68.2±.1 91.4±.3
multiarith | Cross self-refine: 64.7±.4 65.8±.2 64.1±.4 61.5±.4 70.1±.3 -
"""
TABLE_11 = _table(TASKS, _TABLE_11)

# Table 5: teachers at x (Baseline) and x̂ (CoT); {(split, task): {(teacher, prompt): accuracy}}
TEACHERS = ("llama-2-70b", "gpt-3.5", "mixtral-8x7b")
_TABLE_5 = """
train | obqa: 65.6±.3 71.3±.1 66.2±.2 75.4±.4 77.9±.3 81.2±.1
train | csqa: 74.2±.1 79.6±.3 79.3±.4 84.8±.1 78.2±.2 82.3±.3
train | siqa: 65.4±.2 67.5±.3 67.6±.5 70.3±.4 65.5±.2 68.2±.3
train | piqa: 82.6±.2 85.8±.2±.3 83.5±.3 85.3±.1 80.2±.3 84.1±.3
train | gsm8k: 74.6±.1 77.2±.2 83.2±.2 86.5±.1 65.6±.4 67.9±.2
train | multiarith: 88.6±.4 90.8±.3 94.9±.4 96.7±.1 89.3±.1 91.5±.4
test | obqa: 65.9±.2 70.8±.1 67.8±.1 74.6±.4 78.4±.3 84.6±.2
test | csqa: 73.4±.2 81.8±.3 80.2±.2 83.7±.1 77.6±.3 81.5±.1
test | siqa: 64.2±.2 66.9±.4 66.9 71.3±.3 64.3±.3 65.4±.2
test | piqa: 82.6±.3 85.6±.5 84.3±.2 85.8±.5 79.9±.3 83.5±.1
test | gsm8k: 75.2±.5 77.8±.5 82.8±.2 84.6±.4 63.4±.3 62.8±.5
test | multiarith: 89.2±.1 92.3±.2 95.6±.2 97.4±3 88.9±.1 90.2±.3
"""
TABLE_5 = _table(list(product(TEACHERS, ("standard", "cot"))), _TABLE_5)


# Table 8: classes (0: open-ended), and examples for each class (open-ended: in all); of the multiple-choice tests these
# are averages over the classes
TABLE_8 = {
    "obqa": {"classes": 4, "train": 1000, "test": 125},
    "csqa": {"classes": 5, "train": 800, "test": 235},
    "piqa": {"classes": 2, "train": 2000, "test": 924},
    "siqa": {"classes": 3, "train": 1330, "test": 640},
    "gsm8k": {"classes": 0, "train": 4000, "test": 1318},
    "multiarith": {"classes": 0, "train": 420, "test": 180},
}

# §4.1: accuracy of the teachers minus that of the instruction-tuned students (Figures 2 and 3), on average over the
# tasks of a kind; over which teachers and students is unsaid, and no mean over Tables 1, 5, 10 and 11 gives all four
KINDS = {"QA": ("obqa", "csqa", "piqa", "siqa"), "MWP": ("gsm8k", "multiarith")}
GAPS = {"in-family": {"QA": 6.3, "MWP": 8.2}, "out-family": {"QA": 8.5, "MWP": 8.7}}

# Table 13: GPT-4's ratings of the teachers' answers; {("", row): {teacher: rating}}
TARGET_ANSWERS = "Target Answers"
_TABLE_13 = """
Baseline: 1.63 1.68 1.34
Baseline CoT: 2.72 2.89 2.56
Target Answers: 1 1 1
"""
TABLE_13 = _table(TEACHERS, _TABLE_13)

# Table 14: of the students' answers; {(family of the teacher, or "", row): {student: rating}}
STUDENTS = ("llama-2-7b", "llama-2-13b", "mistral-7b")
_TABLE_14 = """
Baseline: 1.26 1.39 1.16
Baseline CoT: 1.47 1.56 1.21
in-family | Instruction-tuning: 2.43 2.66 2.36
in-family | + Self-refine: 2.75 2.83 2.54
out-family | Instruction-tuning: 1.99 2.17 1.76
out-family | + Self-refine: 2.86 2.79 2.82
"""
TABLE_14 = _table(STUDENTS, _TABLE_14)
