"""The student: a frozen 4-bit base, hand-written LoRA adapters over it, and sampling from it."""

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a block, of any family
