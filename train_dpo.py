#!/usr/bin/env python3
"""Phase 2, self-refine (§2.2, App. B): the instructed student π_inst learns to prefer its own correct chain of
thought ŷ to its direct answer y, by DPO at x̂ with π_inst itself, frozen, as the reference (Eqs. 1-4):

    M = β log π_θ(y_w|x̂)/π_inst(y_w|x̂) − β log π_θ(y_l|x̂)/π_inst(y_l|x̂),    L = −E[ log σ(M) ].
"""

from selfrefine import command, flags

if __name__ == "__main__":
    flags.phase_2(__doc__)  # first: --help and wrong flags are answered before torch is there

import argparse
import math
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor
from tqdm import tqdm

from selfrefine import fast, ranks
from selfrefine.errors import UserError
from selfrefine.model.adapter import AdapterSettings, save_adapter
from selfrefine.model.lora import lora_parameters
from selfrefine.model.student import Student
from selfrefine.preferences import Answer, Key, build_pairs, explained, given_answers, questions_of, sample_answers
from selfrefine.records import Preference, read_preferences, write_records
from selfrefine.runs import Run
from selfrefine.sampling import told, truncation
from selfrefine.training import log_probs as plain
from selfrefine.training.batches import SEED_STRIDE, Pair, micro_batches, step_indices, steps_per_epoch
from selfrefine.training.checkpoint import Progress, restore, save_checkpoint
from selfrefine.training.examples import kept_demonstrations, pairs_of, split
from selfrefine.training.losses import chosen_nll, dpo_loss, dpo_margin
from selfrefine.training.progress import Metrics, displacement, means, require_finite, require_start
from selfrefine.training.reference import Reference, reference_log_probs
from selfrefine.training.schedule import constant, linear
from selfrefine.training.setup import Setup, load, prepare, run_settings


def main() -> None:
    args = flags.phase_2(__doc__)
    setup = prepare(args)
    if not args.adapter:
        print("no --adapter: the bare student is the reference (Figure 4's self-refine only)")

    # What there is to learn from: pairs, or demonstrations whose questions the student will answer
    answers: dict[Key, Answer] = {}  # where they were sampled elsewhere
    if args.preferences:
        kept = read_preferences(args.preferences)
        at_most, files = len(kept), [args.preferences]
    else:
        everything, kept = kept_demonstrations(args)
        demonstrations = explained(kept, everything) if args.preferred == "cot" else kept
        if not demonstrations:
            raise UserError("no demonstration has a right answer: look at the teacher's, or add --keep all.")
        if args.answers:
            demonstrations, answers = given_answers(demonstrations, args, setup.tokenizer, setup.chat_template)
        else:
            args.top_k, args.top_p = truncation(setup.folder, args.top_k, args.top_p)
            print(f"y and ŷ are drawn at {told(args.temperature, args.top_k, args.top_p)}")
        at_most = len(questions_of(demonstrations)) * args.answers_per_prompt
        files = [*args.demonstrations, *(args.answers or ())]

    # The plan
    print(setup.describe(planned_rates(args, at_most), at_most))
    if args.dry_run:
        return
    with Run(args.output, run_settings(setup, files), resume=args.resume, disk=setup.disk) as run:
        # π_inst: the student as phase 1 left it
        student, adapter = load(setup, run.settings["student_id"])
        formula = plain if args.plain else fast  # a module: `pair_log_probs` and `width`
        if formula is fast:
            fast.speed_up(student)  # the same formulas, sooner: selfrefine/fast/, an idea a file

        # The pairs (x̂, y_w, y_l), as token ids; a share of the questions is held out, phase 1's too at the same flags
        records = kept if args.preferences else refine(setup, run, student, demonstrations, answers)
        train, validation = split(records, pairs_of, setup, among=kept)
        if not train:
            raise UserError("there is no pair to train on: the student answers x and x̂ alike, or no answer was right.")
        optimize(setup, run, formula, student, adapter, train, validation)


