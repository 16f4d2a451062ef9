"""The student on this machine, as evaluate.py asks it: generated answers, or the likeliest letters (probing, §3.3)."""

import argparse
from collections.abc import Callable, Container, Iterator

from selfrefine import command, fast
from selfrefine.errors import UserError
from selfrefine.files import digest
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
from selfrefine.sampling import row_seed, sample, told, truncation
from selfrefine.scores import Key
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import Question
from selfrefine.teachers import Answer

Answers = Callable[[Container[Key]], Iterator[tuple[Key, Answer]]]


def answering(args: argparse.Namespace, asked: dict[Key, Question]) -> tuple[dict, Answers]:
    """What the answers depend on besides the flags, before any weight is loaded; and what loads the student and yields
    the answers that are not done, as it generates or probes them."""
    device, dtype = command.machine(args)
    folder = find(args.student)
    config, tokenizer = read_config(folder, any_family=not args.adapter), load_tokenizer(folder)
    trained = read_settings(args.adapter).chat_template if args.adapter else None
    chat_template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
    if args.method == "generate":
        args.top_k, args.top_p = truncation(folder, args.top_k, args.top_p)
        print(f"answers are drawn at {told(args.temperature, args.top_k, args.top_p)}")
    student_id = fingerprint(folder)
    settings = {"dtype": str(dtype), "student_id": student_id, "chat_template": chat_template}
    if args.adapter:
        settings["adapter_id"] = digest([args.adapter / "adapter_model.safetensors"])

    def answers(done: Container[Key]) -> Iterator[tuple[Key, Answer]]:
        if config.model_type in FAMILIES:
            student = load_student(folder, device, dtype)
        else:
            print(
                f"a {config.model_type} model is evaluated in {dtype}: {', '.join(FAMILIES)} are, and train, in 4 bits"
            )
            student = load_unquantised(folder, device, dtype)
        if args.adapter:
            load_adapter(student, args.adapter, student_id)
        if not args.plain and config.model_type in FAMILIES:
            fast.speed_up(student)  # the same numbers, sooner: selfrefine/fast/
        return _answers(student, tokenizer, asked, done, args, chat_template=chat_template)

    return settings, answers


def _answers(
    student: Student,
    tokenizer: Tokenizer,
    asked: dict[Key, Question],
    done: Container[Key],
    args: argparse.Namespace,
    *,
    chat_template: ChatTemplate,
) -> Iterator[tuple[Key, Answer]]:
    """(key, answer) of what is not `done`, as it is generated or probed."""
    prompts, keys = [], list(asked)
    for key, question in asked.items():
        prompts.append(encode_prompt(tokenizer, prompt(question, cot=key[2] == "cot"), chat_template=chat_template))
        if len(prompts[-1]) >= context(student.config):
            told = f"has {len(prompts[-1])} tokens, the student's context {context(student.config)}"
            raise UserError(f"{key[0]} question {key[1]} {told}.")
    done = {index for index, key in enumerate(keys) if key in done}
    if args.method == "probe":
        options = [len(question.options) for question in asked.values()]
        letters = likeliest_letters(student, tokenizer, prompts, options, done)
        return ((keys[index], Answer(letter)) for index, letter in letters)
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
    return ((keys[index], Answer(decode(tokenizer, answer.ids), answer.ended)) for index, answer in sampled)
