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
from selfrefine.runs import require_same
from selfrefine.tasks.answers import grade
from selfrefine.tasks.own import asked_for
from selfrefine.tasks.prompts import instruction, join, prompt, task_input
from selfrefine.tasks.questions import Question
from selfrefine.teachers import Answer, Key, Refusal, named
from selfrefine.teachers.flags import add_plan_flags, add_server_flags, print_plan, server_settings
from selfrefine.teachers.journal import appending, complain, keep_all, missing, rows_by_key, tell_cut

SCRIPTED = "pocket"


def main() -> None:
    """The command."""
    args = _parse()
    forms = ("standard", "cot") if args.prompt == "both" else (args.prompt,)
    asked = {(q.task, q.id, form): q for q in asked_for(args, args.task, args.split) for form in forms}
    prompts = {key: prompt(question, cot=key[2] == "cot") for key, question in asked.items()}
    settings = _settings(args)
    require_same({"asked": asked})
    if args.dry_run:
        print_plan(missing(prompts, _rows(args.output, settings, prompts), settings), args)
        return
    before = partial(ranks.from_first, lambda: _rows(args.output, settings, prompts))
    with appending(ranks.own(args.output), before) as (rows, append):
        todo = missing(prompts, rows, settings)
        if len(todo) < len(prompts):
            print(f"{args.output} has {len(prompts) - len(todo)} of {len(prompts)} answers: asking the others")

        def keep(key: Key, answer: Answer) -> None:
            new[key] = demonstration(asked[key], answer, settings | {"prompt": key[2]})
            append(key, new[key])

        new: dict[Key, dict] = {}
        refused = keep_all(_answers(args, asked, prompts, todo), len(todo), keep, f"asking {args.teacher}")
        for others, refused_there in ranks.gathered((new, refused)):
            rows |= others
            refused |= refused_there
        in_order = {key: rows[key] for key in prompts if key in rows} | rows
        ranks.put_together(args.output, (json.dumps(row, ensure_ascii=False) + "\n" for row in in_order.values()))
    rows = [rows[key] for key in prompts if key in rows]
    for form in forms:
        print_accuracy([row for row in rows if row["settings"]["prompt"] == form], form, args)
    if not args.given:
        tell_cut(rows, settings)
    complain(refused)


def demonstration(question: Question, answer: Answer, settings: dict) -> dict:
    """A line of the output: the triple of Table 6, where it came from, what was read from it, how it was made."""
    graded = grade(answer.text, question.target, question.options, question.task, answer.ended)
    ids = {"output_ids": answer.ids, "prompt_ids": answer.prompt_ids}
    return {
        "task": question.task,
        "id": question.id,
        "instruction": instruction(question),
        "input": task_input(question, cot=settings["prompt"] == "cot"),
        "output": answer.text,
        "target": question.target,
        "teacher": settings["teacher"],
        "question": question.question,
        "options": list(question.options),
        "read": graded.read,
        "correct": graded.correct,
        "ended": answer.ended,
        "settings": settings,
    } | {name: known for name, known in ids.items() if known is not None}


def default_temperature(teacher: str) -> float:
    """C.2: 0.7 for GPT-3.5, 0.1 for Llama-2-70; our choice for all others is 0.1."""
    return 0.7 if re.search(r"gpt-3\.?5", teacher, re.IGNORECASE) else 0.1