def planned_rates(args: argparse.Namespace, count: int) -> list[float]:
    """The learning rate of each optimizer step over `count` pairs: --epochs of them, or 1000 steps (§3.2.1)."""
    epochs = args.epochs * steps_per_epoch(count, args.batch_size) if args.epochs else math.inf
    steps = min(epochs, args.max_steps or (math.inf if args.epochs else 1000))
    factor = constant if args.schedule == "constant" else linear
    return [args.learning_rate * factor(step, steps, args.warmup_steps) for step in range(steps)]


def refine(
    setup: Setup, run: Run, student: Student, demonstrations: list, answers: dict[Key, Answer]
) -> list[Preference]:
    """K times y ~ π_inst(·|x) and ŷ ~ π_inst(·|x̂) for each demonstration; pairs (x̂, y_w, y_l) by Eq. 4, or by Eq. 5."""
    args = setup.args
    answers = answers or sample_answers(
        student,
        setup.tokenizer,
        questions_of(demonstrations),
        args.output / "answers.jsonl",
        samples=args.answers_per_prompt,
        chat_template=setup.chat_template,
        seed=args.seed,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        top_k=args.top_k,
        top_p=args.top_p,
        batch_size=args.sampling_batch_size,
        after_each=run.leave_if_requested,
    )
    how = {"samples": args.answers_per_prompt, "preferred": args.preferred, "matching": args.matching}
    pairs, counts = build_pairs(demonstrations, answers, **how)
    if ranks.RANK == 0:
        write_records(args.output / "preferences.jsonl", pairs)
    print(
        f"{len(pairs)} pairs: preferred side from the student {counts['student']}, from the teacher "
        f"{counts['teacher']}; no pair {counts['none']} (sides the same, or nothing to prefer); the same pair "
        f"again {counts['again']}"
    )
    return pairs


