#!/usr/bin/env python3
"""Phase 1, instruction-tuning (§2.1, App. A): tune the student on a teacher's demonstrations (i, q, â), q with the
trigger as in Table 6, by QLoRA,

    L_inst(θ) = −E[ Σ_t log π_θ(w_t | s_t, i) ],

the negative log-likelihood of the response's tokens only.
"""

from selfrefine import command, flags

if __name__ == "__main__":
    flags.phase_1(__doc__)  # first: --help and wrong flags are answered before torch is there

import math

import torch
from tqdm import tqdm

from selfrefine import fast, ranks
from selfrefine.errors import UserError
from selfrefine.model.adapter import save_adapter
from selfrefine.model.lora import lora_parameters
from selfrefine.runs import Run
from selfrefine.training import log_probs as plain
from selfrefine.training.batches import SEED_STRIDE, micro_batches, step_indices, steps_per_epoch
from selfrefine.training.checkpoint import Progress, restore, save_checkpoint
from selfrefine.training.examples import examples_of, kept_demonstrations, split
from selfrefine.training.losses import instruction_loss
from selfrefine.training.progress import Metrics, require_finite
from selfrefine.training.schedule import cosine
from selfrefine.training.setup import Setup, load, prepare, run_settings


def main() -> None:
    args = flags.phase_1(__doc__)
    setup = prepare(args)

    # The demonstrations (i, q, â), as token ids
    read, kept = kept_demonstrations(args)
    train, validation = split(kept, examples_of, setup)
    print(
        f"{len(read)} demonstrations, {len(kept)} kept (--keep {args.keep}): "
        f"{len(train)} to train on, {len(validation)} to validate on"
    )
    if not train:
        raise UserError("no demonstration is left to train on: look at the teacher's answers, or add --keep all.")

    # The plan: how many optimizer steps, at which learning rates
    steps = min(args.epochs * steps_per_epoch(len(train), args.batch_size), args.max_steps or math.inf)
    warmup = math.ceil(args.warmup_ratio * steps)
    rates = [args.learning_rate * cosine(step, steps, warmup) for step in range(steps)]
    print(setup.describe(rates, len(train)))
    if not args.dry_run:
        with Run(args.output, run_settings(setup, args.demonstrations), resume=args.resume, disk=setup.disk) as run:
            tune(setup, run, train, validation, rates)


def tune(setup: Setup, run: Run, train: list, validation: list, rates: list[float]) -> None:
    """The loop: an optimizer step for each learning rate, on `train`. The adapter of the lowest loss on `validation` is
    kept, without any the last."""
    args, steps = setup.args, len(rates)
    student, adapter = load(setup, run.settings["student_id"])
    formula = plain if args.plain else fast  # a module: `response_log_probs` and `width`
    if formula is fast:
        fast.speed_up(student)  # the same formulas, sooner: selfrefine/fast/, an idea a file

    parameters = lora_parameters(student)
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.learning_rate, weight_decay=args.weight_decay)
    progress = restore(args.output, parameters, optimizer) if args.resume else Progress()
    metrics = Metrics(args.output, progress.step)
    validate_every = args.validate_every or max(1, steps // 10)
    widths, validation_widths = ([formula.width(example) for example in some] for some in (train, validation))

    def validation_loss() -> float:
        """−Σ log π_θ / response tokens over the validation questions, without dropout."""
        student.eval()
        total, rows = 0.0, ranks.share(range(len(validation)), validation_widths)
        with torch.no_grad():
            for micro in micro_batches(rows, validation_widths, args.micro_batch_tokens):
                log_probs = formula.response_log_probs(student, [validation[index] for index in micro])
                total += instruction_loss(log_probs).item()
        return sum(ranks.gathered(total)) / sum(len(example.response) for example in validation)

    # One optimizer step a turn, its gradient summed over micro-batches
    for step in tqdm(range(progress.step, steps), initial=progress.step, total=steps, desc="instruction-tuning"):
        # dropout is a function of the step (and the rank): nothing to save
        torch.manual_seed(ranks.own_seed(args.seed) * SEED_STRIDE + step)
        student.train()
        indices = step_indices(len(train), args.batch_size, args.seed, step)
        response_tokens = sum(len(train[index].response) for index in indices)
        total = torch.zeros((), device=setup.device)
        for micro in micro_batches(ranks.share(indices, widths), widths, args.micro_batch_tokens):
            log_probs = formula.response_log_probs(
                student, [train[index] for index in micro]
            )  # (B,): log π_θ(â | i, q)
            loss = instruction_loss(log_probs) / response_tokens  # §2.1; one division for the whole step
            loss.backward()
            total += loss.detach()
        ranks.sum_gradients(parameters.values())
        step_loss = sum(ranks.gathered(total.item()))
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters.values(), args.max_grad_norm)
        require_finite(step_loss, grad_norm.item(), [train[index].id for index in indices])
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        optimizer.zero_grad()

        # What is logged, validated and kept
        progress.step = step + 1
        metrics.write(
            step=progress.step,
            loss=step_loss,
            grad_norm=grad_norm.item(),
            learning_rate=rates[step],
            tokens=sum(len(train[index].prompt) + len(train[index].response) for index in indices),
        )
        if validation and (progress.step % validate_every == 0 or progress.step == steps):
            metrics.write(step=progress.step, validation_loss=(value := validation_loss()))
            if progress.improves(value):
                save_adapter(student, args.output, adapter)
        due = progress.step % args.save_every == 0 and progress.step < steps
        run.checkpoint(lambda: save_checkpoint(args.output, parameters, optimizer, progress), due=due)

    save_adapter(student, args.output / "last", adapter)
    if not validation:
        save_adapter(student, args.output, adapter)
    save_checkpoint(args.output, parameters, optimizer, progress)
    print(metrics.summary(progress))
    print(f"the adapter is in {args.output}; next: python train_dpo.py --adapter {args.output} ...")


if __name__ == "__main__":
    command.run(main, several=True)
