#!/usr/bin/env python3
"""Phase 2, self-refine (§2.2, App. B): the instructed student π_inst learns to prefer its own correct chain of
thought ŷ to its direct answer y, by DPO at x̂ with π_inst itself, frozen, as the reference (Eqs. 1-4):

    M = β log π_θ(y_w|x̂)/π_inst(y_w|x̂) − β log π_θ(y_l|x̂)/π_inst(y_l|x̂),    L = −E[ log σ(M) ].
"""

import argparse
from functools import partial
from pathlib import Path

from tqdm import tqdm

from selfrefine import command
from selfrefine.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    command.add_student_flag(parser)
    parser.add_argument(
        "--adapter",
        type=Path,
        metavar="DIR",
        help="phase 1's output, π_inst, whose LoRA rank, α and layers then hold (default: a fresh adapter; Figure 4)",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--demonstrations", nargs="+", type=Path, metavar="FILE", help="sample y and ŷ, build the pairs"
    )
    source.add_argument("--preferences", type=Path, metavar="FILE", help="use these pairs")
    parser.add_argument(
        "--preferred", choices=("cot", "answer"), default="cot", help="DPO_CoT (Eq. 4) or DPO_answer (Eq. 5)"
    )
    parser.add_argument(
        "--matching",
        choices=("final", "substring"),
        default="final",
        help="t ∈ ŷ of Eq. 4: the final answer is the target, or the text contains it",
    )
    parser.add_argument("--temperature", type=command.rate, default=0.1, help="of y and ŷ, C.2")
    command.add_sampling_flags(parser)
    parser.add_argument("--max-new-tokens", type=command.positive, default=512, help="of y and ŷ; unsaid in the paper")
    parser.add_argument("--sampling-batch-size", type=command.positive, default=32, help="answers sampled at a time")
    parser.add_argument("--beta", type=command.above_zero, default=0.1, help="β of Eq. 2, §3.2.1")
    parser.add_argument("--learning-rate", type=command.above_zero, default=1e-6, help="peak, §3.2.1")
    parser.add_argument("--warmup-steps", type=command.natural, default=100, help="from 0 to the peak, §3.2.1")
    parser.add_argument(
        "--schedule",
        choices=("linear", "constant"),
        default="linear",
        help="after the warm-up: decay to 0, the default of the Hugging Face trainer that §3.2.1 names, or none, as in "
        "the code of Rafailov et al. (which has RMSprop and clips at 10, see --max-grad-norm)",
    )
    parser.add_argument(
        "--answers-per-prompt",
        type=command.positive,
        default=1,
        metavar="K",
        help="y and ŷ sampled of each question, a pair each (§1: different reasoning paths; how many is unsaid)",
    )
    parser.add_argument("--max-steps", type=command.positive, help="optimizer steps, §3.2.1 (default: 1000)")
    parser.add_argument("--epochs", type=command.positive, help="passes over the pairs, instead of the step cap")
    parser.add_argument(
        "--validation-fraction",
        type=command.share,
        default=0.1,
        help="share of questions that this phase holds out; lowest loss is kept, §3.2.1",
    )
    command.add_training_flags(parser, lora_dropout=0.0, batch_size="§3.2.1")
    args = parser.parse_args()
    if args.preferences and args.fraction:
        parser.error("--fraction is of --demonstrations: leave it out, or leave pairs out of the file")
    return args


