#!/usr/bin/env python3
"""Evaluation (§3.3, C.2): zero-shot accuracy of a student, bare (Baseline at x, Baseline CoT at x̂) or adapted."""

from selfrefine import command, flags

if __name__ == "__main__":
    flags.evaluation(__doc__)  # first: --help and wrong flags are answered before torch is there

import argparse
import json
from collections.abc import Container, Iterator
from pathlib import Path

from tqdm import tqdm

from selfrefine import fast, ranks
from selfrefine.errors import UserError
from selfrefine.files import beside, digest, lock, write_json
from selfrefine.model.adapter import load_adapter, read_settings
from selfrefine.model.encoding import decode, encode_prompt, end_ids, uses_chat_template
from selfrefine.model.student import (
    FAMILIES,
    Student,
    Tokenizer,
    context,
    find,
    fingerprint,
    load_student,
    load_tokenizer,
    load_unquantised,
    read_config,
)
from selfrefine.model.template import ChatTemplate
from selfrefine.probe import likeliest_letters
from selfrefine.runs import FREE, changes, versions
from selfrefine.sampling import row_seed, sample, told, truncation
from selfrefine.scores import Key, prediction, read_predictions, score, table, without_results
from selfrefine.tasks.own import read_questions
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import Question
from selfrefine.tasks.splits import questions as task_questions


def main() -> None:
    args = flags.evaluation(__doc__)
    device, dtype = command.machine(args)
    folder = find(args.student)
    config, tokenizer = read_config(folder, any_family=not args.adapter), load_tokenizer(folder)
    trained = read_settings(args.adapter).chat_template if args.adapter else None
    chat_template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
    if args.method == "generate":
        args.top_k, args.top_p = truncation(folder, args.top_k, args.top_p)
        print(f"answers are drawn at {told(args.temperature, args.top_k, args.top_p)}")
    asked = what_is_asked(args)
    keys = list(asked)

    # What was answered before, by a run of the same settings, is not asked again
    student_id = fingerprint(folder)
    settings = vars(args) | {"dtype": str(dtype), "student_id": student_id, "chat_template": chat_template}
    if args.adapter:
        settings["adapter_id"] = digest([args.adapter / "adapter_model.safetensors"])
    output, predictions = beside(args.output, ".json"), beside(args.output, ".predictions.jsonl")
    held = lock(predictions) if ranks.RANK == 0 else None  # noqa: F841, the file's lock
    answered = ranks.from_first(lambda: answered_before(output, predictions, settings, asked))
    if answered:
        print(f"{len(answered)} answers are in {predictions} already")
    done = {index for index, key in enumerate(keys) if key in answered}

    # The student answers what is left
    if config.model_type in FAMILIES:
        student = load_student(folder, device, dtype)
    else:
        print(f"a {config.model_type} model is evaluated in {dtype}: {', '.join(FAMILIES)} are, and train, in 4 bits")
        student = load_unquantised(folder, device, dtype)
    if args.adapter:
        load_adapter(student, args.adapter, student_id)
    if not args.plain and config.model_type in FAMILIES:
        fast.speed_up(student)  # the same numbers, sooner: selfrefine/fast/
    texts = answers(student, tokenizer, asked, done, args, chat_template=chat_template)
    bar = tqdm(total=len(keys), initial=len(done), desc="answering")
    with bar, open(ranks.own(predictions), "a", encoding="utf-8", buffering=1) as file:
        for index, text, ended in texts:
            if keys[index] not in answered:
                row = prediction(asked[keys[index]], *keys[index][2:], text, ended)
                answered[keys[index]] = row
                print(json.dumps(row, ensure_ascii=False), file=file)
                bar.update(ranks.COUNT)
    for others in ranks.gathered(answered):
        answered |= others
    # in the order of the questions, however often it was stopped
    rows = (json.dumps(answered[key], ensure_ascii=False) + "\n" for key in keys)
    ranks.put_together(predictions, rows, always=True)
    if ranks.RANK:
        return

    # Accuracies
    results = score([answered[key] for key in keys])
    laid_out = table(results, args.adapter and args.adapter.resolve().name)  # "." has a name too
    write_json(output, {"results": results, "settings": settings, "versions": versions(), "table": laid_out})
    print(laid_out)
    print(f"results in {output}, every answer in {predictions}")


def answered_before(output: Path, predictions: Path, settings: dict, asked: dict[Key, Question]) -> dict[Key, dict]:
    """The answers that earlier starts left; `output` notes the settings of a first one. UserError where they differ."""
    begun = any(part.stat().st_size for part in ranks.parts(predictions)) or not without_results(output)
    if begun and (changed := changes(output, settings, FREE | {"batch_size"})):
        raise UserError(changed[0] + ".")
    if not begun:
        write_json(output, {"results": {}, "settings": settings})
    return {key: row for part in ranks.parts(predictions) for key, row in read_predictions(part, asked).items()}


def what_is_asked(args: argparse.Namespace) -> dict[Key, Question]:
    """The questions of --tasks or --questions, in each of --prompts, for each of --seeds."""
    if args.questions:
        questions = read_questions(args.questions)[: args.limit]
    else:
        questions = [q for task in args.tasks for q in task_questions(task, "test", args.seed, args.data)[: args.limit]]
    if args.method == "probe" and not all(question.options for question in questions):
        raise UserError("--method probe needs options to choose from: take --method generate for open-ended tasks.")
    seeds = args.seeds if args.method == "generate" else args.seeds[:1]  # probing draws nothing
    forms = [(form, seed) for form in args.prompts for seed in seeds]
    return {(question.task, question.id, *form): question for question in questions for form in forms}


def answers(
    student: Student,
    tokenizer: Tokenizer,
    asked: dict[Key, Question],
    done: Container[int],
    args: argparse.Namespace,
    *,
    chat_template: ChatTemplate,
) -> Iterator[tuple[int, str, bool]]:
    """(place in `asked`, text, whether it ended) of what is not `done`, as it is generated or probed."""
    prompts = []
    for key, question in asked.items():
        prompts.append(encode_prompt(tokenizer, prompt(question, cot=key[2] == "cot"), chat_template=chat_template))
        if len(prompts[-1]) >= context(student.config):
            told = f"has {len(prompts[-1])} tokens, the student's context {context(student.config)}"
            raise UserError(f"{key[0]} question {key[1]} {told}.")
    if args.method == "probe":
        options = [len(question.options) for question in asked.values()]
        letters = likeliest_letters(student, tokenizer, prompts, options, done)
        return ((index, letter, True) for index, letter in letters)
    sampled = sample(
        student,
        prompts,
        [row_seed(key[3], *key[:3]) for key in asked],
        end_ids=end_ids(student, tokenizer, chat_template),
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        top_k=args.top_k,
        top_p=args.top_p,
        batch_size=args.batch_size,
        done=done,
    )
    return ((index, decode(tokenizer, answer.ids), answer.ended) for index, answer in sampled)


if __name__ == "__main__":
    command.run(main, several=True)
