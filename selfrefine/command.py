"""What every command shares: its parser, where and in which precision it computes, how errors end it."""

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from selfrefine import ranks
from selfrefine.errors import RunError, UserError
from selfrefine.model import DATE
from selfrefine.pocket import STUDENT

try:
    import fcntl  # noqa: F401, what only POSIX has: imported before anything that needs it
except ImportError:
    print("error: selfrefine runs on Linux, on macOS, and on Windows inside WSL: start it there.", file=sys.stderr)
    sys.exit(2)

DTYPES = ("auto", "bfloat16", "float32")
_MENDABLE = "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS EISDIR ENOTDIR EEXIST ENAMETOOLONG"
MENDABLE = {getattr(errno, name) for name in _MENDABLE.split()}  # what a user can do something about


class Parser(argparse.ArgumentParser):
    """argparse with one-sentence errors, defaults shown in --help, and no abbreviated flags."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")

    def _print_message(self, message: str, file=None) -> None:
        if ranks.RANK == 0:
            super()._print_message(message, file)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if any(action.default is told for told in (None, False, argparse.SUPPRESS)) or action.required:
            return action.help
        return super()._get_help_string(action)


def add_machine_flags(parser: Parser) -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--seed", type=natural, default=0, help="all randomness follows from it")
    group.add_argument("--device", default="auto", help="cuda, cuda:N or cpu; auto takes cuda where there is one")
    auto = "auto: bfloat16 on GPUs and on CPUs with AMX or AVX512-BF16, else float32"
    group.add_argument("--dtype", choices=DTYPES, default="auto", help=f"compute type; {auto}")


def add_student_flag(parser: Parser, *, required: bool = True) -> None:
    """--student; the name `pocket` stands for the folder of the embedded one."""

    def folder(name: str) -> str:
        return str(STUDENT) if name == "pocket" else name

    told = "a folder, a Hub id, or `pocket`"
    parser.add_argument("--student", required=required, type=folder, metavar="MODEL_OR_DIR", help=told)


def add_questions_flag(parser: argparse._ActionsContainer) -> None:
    """--questions."""
    told = "own questions: JSONL with question, options, target"
    parser.add_argument("--questions", type=Path, metavar="FILE", help=told)


def add_data_flag(parser: Parser) -> None:
    told = "read DIR/<task>/<split>.jsonl, rows in the Hub's schema, in place of the Hub (or set SELFREFINE_DATA)"
    folder = os.environ.get("SELFREFINE_DATA") or None  # argparse gives a text its type
    parser.add_argument("--data", type=Path, default=folder, metavar="DIR", help=told)


def add_chat_template_flag(parser: Parser) -> None:
    """--chat-template and --template-arguments; the date that a template is told stands among the settings too."""
    told = "put the prompt into the tokenizer's chat template: as the adapter was trained, else where there is one "
    told += "(the paper's models are chat models), or never, or always"
    parser.add_argument("--chat-template", choices=("auto", "none", "always"), default="auto", help=told)
    told = "of the chat template, e.g. '{\"enable_thinking\": false}' (Qwen3); an adapter keeps them"
    parser.add_argument("--template-arguments", type=fields, metavar="JSON", help=told)
    parser.set_defaults(template_date=DATE)  # a prompt must not change with the day


def add_plain_flag(parser: argparse.ArgumentParser) -> None:
    told = "the formulas as they read, without selfrefine/fast/: slower, larger"
    parser.add_argument("--plain", action="store_true", help=told)


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    own = "(default: the model's generation_config.json, which Table 4 and C.2 leave as it is, else {})"
    told = f"draw from the K likeliest tokens, 0: all {own.format('50')}"
    parser.add_argument("--top-k", type=natural, metavar="K", help=told)
    told = f"draw from the likeliest tokens that sum to P, 1: all {own.format('1')}"
    parser.add_argument("--top-p", type=proportion, metavar="P", help=told)


def machine(args: argparse.Namespace):
    """(torch.device, torch.dtype) that --device and --dtype stand for."""
    import torch

    name = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.COUNT > 1 and name == "cuda":
        name = f"cuda:{ranks.LOCAL_RANK}"  # a GPU a rank
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: give cuda, cuda:N, cpu or auto.") from None
    if device.type not in ("cuda", "cpu") or (device.type == "cpu" and device.index):
        raise UserError(f"--device {name}: 4-bit layers run on cuda, cuda:N or cpu here.")
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        more = " Under torchrun, --nproc-per-node may be as many as there are." if ranks.COUNT > 1 else ""
        raise UserError(f"--device {name}: torch sees no such GPU; leave the flag out to use what there is.{more}")
    if ranks.COUNT > 1 and device.type == "cuda":
        if device.index != ranks.LOCAL_RANK:
            raise UserError(f"--device {name}: under torchrun each process has a GPU of its own: leave the flag out.")
        torch.cuda.set_device(device)
    if args.dtype != "auto":
        return device, getattr(torch, args.dtype)
    able = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or able.get("amx_bf16", False) or able.get("avx512_bf16", False)
    return device, torch.bfloat16 if fast else torch.float32


def _number(kind: type, fits: Callable, what: str) -> Callable[[str], float]:
    """An argparse type: numbers that fit."""

    def parse(text: str) -> float:
        try:
            if fits(value := kind(text)):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")

    return parse


natural = _number(int, lambda value: 0 <= value < 2**32, "a whole number of at least 0 and below 2^32")  # seeds too
positive = _number(int, lambda value: 1 <= value < 2**32, "a whole number of at least 1 and below 2^32")
rate = _number(float, lambda value: 0 <= value <= 1e30, "a number from 0 to 1e30")  # float32 can still work with it
above_zero = _number(float, lambda value: 0 < value <= 1e30, "a number above 0 and up to 1e30")
share = _number(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")
proportion = _number(float, lambda value: 0 < value <= 1, "a number above 0 and up to 1")


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


def run(main: Callable[[], None], *, several: bool = False) -> NoReturn:
    """Run a command. Exit codes: 0; 2 bad usage or input; 1 a failed run; 130 or 143 stopped by a signal. `several`
    says that it can be one run in several processes; all of these end with one code, and one says why."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without θ or ŷ ends no run
    try:
        if ranks.COUNT > 1 and not several:
            raise UserError("torchrun is for train_it.py, train_dpo.py, evaluate.py and annotate: start this without.")
        if ranks.COUNT > 1:
            signal.signal(signal.SIGTERM, _terminated)  # torchrun's, where another rank has ended
        ranks.join()
        with ranks.one_voice():
            main()
        ranks.leave()
    except SystemExit as leaving:
        sys.exit(leaving.code and (ranks.first_end(leaving.code) or leaving.code))
    except UserError as error:
        sys.exit(_say(error, 2))
    except RunError as error:
        sys.exit(_say(error, 1))
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        sys.exit(_say(f"{error.filename or 'the output'}: {error.strerror}; nothing written before is lost.", 1))
    except UnicodeEncodeError as error:
        sys.exit(_say(f"{error.object[:100]!r} is no Unicode text, so it cannot be written: rename or mend it.", 2))
    except KeyboardInterrupt as stopped:
        sys.exit(_say("stopped; what was written is kept.", *(stopped.args or [130])))
    except RuntimeError as error:
        told = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
        if type(error).__name__ != "OutOfMemoryError" and not any(words in str(error) for words in told):
            raise
        what = (
            "out of memory: while training lower --micro-batch-tokens or add --gradient-checkpointing (--dry-run "
            "estimates what they need), while answering lower --sampling-batch-size (evaluate.py and annotate: "
            "--batch-size); what was done is kept."
        )
        sys.exit(_say(what, 1))
    sys.exit(0)


def _terminated(number: int, _frame) -> NoReturn:
    raise KeyboardInterrupt(128 + number)


def _say(message, code: int) -> int:
    from tqdm import tqdm

    if ranks.COUNT > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's must not change the code any more
    before = ranks.first_end(code)
    if before is None:
        tqdm.write(f"error: {message}", file=sys.stderr)  # on a line of its own, not on that of a progress bar
    return before or code
