"""The student: a frozen 4-bit base, hand-written LoRA adapters over it, and sampling from it."""

import datetime

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a block, of any family
DATE = datetime.date(2024, 7, 26)  # what chat templates are told: Llama 3.2's own, where it cannot ask for today's