def compare(
    formula: ModuleType,
    student: Student,
    pairs: list[Pair],
    reference: Reference,
    micro: list[int],
    beta: float,
    nll_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_DPO of each pair of a micro-batch, Eqs. 1 to 3, and `nll_weight` (the paper's: 0) times the NLL of a token of
    y_w, (P,) float32; and by name what it is made of, to be logged."""
    chosen, rejected = formula.pair_log_probs(student, [pairs[index] for index in micro])  # log π_θ(y | x̂)
    reference_chosen, reference_rejected = reference.chosen[micro], reference.rejected[micro]  # log π_inst(y | x̂)
    margin = dpo_margin(chosen, rejected, reference_chosen, reference_rejected, beta)  # Eq. 2
    nll = chosen_nll(chosen, chosen.new_tensor([len(pairs[index].chosen) for index in micro]))
    losses = dpo_loss(margin) + nll_weight * nll  # Eqs. 1 and 3, to the bit where the weight is 0
    parts = {
        "loss": losses,
        "chosen_nll": nll,
        "margin": margin,
        "accuracy": (margin > 0).float(),
        "chosen_logp": chosen,
        "rejected_logp": rejected,
        "chosen_change": chosen - reference_chosen,
        "rejected_change": rejected - reference_rejected,
    }
    return losses, {name: values.detach() for name, values in parts.items()}


def optimize(
    setup: Setup, run: Run, formula: ModuleType, student: Student, adapter: AdapterSettings, train: list, held: list
) -> None:
    """DPO on the pairs of `train` from π_inst, which the student is now; the adapter of the lowest loss on
    `held` is kept, without any the last."""
    args, rates = setup.args, planned_rates(setup.args, len(train))
    pairs = [*train, *held]  # an index below len(train) is a pair to train on
    widths, steps = [formula.width(pair) for pair in pairs], len(rates)
    validate_every, weights = args.validate_every or max(1, steps // 10), (args.beta, args.chosen_nll)

    def indices_of(step: int) -> list[int]:
        return step_indices(len(train), args.batch_size, args.seed, step)

    def parted(indices: Sequence[int]) -> list[list[int]]:
        return micro_batches(ranks.share(indices, widths), widths, args.micro_batch_tokens)

    # log π_inst(y_w|x̂) and log π_inst(y_l|x̂), each once: in the micro-batches of the first epoch, which has every pair
    first_epoch = range(min(steps, steps_per_epoch(len(train), args.batch_size)))
    held_out = parted(range(len(train), len(pairs)))
    reference = reference_log_probs(
        student,
        pairs,
        [*(parted(indices_of(step)) for step in first_epoch), held_out],
        args.output / "reference.safetensors",
        pair_log_probs=formula.pair_log_probs,
        after_each=run.leave_if_requested,
    )
    parameters = lora_parameters(student)
    optimizer = torch.optim.AdamW(parameters.values(), lr=args.learning_rate, weight_decay=0.0)
    # only now the weights of a run that goes on: up to here the student was π_inst
    progress = restore(args.output, parameters, optimizer) if args.resume else Progress()
    metrics, latest = Metrics(args.output, progress.step), None
    if progress.step == 0:
        metrics.write(step=0, reference_seconds=reference.seconds, pairs=len(train), validation_pairs=len(held))

    # The loop: one optimizer step a turn, its gradient summed over micro-batches of whole pairs
    for step in tqdm(range(progress.step, steps), initial=progress.step, total=steps, desc="self-refine"):
        # dropout is a function of the step (and the rank): nothing to save
        torch.manual_seed(ranks.own_seed(args.seed) * SEED_STRIDE + step)
        student.train()
        indices, seen = indices_of(step), []
        for micro in parted(indices):
            losses, parts = compare(formula, student, pairs, reference, micro, *weights)
            (losses.sum() / len(indices)).backward()  # the mean over the step's pairs, Eq. 1's expectation
            seen.append(parts)
        ranks.sum_gradients(parameters.values())
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters.values(), args.max_grad_norm).item()
        latest = means(seen)
        require_finite(latest["loss"], grad_norm, [pairs[index].id for index in indices])
        if step == 0 and args.lora_dropout == 0:
            dpo = latest["loss"] - args.chosen_nll * latest["chosen_nll"]
            require_start(dpo, latest["margin"], setup.dtype)  # π_θ = π_inst: ln 2 and 0
        for group in optimizer.param_groups:
            group["lr"] = rates[step]
        optimizer.step()
        optimizer.zero_grad()

        # What is logged, validated and kept
        progress.step = step + 1
        # the prompt with each side, as the formula reads
        tokens = sum(2 * len(pairs[i].prompt) + len(pairs[i].chosen) + len(pairs[i].rejected) for i in indices)
        metrics.write(step=progress.step, **latest, grad_norm=grad_norm, learning_rate=rates[step], tokens=tokens)
        if held and (progress.step % validate_every == 0 or progress.step == steps):
            student.eval()
            with torch.no_grad():
                latest = means([compare(formula, student, pairs, reference, micro, *weights)[1] for micro in held_out])
            metrics.write(step=progress.step, **{f"validation_{name}": value for name, value in latest.items()})
            if progress.improves(latest["loss"]):
                save_adapter(student, args.output, adapter)
        due = progress.step % args.save_every == 0 and progress.step < steps
        run.checkpoint(lambda: save_checkpoint(args.output, parameters, optimizer, progress), due=due)

    save_adapter(student, args.output / "last", adapter)
    if not held:
        save_adapter(student, args.output, adapter)
    save_checkpoint(args.output, parameters, optimizer, progress)
    print(metrics.summary(progress))
    if latest:
        print(displacement(latest))  # of the validation pairs, or without any of the last step's
    print(f"the self-refined adapter is in {args.output}; next: python evaluate.py --adapter {args.output} ...")


if __name__ == "__main__":
    command.run(main, several=True)