def main() -> None:
    args = parse_args()

    import torch

    from selfrefine.files import digest
    from selfrefine.model.adapter import AdapterSettings, load_adapter, read_settings, require_student, save_adapter
    from selfrefine.model.encoding import uses_chat_template
    from selfrefine.model.lora import add_lora, lora_parameters
    from selfrefine.model.nf4 import hold_dequantized
    from selfrefine.model.sampling import told, truncation
    from selfrefine.model.student import find, fingerprint, load_student, load_tokenizer, read_config
    from selfrefine.preferences import build_pairs, explained, questions_of, sample_answers
    from selfrefine.records import read_demonstrations, read_preferences, write_records
    from selfrefine.runs import claim
    from selfrefine.tasks.splits import HOLD_OUT, fraction_of, hold_out
    from selfrefine.training import rows as data
    from selfrefine.training.batches import collate, micro_batches, step_rows, steps_per_epoch
    from selfrefine.training.checkpoint import Progress, restore, save_checkpoint
    from selfrefine.training.interrupts import Interrupts
    from selfrefine.training.log_probs import response_log_probs
    from selfrefine.training.losses import dpo_loss, dpo_margin
    from selfrefine.training.plan import dequantize_once, describe, disk
    from selfrefine.training.progress import PAIR_METRICS, Metrics, displacement, require_finite, require_start
    from selfrefine.training.reference import reference_log_probs
    from selfrefine.training.schedule import constant, linear

    # What there is to learn from, and the plan
    device, dtype = command.machine(args)
    args.micro_batch_tokens = args.micro_batch_tokens or command.micro_batch_tokens(device)
    folder = find(args.student)
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    instructed = read_settings(args.adapter) if args.adapter else None
    trained = instructed and instructed.chat_template
    chat_template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
    if instructed:  # phase 2 continues phase 1's adapter
        args.lora_rank, args.lora_alpha, args.lora_targets = instructed.rank, instructed.alpha, [*instructed.targets]
    else:
        print("no --adapter: the bare student is the reference (Figure 4's self-refine only)")
    if args.preferences:
        questions = pairs = read_preferences(args.preferences)
        files = [args.preferences]
    else:
        args.top_k, args.top_p = truncation(folder, args.top_k, args.top_p)
        print(f"y and ŷ are drawn at {told(args.temperature, args.top_k, args.top_p)}")
        read, files = read_demonstrations(args.demonstrations), args.demonstrations
        demonstrations = data.keep_correct(read) if args.keep == "correct" else read
        demonstrations = fraction_of(demonstrations, args.fraction, args.seed) if args.fraction else demonstrations
        questions = demonstrations  # of which a share is held out: phase 1's too, where it is given the same flags
        demonstrations = explained(demonstrations, read) if args.preferred == "cot" else demonstrations
        if not demonstrations:
            raise UserError("no demonstration has a right answer: look at the teacher's, or add --keep all.")

    def planned_rates(rows: int) -> list[float]:
        cap = args.max_steps or (1000 if args.epochs is None else float("inf"))
        steps = min(cap, args.epochs * steps_per_epoch(rows, args.batch_size) if args.epochs else cap)
        factor = constant if args.schedule == "constant" else linear
        return [args.learning_rate * factor(step, steps, args.warmup_steps) for step in range(steps)]

    most = len(pairs) if args.preferences else len(questions_of(demonstrations)) * args.answers_per_prompt
    if args.dequantize_once is None:
        args.dequantize_once = dequantize_once(config, device, dtype)
    print(describe(config, args, planned_rates(most), most, dtype))
    if args.dry_run:
        return
    student_id = fingerprint(folder)
    settings = vars(args) | {"dtype": str(dtype), "student_id": student_id, "data": digest(files)}
    settings |= {"hold_out": HOLD_OUT} if args.validation_fraction else {}
    if instructed:
        require_student(args.adapter, instructed, student_id)
        settings["adapter_id"] = digest([args.adapter / "adapter_model.safetensors"])
    held = claim(args.output, settings, resume=args.resume, disk=disk(config, args))  # noqa: F841, the folder's lock
    interrupts = Interrupts()

    # π_inst: the student as phase 1 left it
    student = load_student(folder, device, dtype, gradient_checkpointing=args.gradient_checkpointing)
    if args.dequantize_once:
        hold_dequantized(student)
    lora = {"rank": args.lora_rank, "alpha": args.lora_alpha, "dropout": args.lora_dropout}
    lora["targets"] = tuple(args.lora_targets)
    if args.adapter:
        load_adapter(student, args.adapter, student_id, dropout=args.lora_dropout)
    else:
        add_lora(student, **lora, seed=args.seed)
    adapter = AdapterSettings(**lora, student=args.student, fingerprint=student_id, chat_template=chat_template)

    # K times y ~ π_inst(·|x) and ŷ ~ π_inst(·|x̂) for each demonstration; pairs (x̂, y_w, y_l) by Eq. 4, or Eq. 5's
    if not args.preferences:
        answers = sample_answers(
            student,
            tokenizer,
            questions_of(demonstrations),
            args.output / "answers.jsonl",
            samples=args.answers_per_prompt,
            chat_template=chat_template,
            seed=args.seed,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
            top_k=args.top_k,
            top_p=args.top_p,
            batch_size=args.sampling_batch_size,
            after_each=interrupts.leave_if_requested,
        )
        pairs, counts = build_pairs(
            demonstrations,
            answers,
            samples=args.answers_per_prompt,
            preferred=args.preferred,
            matching=args.matching,
        )
        write_records(args.output / "preferences.jsonl", pairs)
        print(
            f"{len(pairs)} pairs: preferred side from the student {counts['student']}, from the teacher "
            f"{counts['teacher']}; no pair {counts['none']} (sides the same, or nothing to prefer); the same pair "
            f"again {counts['again']}"
        )
    encode = partial(data.preference_sequences, tokenizer, config=config, chat_template=chat_template)
    train_rows, validation_rows = hold_out(pairs, args.validation_fraction, args.seed, among=questions)
    train_rows, train = encode(train_rows, allowed=args.max_dropped)
    _, validation = encode(validation_rows, allowed=args.max_dropped)
    if not train:
        raise UserError("there is no pair to train on: the student answers x and x̂ alike, or no answer was right.")
    sequences = [*train, *validation]  # [x̂, y_w, y_l] as token ids, the validation's after those of training
    held_out = list(range(len(train), len(sequences)))
    rates = planned_rates(len(train))
    steps = len(rates)
    validate_every = args.validate_every or max(1, steps // 10)
    budget = args.micro_batch_tokens

    def rows_of(step: int) -> list[int]:
        return step_rows(len(train), args.batch_size, args.seed, step)

    # log π_inst(y_w|x̂) and log π_inst(y_l|x̂), once, in the micro-batches of the first epoch
    first_epoch = [rows_of(step) for step in range(min(steps, steps_per_epoch(len(train), args.batch_size)))]
    kept = args.output / "reference.safetensors"
    reference = reference_log_probs(
        student, sequences, [*first_epoch, held_out], budget, kept, after_each=interrupts.leave_if_requested
    )
    parameters = lora_parameters(student)
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.learning_rate, weight_decay=0.0)
    progress = restore(args.output, parameters, optimizer) if args.resume else Progress()
    metrics = Metrics(args.output, progress.step)
    if progress.step == 0:
        metrics.write(step=0, reference_seconds=reference.seconds, pairs=len(train), validation_pairs=len(validation))

    means: dict[str, float] = {}  # the last that was logged

    def losses_of(micro: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """L_DPO of each pair (P,), and what to log of it (7, P)."""
        batch = collate([sequences[row] for row in micro], device)
        chosen, rejected = response_log_probs(student, batch).view(-1, 2).unbind(1)  # (P,) float32: log π_θ(y | x̂)
        reference_chosen, reference_rejected = reference.chosen[micro], reference.rejected[micro]
        margin = dpo_margin(chosen, rejected, reference_chosen, reference_rejected, args.beta)  # Eq. 2
        losses = dpo_loss(margin)  # Eqs. 1 and 3
        shifts = chosen - reference_chosen, rejected - reference_rejected  # log π_θ / π_inst of each side
        return losses, torch.stack([losses, margin, margin > 0, chosen, rejected, *shifts]).detach()

    def validate() -> dict[str, float]:
        student.eval()
        with torch.no_grad():
            sums = sum(losses_of(micro)[1].sum(dim=1) for micro in micro_batches(held_out, sequences, budget))
        return dict(zip(PAIR_METRICS, (sums / len(validation)).tolist(), strict=True))

    # The loop: one optimizer step a turn, its gradient summed over micro-batches of whole pairs
    for step in tqdm(range(progress.step, steps), initial=progress.step, total=steps, desc="self-refine"):
        torch.manual_seed(args.seed * 1_000_003 + step)
        student.train()
        rows = rows_of(step)
        sums = torch.zeros(len(PAIR_METRICS), device=device)
        for micro in micro_batches(rows, sequences, budget):
            losses, logged = losses_of(micro)
            (losses.sum() / len(rows)).backward()  # the mean over the step's pairs, Eq. 1's expectation
            sums += logged.sum(dim=1)
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters.values(), args.max_grad_norm)
        means = dict(zip(PAIR_METRICS, (sums / len(rows)).tolist(), strict=True))
        require_finite(means["loss"], grad_norm, [train_rows[row].id for row in rows])
        if step == 0 and args.lora_dropout == 0:
            require_start(means["loss"], means["margin"], dtype)  # π_θ = π_inst: ln 2 and 0
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        optimizer.zero_grad()

        progress.step = step + 1
        tokens = sum(len(sequences[row]) + len(sequences[row].prompt) for row in rows)  # of y_w and y_l, at x̂ each
        metrics.write(step=progress.step, **means, grad_norm=grad_norm.item(), learning_rate=rates[step], tokens=tokens)
        if validation and (progress.step % validate_every == 0 or progress.step == steps):
            means = validate()
            metrics.write(step=progress.step, **{f"validation_{name}": value for name, value in means.items()})
            if progress.improves(means["loss"]):
                save_adapter(student, args.output, adapter)
        if interrupts.requested or (progress.step % args.save_every == 0 and progress.step < steps):
            save_checkpoint(args.output, parameters, optimizer, progress)
            interrupts.leave_if_requested()  # not below: what came after the `if` has no checkpoint yet

    save_adapter(student, args.output / "last", adapter)
    if not validation:
        save_adapter(student, args.output, adapter)
    save_checkpoint(args.output, parameters, optimizer, progress)
    print(metrics.summary(progress))
    if means:
        print(displacement(means))
    print(f"the self-refined adapter is in {args.output}; next: python evaluate.py --adapter {args.output} ...")


if __name__ == "__main__":
    command.run(main)