def print_accuracy(rows: list[dict], form: str, args: argparse.Namespace) -> None:
    """Table 5: the teacher's accuracy per task, and how many answers could not be read or were cut."""
    if not rows:
        return
    split = "own questions" if args.questions else f"{args.split} split"
    print(f"\naccuracy (%) of {args.teacher}, {split}, {form} prompt (Table 5)")
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
    command.add_questions_flag(source)
    what.add_argument("--split", choices=("train", "test"), default="train", help="C.2 annotates the training set")
    what.add_argument("--limit", type=command.positive, metavar="N", help="at most N questions of each task")
    command.add_data_flag(parser)
    teacher = parser.add_argument_group("teacher")
    given = "answers that are there already: JSONL with `question` (or `id`) and `output`; they are read and graded"
    teacher.add_argument("--from", dest="given", type=Path, metavar="FILE", help=given)
    model = "a folder or Hub id (Table 4); with --server its name there; `pocket`: the pocket tasks' scripted teacher"
    teacher.add_argument("--teacher", metavar="MODEL", help=model)
    weights = "a local teacher's weights; nf4 puts a 70B on one 48 GB card"
    teacher.add_argument("--weights", choices=("bfloat16", "nf4"), default="bfloat16", help=weights)
    at_once = "questions a local teacher answers at once"
    teacher.add_argument("--batch-size", type=command.positive, default=32, help=at_once)
    command.add_chat_template_flag(parser)
    how = parser.add_argument_group("answers")
    form = 'x̂ of Table 3, "approach used in this work", x of Table 2, or both: y and ŷ for train_dpo.py --answers'
    how.add_argument("--prompt", choices=("cot", "standard", "both"), default="cot", help=form)
    c2 = "(default: 0.7 where the teacher's name has gpt-3.5, else 0.1: C.2, which names GPT-3.5 and Llama-2-70)"
    how.add_argument("--temperature", type=command.rate, help=c2)
    command.add_sampling_flags(how)
    how.add_argument("--max-new-tokens", type=command.positive, default=512, help="longest answer; the paper is silent")
    kept = "appended to; what is there is not asked again"
    how.add_argument("--output", type=command.file, required=True, metavar="FILE.jsonl", help=kept)
    add_server_flags(parser)
    add_plan_flags(parser)
    command.add_machine_flags(parser)
    args = parser.parse_args()
    if not (args.teacher or args.given) or (args.server and args.given):
        parser.error("give --teacher (with --server URL, where it is asked there), or --from FILE, which asks nobody")
    if args.given and args.prompt == "both":
        parser.error("--from FILE holds answers to one prompt: say with --prompt to which, cot or standard")
    args.teacher = args.teacher or args.given.stem
    if args.temperature is None:
        args.temperature = default_temperature(args.teacher)
    if (args.server or args.teacher == SCRIPTED) and (args.top_k, args.top_p) != (None, None):
        parser.error("--top-k and --top-p are a local teacher's: a server has settings of its own (--extra-body)")
    if ranks.COUNT > 1 and (args.server or args.given or args.teacher == SCRIPTED):
        parser.error("torchrun is for a local teacher: start this without it")
    return args


def _settings(args: argparse.Namespace) -> dict:
    """What an answer depends on besides its question; one file holds answers of one such setting."""
    settings = {"teacher": args.teacher, "seed": args.seed}
    settings |= {} if args.prompt == "both" else {"prompt": args.prompt}  # a row notes its own
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
        rows |= rows_by_key(part, ("task", "id", "prompt"), settings)
    for key, row in rows.items():
        if key in prompts and prompts[key] != join(row["instruction"], row["input"]):
            raise UserError(f"{path}: {named(key)} is another question there: give another --output.")
    return rows


def _answers(
    args: argparse.Namespace, asked: dict[Key, Question], prompts: dict[Key, str], todo: dict[Key, str]
) -> Iterator[tuple[Key, Answer | Refusal]]:
    """The teacher that the flags name, at work on the `prompts` that are `todo`. Only what it needs is imported."""
    if not todo:
        return iter(())
    if args.given:
        from selfrefine.teachers import given

        return ((key, answer) for key, answer in given.answers(args.given, asked) if key in todo)
    if args.server:
        from selfrefine.teachers import server

        more = {"return_token_ids": True} if args.prompt == "both" else {}  # a student learns from what it sampled
        return server.answers(todo, model=args.teacher, **server_settings(args, more))
    if args.teacher == SCRIPTED:
        from selfrefine.pocket.teacher import answer

        return ((key, Answer(answer(asked[key], args.seed, key[2] == "cot"))) for key in todo)
    from selfrefine.teachers import local

    drawn = local.answers(prompts, args, done=prompts.keys() - todo.keys())
    return ((key, answer) for key, answer in drawn if key in todo)


if __name__ == "__main__":
    command.run(main, several=True)
