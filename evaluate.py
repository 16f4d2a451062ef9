#!/usr/bin/env python3
"""Evaluation (§3.3, C.2): zero-shot accuracy of a student, bare (Baseline at x, Baseline CoT at x̂) or adapted, on this
machine or served (--server)."""

import argparse
import json
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from selfrefine import command, flags, ranks
from selfrefine.errors import UserError
from selfrefine.files import beside, lock, write_json
from selfrefine.runs import FREE, changes, versions
from selfrefine.scores import Key, prediction, read_predictions, score, table, without_results
from selfrefine.tasks.own import asked_for
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import Question
from selfrefine.teachers import Answer, Refusal
from selfrefine.teachers.journal import complain, keep_all


def main() -> None:
    args = flags.evaluation(__doc__)
    asked = what_is_asked(args)
    if args.server:
        if ranks.COUNT > 1:
            raise UserError("torchrun is for a student on this machine: start --server without it.")
        made_by, answers = {}, served(args, asked)
    else:
        from selfrefine.teachers import local  # which needs torch

        made_by, answers = local.student(args, asked)

    # What was answered before, by a run of the same settings, is not asked again
    settings = vars(args) | made_by
    output, predictions = beside(args.output, ".json"), beside(args.output, ".predictions.jsonl")
    held = lock(predictions) if ranks.RANK == 0 else None  # noqa: F841, the file's lock
    answered = ranks.from_first(lambda: answered_before(output, predictions, settings, asked))
    if answered:
        print(f"{len(answered)} answers are in {predictions} already")

    # The student answers what is left
    with open(ranks.own(predictions), "a", encoding="utf-8", buffering=1) as file:

        def keep(key: Key, answer: Answer) -> None:
            if key not in answered:
                answered[key] = prediction(asked[key], *key[2:], answer.text, answer.ended)
                print(json.dumps(answered[key], ensure_ascii=False), file=file)

        refused = keep_all(answers(answered), len(asked.keys() - answered.keys()), keep, "answering")
    complain(refused)
    for others in ranks.gathered(answered):
        answered |= others
    # in the order of the questions, however often it was stopped
    rows = (json.dumps(answered[key], ensure_ascii=False) + "\n" for key in asked)
    ranks.put_together(predictions, rows, always=True)
    if ranks.RANK:
        return

    # Accuracies
    results = score([answered[key] for key in asked])
    adapter = args.adapter and args.adapter.resolve().name  # "." has a name too
    laid_out = table(results, args.student_name or adapter)
    write_json(output, {"results": results, "settings": settings, "versions": versions(), "table": laid_out})
    print(laid_out)
    print(f"results in {output}, every answer in {predictions}")


def answered_before(output: Path, predictions: Path, settings: dict, asked: dict[Key, Question]) -> dict[Key, dict]:
    """The answers that earlier starts left; `output` notes the settings of a first one. UserError where they differ."""
    begun = any(part.stat().st_size for part in ranks.parts(predictions)) or not without_results(output)
    free = FREE | {"batch_size", "server", "concurrency", "timeout", "patience"}
    if begun and (changed := changes(output, settings, free)):
        raise UserError(changed[0] + ".")
    if not begun:
        write_json(output, {"results": {}, "settings": settings})
    return {key: row for part in ranks.parts(predictions) for key, row in read_predictions(part, asked).items()}


def what_is_asked(args: argparse.Namespace) -> dict[Key, Question]:
    """The questions of --tasks or --questions, in each of --prompts, for each of --seeds."""
    questions = asked_for(args, args.tasks, "test")
    if args.method == "probe" and not all(question.options for question in questions):
        raise UserError("--method probe needs options to choose from: take --method generate for open-ended tasks.")
    seeds = args.seeds if args.method == "generate" else args.seeds[:1]  # probing draws nothing
    forms = [(form, seed) for form in args.prompts for seed in seeds]
    return {(question.task, question.id, *form): question for question in questions for form in forms}


def served(
    args: argparse.Namespace, asked: dict[Key, Question]
) -> Callable[[Container[Key]], Iterator[tuple[Key, Answer | Refusal]]]:
    """What asks the server for the answers that are not done."""
    from selfrefine.teachers import server
    from selfrefine.teachers.flags import server_settings

    how = server_settings(args)
    print(f"{args.student_name} is asked at {args.server}: the chat template, top-k and top-p are the server's own")
    prompts = {key: prompt(question, cot=key[2] == "cot") for key, question in asked.items()}
    return lambda done: server.answers(
        {key: text for key, text in prompts.items() if key not in done}, model=args.student_name, **how
    )


if __name__ == "__main__":
    command.run(main, several=True)
