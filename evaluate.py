#!/usr/bin/env python3
"""Evaluation (§3.3, C.2): zero-shot accuracy of a student, bare (Baseline at x, Baseline CoT at x̂) or adapted."""

import argparse
import json
from pathlib import Path

from tqdm import tqdm

from selfrefine import command
from selfrefine.errors import UserError


def parse_args() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    command.add_student_flag(parser)
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="from train_it.py or train_dpo.py (default: none)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--tasks", nargs="+", metavar="T", help="their test questions: obqa csqa piqa siqa gsm8k ...")
    source.add_argument(
        "--questions", type=Path, metavar="FILE", help="own questions, JSONL: question, options, target"
    )
    parser.add_argument(
        "--prompts",
        nargs="+",
        choices=("standard", "cot"),
        default=["standard", "cot"],
        help="x (Table 2) and x̂ (Table 3)",
    )
    parser.add_argument(
        "--method",
        choices=("generate", "probe"),
        default="generate",
        help="string matching on a generated answer, or the likeliest option letter (§3.3)",
    )
    parser.add_argument("--limit", type=command.positive, metavar="N", help="only the first N questions (of each task)")
    parser.add_argument("--seeds", nargs="+", type=command.natural, default=[0], help="a run of sampling each")
    parser.add_argument("--temperature", type=command.rate, default=0.1, help="C.2")
    command.add_sampling_flags(parser)
    parser.add_argument("--max-new-tokens", type=command.positive, default=512, help="unsaid in the paper")
    parser.add_argument("--batch-size", type=command.positive, default=32, help="answers sampled at a time")
    parser.add_argument(
        "--output", type=command.file, default=Path("evaluation.json"), metavar="FILE.json", help="results"
    )
    command.add_data_flag(parser)
    command.add_chat_template_flag(parser)
    command.add_machine_flags(parser)
    return parser.parse_args()


def main() -> None:
    args = parse_args()

    from selfrefine.files import beside, digest, lock, write_json, write_whole
    from selfrefine.model.adapter import load_adapter, read_settings
    from selfrefine.model.encoding import decode, encode_prompt, end_ids, uses_chat_template
    from selfrefine.model.sampling import row_seed, sample, told, truncation
    from selfrefine.model.student import (
        FAMILIES,
        context,
        find,
        fingerprint,
        load_student,
        load_tokenizer,
        load_unquantised,
        read_config,
    )
    from selfrefine.probe import likeliest_letters
    from selfrefine.runs import FREE, changes, versions
    from selfrefine.scores import prediction, read_predictions, score, table, without_results
    from selfrefine.tasks.own import read_questions
    from selfrefine.tasks.prompts import prompt
    from selfrefine.tasks.splits import questions as task_questions

    device, dtype = command.machine(args)
    folder = find(args.student)
    config, tokenizer = read_config(folder, any_family=not args.adapter), load_tokenizer(folder)
    trained = read_settings(args.adapter).chat_template if args.adapter else None
    chat_template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
    if args.method == "generate":
        args.top_k, args.top_p = truncation(folder, args.top_k, args.top_p)
        print(f"answers are drawn at {told(args.temperature, args.top_k, args.top_p)}")
    if args.questions:
        questions = read_questions(args.questions)[: args.limit]
    else:
        questions = [q for task in args.tasks for q in task_questions(task, "test", args.seed, args.data)[: args.limit]]
    if args.method == "probe" and not all(question.options for question in questions):
        raise UserError("--method probe needs options to choose from: take --method generate for open-ended tasks.")
    seeds = args.seeds if args.method == "generate" else args.seeds[:1]  # probing draws nothing

    # What was answered before, by a run of the same settings, is not asked again
    student_id = fingerprint(folder)
    settings = vars(args) | {"dtype": str(dtype), "student_id": student_id, "chat_template": chat_template}
    if args.adapter:
        settings["adapter_id"] = digest([args.adapter / "adapter_model.safetensors"])
    output, predictions = beside(args.output, ".json"), beside(args.output, ".predictions.jsonl")
    held = lock(predictions)  # noqa: F841, the file's lock
    begun = predictions.stat().st_size or not without_results(output)
    if begun and (changed := changes(output, settings, FREE | {"batch_size"})):
        raise UserError(changed[0] + ".")
    if not begun:
        write_json(output, {"results": {}, "settings": settings})
    asked = {
        (question.task, question.id, form, seed): question
        for question in questions
        for form in args.prompts
        for seed in seeds
    }
    keys = list(asked)
    answered = read_predictions(predictions, asked)
    if answered:
        print(f"{len(answered)} answers are in {predictions} already")

    if config.model_type in FAMILIES:
        student = load_student(folder, device, dtype)
    else:
        print(f"a {config.model_type} model is evaluated in {dtype}: {', '.join(FAMILIES)} are, and train, in 4 bits")
        student = load_unquantised(folder, device, dtype)
    if args.adapter:
        load_adapter(student, args.adapter, student_id)
    prompts = [
        encode_prompt(tokenizer, prompt(asked[key], cot=key[2] == "cot"), chat_template=chat_template) for key in keys
    ]
    done = {index for index, key in enumerate(keys) if key in answered}
    for key, ids in zip(keys, prompts, strict=True):
        if len(ids) >= context(config):
            raise UserError(
                f"{key[0]} question {key[1]} has {len(ids)} tokens, the student's context {context(config)}."
            )
    if args.method == "generate":
        sampled = sample(
            student,
            prompts,
            [row_seed(key[3], *key[:3]) for key in keys],
            end_ids=end_ids(student, tokenizer, chat_template),
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
            top_k=args.top_k,
            top_p=args.top_p,
            batch_size=args.batch_size,
            done=done,
        )
        texts = ((index, decode(tokenizer, answer.ids), answer.ended) for index, answer in sampled)
    else:
        letters = likeliest_letters(student, tokenizer, prompts, [len(asked[key].options) for key in keys], done)
        texts = ((index, letter, True) for index, letter in letters)

    with open(predictions, "a", encoding="utf-8", buffering=1) as file:
        for index, text, ended in tqdm(texts, total=len(keys), initial=len(done), desc="answering"):
            if keys[index] not in answered:
                row = prediction(asked[keys[index]], *keys[index][2:], text, ended)
                answered[keys[index]] = row
                print(json.dumps(row, ensure_ascii=False), file=file)

    rows = "".join(json.dumps(answered[key], ensure_ascii=False) + "\n" for key in keys)
    write_whole(predictions, rows.encode())  # in the order of the questions, however often it was stopped
    results = score([answered[key] for key in keys])
    laid_out = table(results, args.adapter and args.adapter.resolve().name)  # "." has a name too
    write_json(output, {"results": results, "settings": settings, "versions": versions(), "table": laid_out})
    print(laid_out)
    print(f"results in {output}, every answer in {predictions}")


if __name__ == "__main__":
    command.run(main)
