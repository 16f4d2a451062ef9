"""What every command shares: its parser, where and in which precision it computes, how errors end it."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from selfrefine.errors import RunError, UserError
from selfrefine.model import DATE, LINEARS

try:
    import fcntl  # noqa: F401, what only POSIX has: imported before anything that needs it
except ImportError:
    print("error: selfrefine runs on Linux, on macOS, and on Windows inside WSL: start it there.", file=sys.stderr)
    sys.exit(2)

DTYPES = ("auto", "bfloat16", "float32")


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, defaults shown in --help, and no abbreviated flags."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if any(action.default is told for told in (None, False, argparse.SUPPRESS)) or action.required:
            return action.help
        return super()._get_help_string(action)


def add_machine_flags(parser: Parser) -> None:
    """--seed, --device and --dtype."""
    group = parser.add_argument_group("machine")
    group.add_argument("--seed", type=natural, default=0, help="all randomness follows from it")
    group.add_argument("--device", default="auto", help="cuda, cuda:N or cpu; auto takes cuda where there is one")
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="compute type; auto: bfloat16 on GPUs and on CPUs with AMX or AVX512-BF16, else float32",
    )


def add_student_flag(parser: Parser) -> None:
    """--student."""
    parser.add_argument("--student", required=True, metavar="MODEL_OR_DIR", help="a folder, a Hub id, or `pocket`")


def add_data_flag(parser: Parser) -> None:
    """--data, or SELFREFINE_DATA."""
    set_folder = os.environ.get("SELFREFINE_DATA")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(set_folder) if set_folder else None,
        metavar="DIR",
        help="read DIR/<task>/<split>.jsonl, rows in the Hub's schema, in place of the Hub (or set SELFREFINE_DATA)",
    )


def add_chat_template_flag(parser: Parser) -> None:
    """--chat-template and --template-arguments; the date that a template is told stands among the settings too."""
    parser.add_argument(
        "--chat-template",
        choices=("auto", "none", "always"),
        default="auto",
        help="put the prompt into the tokenizer's chat template: as the adapter was trained, else where there is one "
        "(the paper's models are chat models), or never, or always",
    )
    parser.add_argument(
        "--template-arguments",
        type=fields,
        metavar="JSON",
        help="of the chat template, e.g. '{\"enable_thinking\": false}' (Qwen3); an adapter keeps them",
    )
    parser.set_defaults(template_date=DATE)  # a prompt must not change with the day


def add_plain_flag(parser: argparse.ArgumentParser) -> None:
    """--plain."""
    parser.add_argument(
        "--plain", action="store_true", help="the formulas as they read, without selfrefine/fast/: slower, larger"
    )


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    """--top-k and --top-p."""
    own = "(default: the model's generation_config.json, which Table 4 and C.2 leave as it is, else {})"
    parser.add_argument(
        "--top-k", type=natural, metavar="K", help=f"draw from the K likeliest tokens, 0: all {own.format('50')}"
    )
    parser.add_argument(
        "--top-p",
        type=proportion,
        metavar="P",
        help=f"draw from the likeliest tokens that sum to P, 1: all {own.format('1')}",
    )


def add_training_flags(parser: Parser, *, lora_dropout: float, batch_size: str) -> None:
    """What both phases take: output, data kept, batch (`batch_size`: the default's source), LoRA, memory, saving,
    machine."""
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the run folder, adapter at its root")
    parser.add_argument(
        "--keep",
        choices=("correct", "all"),
        default="correct",
        help="demonstrations to use: those whose answer is right, or all",
    )
    parser.add_argument(
        "--fraction",
        type=proportion,
        help="C.1: use this share of 3000 of the kept demonstrations (default: all of them)",
    )
    parser.add_argument("--batch-size", type=positive, default=128, help=f"rows per optimizer step, {batch_size}")
    parser.add_argument(
        "--max-grad-norm", type=above_zero, default=1.0, help="gradients are clipped to it; transformers' default"
    )
    parser.add_argument(
        "--validate-every",
        type=positive,
        metavar="STEPS",
        help="steps between validations (default: a tenth of the run)",
    )
    parser.add_argument(
        "--max-dropped",
        type=share,
        default=0.01,
        help="stop where a greater share of the rows cannot be used",
    )
    add_chat_template_flag(parser)
    lora = parser.add_argument_group("LoRA (unsaid in the paper: the cited QLoRA's)")
    lora.add_argument("--lora-rank", type=positive, default=64, help="r")
    lora.add_argument("--lora-alpha", type=positive, default=16, help="α: the adapters count α / r")
    lora.add_argument("--lora-dropout", type=share, default=lora_dropout, help="on the adapters' input")
    lora.add_argument(
        "--lora-targets",
        nargs="+",
        choices=LINEARS,
        default=list(LINEARS),
        metavar="LAYER",
        help="the blocks' layers that get an adapter; PEFT's default for Llama, and the authors' code: q_proj v_proj",
    )
    memory = parser.add_argument_group(
        "speed and memory: none of these changes the result, but for rounding and which masks dropout draws"
    )
    memory.add_argument(
        "--micro-batch-tokens",
        type=positive,
        help="tokens, padding included, that go through at a time (default: 2048 on a GPU, 1024 on a CPU)",
    )
    memory.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="recompute activations in the backward: slower, smaller",
    )
    add_plain_flag(memory)
    memory.add_argument(
        "--dequantize-once",
        action=argparse.BooleanOptionalAction,
        help="hold the 4-bit weights in 16 or 32 bits too: faster, larger (default: on a CPU with memory to spare)",
    )
    saving = parser.add_argument_group("saving")
    saving.add_argument("--save-every", type=positive, default=50, metavar="STEPS", help="steps between checkpoints")
    saving.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --output")
    saving.add_argument("--dry-run", action="store_true", help="print the plan and stop before any weight is loaded")
    add_machine_flags(parser)


def machine(args: argparse.Namespace):
    """(torch.device, torch.dtype) that --device and --dtype stand for."""
    import torch

    name = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: give cuda, cuda:N, cpu or auto.") from None
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and device.index):
        raise UserError(f"--device {name}: 4-bit layers run on cuda, cuda:N or cpu here.")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {name}: torch sees no such GPU; leave the flag out to use what there is.")
    if args.dtype != "auto":
        return device, getattr(torch, args.dtype)
    able = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or able.get("amx_bf16", False) or able.get("avx512_bf16", False)
    return device, torch.bfloat16 if fast else torch.float32


def micro_batch_tokens(device) -> int:
    """--micro-batch-tokens where it is not given: a GPU wants long products, a CPU's cache short ones."""
    return 2048 if device.type == "cuda" else 1024


def natural(text: str) -> int:
    """argparse type: an integer from 0 to below 2³², a seed too."""
    return _number(text, int, lambda value: 0 <= value < 2**32, "a whole number of at least 0 and below 2^32")


def positive(text: str) -> int:
    """argparse type: an integer from 1 to below 2³²."""
    return _number(text, int, lambda value: 1 <= value < 2**32, "a whole number of at least 1 and below 2^32")


def rate(text: str) -> float:
    """argparse type: a number from 0 to 10³⁰, which float32 can still work with."""
    return _number(text, float, lambda value: 0 <= value <= 1e30, "a number from 0 to 1e30")


def above_zero(text: str) -> float:
    """argparse type: a number above 0 and up to 10³⁰."""
    return _number(text, float, lambda value: 0 < value <= 1e30, "a number above 0 and up to 1e30")


def share(text: str) -> float:
    """argparse type: a number from 0 to below 1."""
    return _number(text, float, lambda value: 0 <= value < 1, "a number from 0 to below 1")


def proportion(text: str) -> float:
    """argparse type: a number above 0 and up to 1."""
    return _number(text, float, lambda value: 0 < value <= 1, "a number above 0 and up to 1")


def fields(text: str) -> dict:
    """argparse type: a JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object, such as '{{\"name\": 1}}'")
    return value


def file(text: str) -> Path:
    """argparse type: where a file can be written."""
    path = Path(text)
    if not path.name or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} names no file")
    return path


def _number(text: str, kind: type, fits: Callable, what: str):
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def run(main: Callable[[], None]) -> NoReturn:
    """Run a command. Exit codes: 0; 2 bad usage or input; 1 a failed run; 130 or 143 stopped by a signal."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without θ or ŷ ends no run
    try:
        main()
    except UserError as error:
        sys.exit(_say(error, 2))
    except RunError as error:
        sys.exit(_say(error, 1))
    except OSError as error:
        if error.errno not in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EFBIG,
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.EISDIR,
            errno.ENOTDIR,
            errno.EEXIST,
            errno.ENAMETOOLONG,
        ):
            raise
        sys.exit(_say(f"{error.filename or 'the output'}: {error.strerror}; nothing written before is lost.", 1))
    except UnicodeEncodeError as error:
        sys.exit(_say(f"{error.object[:100]!r} is no Unicode text, so it cannot be written: rename or mend it.", 2))
    except KeyboardInterrupt:
        sys.exit(_say("stopped; what was written is kept.", 130))
    except RuntimeError as error:
        told = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
        if type(error).__name__ != "OutOfMemoryError" and not any(words in str(error) for words in told):
            raise
        sys.exit(
            _say(
                "out of memory: while training lower --micro-batch-tokens or add --gradient-checkpointing (--dry-run "
                "estimates what they need), while answering lower --sampling-batch-size (evaluate.py and annotate: "
                "--batch-size); what was done is kept.",
                1,
            )
        )
    sys.exit(0)


def _say(message, code: int) -> int:
    from tqdm import tqdm

    tqdm.write(f"error: {message}", file=sys.stderr)  # on a line of its own, not on that of a progress bar
    return code
