"""A model on this machine answers: a teacher, or the student that evaluate.py asks, which may be probed too (§3.3).

A teacher that is too large for one GPU even in NF4 goes behind a server (vLLM, TGI), which `--server` asks:
transformers splits a model over GPUs only with accelerate installed, for its tensor parallelism too.
"""

import argparse
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path

import torch

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
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import Question
from selfrefine.teachers import Answer, Key, Refusal


def answers(
    prompts: Mapping[Key, str], args: argparse.Namespace, done: Container[Key] = ()
) -> Iterator[tuple[Key, Answer | Refusal]]:
    """Yield (key, answer) of annotate's --teacher, in bfloat16 or in the project's own NF4, sampled as the student is,
    --batch-size being drawn at a time, in the same batches however much is `done`; what is drawn depends on the seed
    and the key alone. Of a batch that is done in part, all answers come again.

    Raises UserError for a model that cannot be loaded or sampled here.
    """
    device, dtype = command.machine(args)
    folder = find(args.teacher)
    tokenizer = load_tokenizer(folder)
    nf4 = args.weights == "nf4"
    teacher = load_student(folder, device, dtype) if nf4 else load_unquantised(folder, device, torch.bfloat16)
    if teacher.config.model_type in FAMILIES:
        fast.speed_up(teacher)
    template = uses_chat_template(tokenizer, args.chat_template, arguments=args.template_arguments)
    _tell(folder, args)
    encoded = {key: encode_prompt(tokenizer, text, chat_template=template) for key, text in prompts.items()}
    room = context(teacher.config)
    for key in [key for key, ids in encoded.items() if len(ids) >= room]:
        yield key, Refusal(f"its {len(encoded.pop(key))} tokens fill the teacher's context of {room}.")
    seeds = [row_seed(args.seed, *key) for key in encoded]
    yield from _generated(teacher, tokenizer, encoded, seeds, args, template, done)


def student(
    args: argparse.Namespace, asked: Mapping[Key, Question]
) -> tuple[dict, Callable[[Container[Key]], Iterator[tuple[Key, Answer]]]]:
    """What the answers of evaluate.py's --student depend on besides the flags, before any weight is loaded; and what
    then loads it and yields the answers that are not done, by (task, question id, prompt form, seed)."""
    device, dtype = command.machine(args)
    folder = find(args.student)
    config, tokenizer = read_config(folder, any_family=not args.adapter), load_tokenizer(folder)
    trained = read_settings(args.adapter).chat_template if args.adapter else None
    template = uses_chat_template(tokenizer, args.chat_template, trained, args.template_arguments)
    student_id = fingerprint(folder)
    made_by = {"dtype": str(dtype), "student_id": student_id, "chat_template": template}
    if args.adapter:
        made_by["adapter_id"] = digest([args.adapter / "adapter_model.safetensors"])
    if args.method == "generate":
        _tell(folder, args)

    def answers(done: Container[Key]) -> Iterator[tuple[Key, Answer]]:
        known = config.model_type in FAMILIES
        if not known:
            print(
                f"a {config.model_type} model is evaluated in {dtype}: {', '.join(FAMILIES)} are, and train, in 4 bits"
            )
        model = (load_student if known else load_unquantised)(folder, device, dtype)
        if args.adapter:
            load_adapter(model, args.adapter, student_id)
        if known and not args.plain:
            fast.speed_up(model)  # the same numbers, sooner: selfrefine/fast/
        texts = {key: prompt(question, cot=key[2] == "cot") for key, question in asked.items()}
        encoded = {key: encode_prompt(tokenizer, text, chat_template=template) for key, text in texts.items()}
        for key, ids in encoded.items():
            if len(ids) >= (room := context(config)):
                raise UserError(f"{key[0]} question {key[1]} has {len(ids)} tokens, the student's context {room}.")
        if args.method == "probe":
            options, keys = [len(question.options) for question in asked.values()], list(asked)
            letters = likeliest_letters(model, tokenizer, [*encoded.values()], options, _places(keys, done))
            return ((keys[index], Answer(letter)) for index, letter in letters)
        seeds = [row_seed(key[3], *key[:3]) for key in asked]
        return _generated(model, tokenizer, encoded, seeds, args, template, done)

    return made_by, answers


def _tell(folder: Path, args: argparse.Namespace) -> None:
    """Fill in the model's own top-k and top-p, and say how answers are drawn."""
    args.top_k, args.top_p = truncation(folder, args.top_k, args.top_p)
    print(f"answers are drawn at {told(args.temperature, args.top_k, args.top_p)}")


def _generated(
    model: Student,
    tokenizer: Tokenizer,
    prompts: Mapping[Key, list[int]],
    seeds: Sequence[int],
    args: argparse.Namespace,
    template: ChatTemplate,
    done: Container[Key] = (),
) -> Iterator[tuple[Key, Answer]]:
    """(key, answer) of the prompts, as they are drawn."""
    keys = list(prompts)
    drawn = sample(
        model,
        [*prompts.values()],
        seeds,
        end_ids=end_ids(model, tokenizer, template),
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        top_k=args.top_k,
        top_p=args.top_p,
        batch_size=args.batch_size,
        done=_places(keys, done),
    )
    return ((keys[index], Answer(decode(tokenizer, one.ids), one.ended)) for index, one in drawn)


def _places(keys: Sequence[Key], done: Container[Key]) -> set[int]:
    """Which of the keys are done, by number."""
    return {index for index, key in enumerate(keys) if key in done}
