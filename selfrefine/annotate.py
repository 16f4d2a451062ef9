"""Annotation (App. A): a teacher answers the questions, which gives the demonstrations (instruction, input, output).

The teacher is a local model, any OpenAI-compatible server (`--server`), or the pocket tasks' scripted one
(`--teacher pocket`); or its answers are there already (`--from FILE`). Every answer is kept, right or wrong, and
appended to the output as it comes: stopped at any moment and started again, the command asks only what is missing.
"""

import argparse
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from selfrefine import command, ranks
from selfrefine.errors import UserError
from selfrefine.files import digest
from selfrefine.tasks.answers import grade
from selfrefine.tasks.own import read_questions
from selfrefine.tasks.prompts import instruction, join, prompt, task_input
from selfrefine.tasks.questions import Question
from selfrefine.tasks.splits import questions
from selfrefine.teachers import Answer, Key, Refusal
from selfrefine.teachers.flags import add_server_flags, print_plan, server_settings
from selfrefine.teachers.journal import appending, complain, keep_all, missing, rows_by_key, tell_cut

SCRIPTED = "pocket"


def main() -> None:
    """The command."""
    args = _parse()
    asked = {(question.task, question.id): question for question in _questions(args)}
    prompts = {key: prompt(question, cot=args.prompt == "cot") for key, question in asked.items()}
    settings = _settings(args)
    if args.dry_run:
        print_plan(missing(prompts, _rows(args.output, settings, prompts), settings), args)
        return
    before = partial(ranks.from_first, lambda: _rows(args.output, settings, prompts))
    with appending(ranks.own(args.output), before) as (rows, append):
        todo = missing(prompts, rows, settings)
        if len(todo) < len(prompts):
            print(f"{args.output} has {len(prompts) - len(todo)} of {len(prompts)} answers: asking the others")

        def keep(key: Key, answer: Answer) -> None:
            new[key] = demonstration(asked[key], answer, cot=args.prompt == "cot", settings=settings)
            append(key, new[key])

        new: dict[Key, dict] = {}
        refused = keep_all(_answers(args, asked, todo), len(todo), keep, f"asking {args.teacher}")
        for others, refused_there in ranks.gathered((new, refused)):
            rows |= others
            refused |= refused_there
        in_order = {key: rows[key] for key in prompts if key in rows} | rows
        ranks.put_together(args.output, (json.dumps(row, ensure_ascii=False) + "\n" for row in in_order.values()))
    rows = [rows[key] for key in prompts if key in rows]
    print_accuracy(rows, args)
    if not args.given:
        tell_cut(rows, settings)
    complain(refused)


def demonstration(question: Question, answer: Answer, *, cot: bool, settings: dict) -> dict:
    """A line of the output: the triple of Table 6, where it came from, what was read from it, how it was made."""
    graded = grade(answer.text, question.target, question.options, question.task, answer.ended)
    return {
        "task": question.task,
        "id": question.id,
        "instruction": instruction(question),
        "input": task_input(question, cot=cot),
        "output": answer.text,
        "target": question.target,
        "teacher": settings["teacher"],
        "question": question.question,
        "options": list(question.options),
        "read": graded.read,
        "correct": graded.correct,
        "ended": answer.ended,
        "settings": settings,
    }


def default_temperature(teacher: str) -> float:
    """C.2: 0.7 for GPT-3.5, 0.1 for Llama-2-70; our choice for all others is 0.1."""
    return 0.7 if re.search(r"gpt-3\.?5", teacher, re.IGNORECASE) else 0.1


