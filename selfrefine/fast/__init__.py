"""What makes the plain path quick: an idea a file, each with the formula it replaces at its top and the test that holds
both equal, up to rounding (with dropout, other masks are drawn). The scripts say so in one place, `--plain` leaves it
out: `speed_up` changes the layers' forwards; the functions here stand in for those of `training/log_probs.py`.

| file | idea |
|---|---|
| `lora.py` | LoRA over a 4-bit layer as one function |
| `blocks.py` | norms, MLPs and rotations with their gradients written out |
| `attention.py` | attention as two products, on CPUs |
| `head.py` | logits only where a response token is predicted, a chunk at a time |
| `prefix.py` | a pair's prompt computed once for both sides |
| `decoding.py` | a token a row at a time over held weights, prompts that begin alike read once |
| `wide.py` | bfloat16's products in float32, on CPUs where these are quicker |
| `dense.py` | 4-bit weights held dequantised where memory allows |
"""

from selfrefine.fast.attention import NAME
from selfrefine.fast.blocks import slim
from selfrefine.fast.decoding import Decoder
from selfrefine.fast.lora import fuse
from selfrefine.fast.prefix import pair_log_probs, response_log_probs, width
from selfrefine.model.student import Student

__all__ = ["pair_log_probs", "response_log_probs", "speed_up", "width"]


def speed_up(student: Student) -> None:
    """Give the adapters, norms, MLPs and attention of `student` the forwards of this folder, in place, and sampling its
    decoder; the parameters stay as they are."""
    fuse(student)
    slim(student)
    if student.device.type == "cpu":  # GPUs keep torch's fused kernels
        student.set_attn_implementation(NAME)
    student.decoder = Decoder  # for `sampling.sample`
