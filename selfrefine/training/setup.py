"""What both phases prepare before their loops: where to compute, the student's files, its prompts, its adapter."""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PretrainedConfig

from selfrefine import command
from selfrefine.fast.dense import hold_dequantized
from selfrefine.files import digest
from selfrefine.model.adapter import AdapterSettings, load_adapter, read_settings, require_student
from selfrefine.model.encoding import uses_chat_template
from selfrefine.model.lora import add_lora
from selfrefine.model.student import Student, Tokenizer, find, fingerprint, load_student, load_tokenizer, read_config
from selfrefine.model.template import ChatTemplate
from selfrefine.tasks.splits import HOLD_OUT
from selfrefine.training.plan import dequantize_once, describe, disk, micro_batch_tokens


@dataclass(frozen=True)
class Setup:
    """A run's flags, those defaults filled in that depend on machine and student, and what the flags stand for."""

    args: argparse.Namespace
    device: torch.device
    dtype: torch.dtype
    folder: Path  # the student's
    config: PretrainedConfig
    tokenizer: Tokenizer
    chat_template: ChatTemplate

    @property
    def disk(self) -> int:
        """Bytes that the run folder comes to."""
        return disk(self.config, self.args)

    def describe(self, rates: list[float], count: int) -> str:
        """What the run will do with `count` sequences or pairs, and what it needs."""
        return describe(self.config, self.args, rates, count, self.dtype)


def prepare(args: argparse.Namespace) -> Setup:
    """Read what the flags name, but no weight yet. Phase 2's adapter (`--adapter`) decides on LoRA's shape and the chat
    template. UserError where something is missing or contradicts."""
    device, dtype = command.machine(args)
    folder = find(args.student)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    instructed = read_settings(args.adapter) if getattr(args, "adapter", None) else None
    if instructed:
        args.lora_rank, args.lora_alpha, args.lora_targets = instructed.rank, instructed.alpha, [*instructed.targets]
    args.micro_batch_tokens = args.micro_batch_tokens or micro_batch_tokens(device)
    if args.dequantize_once is None:
        args.dequantize_once = not args.plain and dequantize_once(config, device, dtype)
    trained = instructed and instructed.chat_template
    template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
    return Setup(args, device, dtype, folder, config, tokenizer, template)


def run_settings(setup: Setup, files: Iterable[Path]) -> dict:
    """All that a run depends on, for its `config.json`: flags, precision, what student, adapter and data hold.

    UserError where --adapter was trained on another student."""
    args, student_id = setup.args, fingerprint(setup.folder)
    settings = vars(args) | {"dtype": str(setup.dtype), "student_id": student_id, "data": digest(files)}
    settings |= {"hold_out": HOLD_OUT} if args.validation_fraction else {}
    if getattr(args, "adapter", None):
        require_student(args.adapter, read_settings(args.adapter), student_id)
        settings["adapter_id"] = digest([args.adapter / "adapter_model.safetensors"])
    return settings


def load(setup: Setup, student_id: str) -> tuple[Student, AdapterSettings]:
    """The frozen 4-bit student with float32 adapters, which are all that is trained: --adapter's, or fresh ones."""
    args = setup.args
    student = load_student(setup.folder, setup.device, setup.dtype, gradient_checkpointing=args.gradient_checkpointing)
    if args.dequantize_once:
        hold_dequantized(student)
    lora = {"rank": args.lora_rank, "alpha": args.lora_alpha, "dropout": args.lora_dropout}
    lora["targets"] = tuple(args.lora_targets)
    if getattr(args, "adapter", None):
        load_adapter(student, args.adapter, student_id, dropout=args.lora_dropout)
    else:
        add_lora(student, **lora, seed=args.seed)
    named = {"student": args.student, "fingerprint": student_id, "chat_template": setup.chat_template}
    return student, AdapterSettings(**lora, **named)
