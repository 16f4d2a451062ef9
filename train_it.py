#!/usr/bin/env python3
"""Phase 1, instruction-tuning (§2.1, App. A): tune the student on a teacher's demonstrations (i, q, â) by QLoRA,

    L_inst(θ) = −E[ Σ_t log π_θ(w_t | s_t, i) ],

the negative log-likelihood of the response's tokens only.
"""

import argparse
import math
from functools import partial
from pathlib import Path

from tqdm import tqdm

from selfrefine import command
from selfrefine.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    command.add_student_flag(parser)
    parser.add_argument("--demonstrations", required=True, nargs="+", type=Path, metavar="FILE", help="JSONL, Table 6")
    parser.add_argument("--epochs", type=command.positive, default=4, help="§3.2.1")
    parser.add_argument("--learning-rate", type=command.above_zero, default=2e-5, help="peak, §3.2.1")
    parser.add_argument("--weight-decay", type=command.rate, default=1e-4, help="AdamW's, §3.2.1")
    parser.add_argument("--warmup-ratio", type=command.share, default=0.03, help="then cosine, §3.2.1")
    parser.add_argument("--max-steps", type=command.positive, help="stop after so many optimizer steps")
    parser.add_argument(
        "--validation-fraction",
        type=command.share,
        default=0.0,
        help="share of questions to validate on; 0: the paper keeps the last epoch",
    )
    command.add_training_flags(
        parser, lora_dropout=0.1, batch_size="Alpaca's (Taori et al.); §3.2.1 gives it for DPO only"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    import torch

    from selfrefine.files import digest
    from selfrefine.model.adapter import AdapterSettings, save_adapter
    from selfrefine.model.encoding import uses_chat_template
    from selfrefine.model.lora import add_lora, lora_parameters
    from selfrefine.model.nf4 import hold_dequantized
    from selfrefine.model.student import find, fingerprint, load_student, load_tokenizer, read_config
    from selfrefine.records import read_demonstrations
    from selfrefine.runs import claim
    from selfrefine.tasks.splits import HOLD_OUT, fraction_of, hold_out
    from selfrefine.training import rows as data
    from selfrefine.training.batches import collate, micro_batches, step_rows, steps_per_epoch
    from selfrefine.training.checkpoint import Progress, restore, save_checkpoint
    from selfrefine.training.interrupts import Interrupts
    from selfrefine.training.log_probs import response_log_probs
    from selfrefine.training.losses import instruction_loss
    from selfrefine.training.plan import dequantize_once, describe, disk
    from selfrefine.training.progress import Metrics, require_finite
    from selfrefine.training.schedule import cosine

    # The demonstrations, as token ids
    device, dtype = command.machine(args)
    args.micro_batch_tokens = args.micro_batch_tokens or command.micro_batch_tokens(device)
    folder = find(args.student)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    chat_template = uses_chat_template(tokenizer, args.chat_template, arguments=args.template_arguments)
    read = read_demonstrations(args.demonstrations)
    kept = data.keep_correct(read) if args.keep == "correct" else read
    kept = fraction_of(kept, args.fraction, args.seed) if args.fraction else kept
    encode = partial(data.demonstration_sequences, tokenizer, config=config, chat_template=chat_template)
    train_rows, validation_rows = hold_out(kept, args.validation_fraction, args.seed)
    train_rows, train = encode(train_rows, allowed=args.max_dropped)
    _, validation = encode(validation_rows, allowed=args.max_dropped)
    print(
        f"{len(read)} demonstrations, {len(kept)} kept (--keep {args.keep}): "
        f"{len(train)} to train on, {len(validation)} to validate on"
    )

    if not train:
        raise UserError("no demonstration is left to train on: look at the teacher's answers, or add --keep all.")

    # The plan: how many optimizer steps, at which learning rates
    per_epoch = steps_per_epoch(len(train), args.batch_size)
    steps = min(args.epochs * per_epoch, args.max_steps or math.inf)
    warmup = math.ceil(args.warmup_ratio * steps)
    rates = [args.learning_rate * cosine(step, steps, warmup) for step in range(steps)]
    validate_every = args.validate_every or max(1, steps // 10)
    if args.dequantize_once is None:
        args.dequantize_once = dequantize_once(config, device, dtype)
    print(describe(config, args, rates, len(train), dtype))
    if args.dry_run:
        return
    student_id = fingerprint(folder)
    settings = vars(args) | {"dtype": str(dtype), "student_id": student_id, "data": digest(args.demonstrations)}
    settings |= {"hold_out": HOLD_OUT} if args.validation_fraction else {}
    held = claim(args.output, settings, resume=args.resume, disk=disk(config, args))  # noqa: F841, the folder's lock

    # The student: a frozen 4-bit base, and float32 adapters that are all that is trained
    student = load_student(folder, device, dtype, gradient_checkpointing=args.gradient_checkpointing)
    if args.dequantize_once:
        hold_dequantized(student)
    lora = {"rank": args.lora_rank, "alpha": args.lora_alpha, "dropout": args.lora_dropout}
    lora["targets"] = tuple(args.lora_targets)
    add_lora(student, **lora, seed=args.seed)
    adapter = AdapterSettings(**lora, student=args.student, fingerprint=student_id, chat_template=chat_template)
    parameters = lora_parameters(student)
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.learning_rate, weight_decay=args.weight_decay)
    progress = restore(args.output, parameters, optimizer) if args.resume else Progress()
    metrics, interrupts = Metrics(args.output, progress.step), Interrupts()

    def validation_loss() -> float:
        """−Σ log π_θ / response tokens over the validation questions, without dropout."""
        student.eval()
        total = 0.0
        with torch.no_grad():
            for micro in micro_batches(range(len(validation)), validation, args.micro_batch_tokens):
                batch = collate([validation[row] for row in micro], device)
                total += instruction_loss(response_log_probs(student, batch)).item()
        return total / sum(sequence.response_tokens for sequence in validation)

    # The loop: one optimizer step a turn, its gradient summed over micro-batches
    for step in tqdm(range(progress.step, steps), initial=progress.step, total=steps, desc="instruction-tuning"):
        torch.manual_seed(args.seed * 1_000_003 + step)  # dropout is a function of the step: nothing to save
        student.train()
        rows = step_rows(len(train), args.batch_size, args.seed, step)
        response_tokens = sum(train[row].response_tokens for row in rows)
        total = torch.zeros((), device=device)
        for micro in micro_batches(rows, train, args.micro_batch_tokens):
            batch = collate([train[row] for row in micro], device)
            log_probs = response_log_probs(student, batch)  # (B,) float32: log π_θ(â | i, q)
            loss = instruction_loss(log_probs) / response_tokens  # §2.1; one division for the whole step
            loss.backward()
            total += loss.detach()
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters.values(), args.max_grad_norm)
        require_finite(total, grad_norm, [train_rows[row].id for row in rows])
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        optimizer.zero_grad()

        progress.step = step + 1
        metrics.write(
            step=progress.step,
            loss=total.item(),
            grad_norm=grad_norm.item(),
            learning_rate=rates[step],
            tokens=sum(len(train[row]) for row in rows),
        )
        if validation and (progress.step % validate_every == 0 or progress.step == steps):
            value = validation_loss()
            metrics.write(step=progress.step, validation_loss=value)
            if progress.improves(value):
                save_adapter(student, args.output, adapter)
        if interrupts.requested or (progress.step % args.save_every == 0 and progress.step < steps):
            save_checkpoint(args.output, parameters, optimizer, progress)
            interrupts.leave_if_requested()  # not below: what came after the `if` has no checkpoint yet

    save_adapter(student, args.output / "last", adapter)
    if not validation:
        save_adapter(student, args.output, adapter)
    save_checkpoint(args.output, parameters, optimizer, progress)
    print(metrics.summary(progress))
    print(f"the adapter is in {args.output}; next: python train_dpo.py --adapter {args.output} ...")


if __name__ == "__main__":
    command.run(main)