def print_accuracy(rows: list[dict], args: argparse.Namespace) -> None:
    """Table 5: the teacher's accuracy per task, and how many answers could not be read or were cut."""
    if not rows:
        return
    split = "own questions" if args.questions else f"{args.split} split"
    print(f"\naccuracy (%) of {args.teacher}, {split}, {args.prompt} prompt (Table 5)")
    print(f"{'task':<16}{'accuracy':>9}{'right':>8}{'answers':>9}{'not read':>10}{'cut':>6}")
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        right = sum(row["correct"] for row in of_task)
        unread = sum(row["read"] is None for row in of_task)
        cut = sum(not row["ended"] for row in of_task)
        accuracy = 100 * right / len(of_task)
        print(f"{task:<16}{accuracy:>9.1f}{right:>8}{len(of_task):>9}{unread:>10}{cut:>6}")


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    what = parser.add_argument_group("questions")
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument("--task", nargs="+", metavar="T", help="one or several tasks, e.g. obqa csqa gsm8k (§3.1)")
    source.add_argument(
        "--questions", type=Path, metavar="FILE", help="own questions: JSONL with question, options, target"
    )
    what.add_argument("--split", choices=("train", "test"), default="train", help="C.2 annotates the training set")
    what.add_argument("--limit", type=command.positive, metavar="N", help="at most N questions of each task")
    command.add_data_flag(parser)
    teacher = parser.add_argument_group("teacher")
    teacher.add_argument(
        "--from",
        dest="given",
        type=Path,
        metavar="FILE",
        help="answers that are there already: JSONL with `question` (or `id`) and `output`; they are read and graded",
    )
    teacher.add_argument(
        "--teacher",
        metavar="MODEL",
        help="a folder or Hub id (Table 4); with --server its name there; `pocket`: the pocket tasks' scripted teacher",
    )
    teacher.add_argument(
        "--weights",
        choices=("bfloat16", "nf4"),
        default="bfloat16",
        help="a local teacher's weights; nf4 puts a 70B on one 48 GB card",
    )
    teacher.add_argument(
        "--batch-size", type=command.positive, default=32, help="questions a local teacher answers at once"
    )
    command.add_chat_template_flag(parser)
    how = parser.add_argument_group("answers")
    how.add_argument(
        "--prompt",
        choices=("cot", "standard"),
        default="cot",
        help='Table 3, "approach used in this work", or Table 2',
    )
    how.add_argument(
        "--temperature",
        type=command.rate,
        help="(default: 0.7 where the teacher's name has gpt-3.5, else 0.1: C.2, which names GPT-3.5 and Llama-2-70)",
    )
    command.add_sampling_flags(how)
    how.add_argument("--max-new-tokens", type=command.positive, default=512, help="longest answer; the paper is silent")
    how.add_argument(
        "--output",
        type=command.file,
        required=True,
        metavar="FILE.jsonl",
        help="appended to; what is there is not asked again",
    )
    add_server_flags(parser)
    command.add_machine_flags(parser)
    args = parser.parse_args()
    if not (args.teacher or args.given) or (args.server and args.given):
        parser.error("give --teacher (with --server URL, where it is asked there), or --from FILE, which asks nobody")
    args.teacher = args.teacher or args.given.stem
    if args.temperature is None:
        args.temperature = default_temperature(args.teacher)
    if (args.server or args.teacher == SCRIPTED) and (args.top_k, args.top_p) != (None, None):
        parser.error("--top-k and --top-p are a local teacher's: a server has settings of its own")
    if ranks.COUNT > 1 and (args.server or args.given or args.teacher == SCRIPTED):
        parser.error("torchrun is for a local teacher: start this without it")
    return args


def _questions(args: argparse.Namespace) -> list[Question]:
    if args.questions:
        return read_questions(args.questions)[: args.limit]
    return [
        question
        for task in dict.fromkeys(args.task)
        for question in questions(task, args.split, args.seed, args.data)[: args.limit]
    ]


def _settings(args: argparse.Namespace) -> dict:
    """What an answer depends on besides its question; one file holds answers of one such setting."""
    settings = {"teacher": args.teacher, "prompt": args.prompt, "seed": args.seed}
    settings |= {"split": args.split} if args.task else {}
    if args.given:
        return settings | {"from": digest([args.given])}
    if args.teacher == SCRIPTED and not args.server:
        return settings
    settings |= {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens}
    if args.server:
        settings |= {"extra_body": args.extra_body} if args.extra_body else {}
    else:
        settings |= {"weights": args.weights, "chat_template": args.chat_template}
        settings |= {"template_arguments": args.template_arguments} if args.template_arguments else {}
        # None is nothing cut, as before there were these flags
        settings |= {"top_k": "its own" if args.top_k is None else args.top_k or None}
        settings |= {"top_p": "its own" if args.top_p is None else args.top_p if args.top_p < 1 else None}
    return settings


def _rows(path: Path, settings: dict, prompts: dict[Key, str]) -> dict[Key, dict]:
    """The answers that the file has; raises UserError where one is to another question under the same id."""
    rows = {}
    for part in ranks.parts(path):
        rows |= rows_by_key(part, ("task", "id"), settings)
    for key, row in rows.items():
        if key in prompts and prompts[key] != join(row["instruction"], row["input"]):
            raise UserError(f"{path}: {' '.join(key)} is another question there: give another --output.")
    return rows


def _answers(
    args: argparse.Namespace, asked: dict[Key, Question], prompts: dict[Key, str]
) -> Iterator[tuple[Key, Answer | Refusal]]:
    """The teacher that the flags name, at work on `prompts`. Only what it needs is imported."""
    if not prompts:
        return iter(())
    if args.given:
        from selfrefine.teachers import given

        return ((key, answer) for key, answer in given.answers(args.given, asked) if key in prompts)
    sampling = {"temperature": args.temperature, "max_new_tokens": args.max_new_tokens, "seed": args.seed}
    if args.server:
        from selfrefine.teachers import server

        return server.answers(prompts, model=args.teacher, **sampling, **server_settings(args))
    if args.teacher == SCRIPTED:
        from selfrefine.pocket.teacher import answer

        return ((key, Answer(answer(asked[key], args.seed, args.prompt == "cot"))) for key in prompts)
    from selfrefine.teachers import local

    device, dtype = command.machine(args)
    return local.answers(
        prompts,
        model=args.teacher,
        nf4=args.weights == "nf4",
        chat_template=args.chat_template,
        template_arguments=args.template_arguments,
        batch_size=args.batch_size,
        device=device,
        dtype=dtype,
        top_k=args.top_k,
        top_p=args.top_p,
        **sampling,
    )


if __name__ == "__main__":
    command.run(main, several=True)
