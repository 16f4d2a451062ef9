"""The quality of answers as a judge LLM rates it (App. H, Tables 12 to 14).

Takes evaluate's NAME.predictions.jsonl or annotate's demonstrations, samples 50 questions of each task, asks the
judge (the paper: GPT-4) with Table 12's prompt, and averages the ratings, which go from 1 to 3. Each rating is
appended to NAME.ratings.jsonl beside the output as it comes: started again, only what is missing is asked.
`--judge pocket` without a server is the pocket tasks' scripted one, which rates by rule.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from selfrefine import command
from selfrefine.errors import UserError
from selfrefine.files import beside, read_lines, write_json
from selfrefine.pocket.judge import rate
from selfrefine.scores import grid
from selfrefine.tasks.prompts import standard_form
from selfrefine.tasks.questions import LETTERS
from selfrefine.teachers import Answer, Key, Refusal, named, server
from selfrefine.teachers.flags import add_plan_flags, add_server_flags, print_plan, server_settings
from selfrefine.teachers.journal import appending, complain, keep_all, missing, rows_by_key, tell_cut

PROMPT = (
    "Please act as an impartial judge and evaluate the quality of the response provided by an AI assistant to the "
    "user instruction displayed below. Your evaluation should consider factors such as quality, accuracy, depth, "
    "and level of detail. Begin your assessment with a short explanation. Be as objective as possible. After "
    "providing your explanation, please rate the response on a scale of 1 to 3 strictly following this format: "
    "“[[rating]]”, for example: “Rating: [[2]]”.\n"
    "[question]\n{question}\n"
    "[AI assistant’s response]\n{response}"
)  # Table 12


SCRIPTED = "pocket"
_NAMES = ("file", "prompt", "task", "id")


@dataclass(frozen=True)
class Judged:
    """An answer to be rated: from which file, to which prompt (`cot`, `standard`), to what question.

    `question` has the choices, `target` is the right answer in full: a letter with its option's text.
    """

    file: str
    prompt: str
    task: str
    id: str
    question: str
    response: str
    target: str

    @property
    def key(self) -> Key:
        return self.file, self.prompt, self.task, self.id


def main() -> None:
    """The command."""
    args = _parse()
    _require_own(args.output)
    judged = [answer for path in args.predictions for answer in sampled(read(path), args.per_task, args.seed)]
    if args.targets:  # the bare targets of the same questions as responses, Table 13's last row
        judged += [replace(one, file="target answers", prompt="target", response=one.target) for one in judged]
    answers = {answer.key: answer for answer in judged}
    prompts = {key: PROMPT.format(question=of.question, response=of.response) for key, of in answers.items()}
    settings = {name: getattr(args, name) for name in ("judge", "seed", "temperature", "max_new_tokens")}
    settings |= {"extra_body": args.extra_body} if args.extra_body else {}
    journal = beside(args.output, ".ratings.jsonl")
    if args.dry_run:
        print_plan(missing(prompts, _rows(journal, settings, answers), settings), args)
        return
    with appending(journal, lambda: _rows(journal, settings, answers)) as (rows, append):
        todo = missing(prompts, rows, settings)

        def keep(key: Key, reply: Answer) -> None:
            row = dict(zip(_NAMES, key, strict=True))
            row |= {"response": answers[key].response, "rating": rating(reply.text)}
            append(key, row | {"text": reply.text, "ended": reply.ended, "settings": settings})

        refused = keep_all(_replies(todo, answers, args), len(todo), keep, f"asking {args.judge}")
    rows = [rows[key] for key in prompts if key in rows]
    results = averages(rows)
    write_json(args.output, {**settings, "per_task": args.per_task, "results": results})
    print(f"\nmean rating (1 to 3) by {args.judge} (Tables 13 and 14)\n{table(results)}")
    tell_cut(rows, settings)
    complain(refused)


def read(path: Path) -> list[Judged]:
    """The answers of evaluate's predictions (of several seeds the first) or of annotate's demonstrations."""
    answers: dict[Key, Judged] = {}
    for place, row in read_lines(path):
        try:
            if "output" in row:
                prompt = "standard" if standard_form(row["input"]) == row["input"] else "cot"
                response = row["output"]
            else:
                prompt, response = row["prompt"], row["text"]
            options = dict(zip(LETTERS, row.get("options") or (), strict=False))
            choices = {letter: f"{letter}) {option}" for letter, option in options.items()}
            question = "\n".join([row.get("question") or standard_form(row["input"]), *choices.values()])
            target = choices.get(row["target"], row["target"])
            answer = Judged(str(path), prompt, row["task"], str(row["id"]), question, response, str(target))
            if strange := [name for name, text in asdict(answer).items() if not isinstance(text, str)]:
                raise TypeError(strange[0])
        except (KeyError, TypeError, AttributeError) as error:
            told = f"is neither evaluate's prediction nor annotate's demonstration (look at {error})"
            raise UserError(f"{place} {told}.") from None
        answers.setdefault(answer.key, answer)
    if not answers:
        raise UserError(f"{path} has no answers: there is nothing to judge.")
    return list(answers.values())


def sampled(answers: Iterable[Judged], per_task: int, seed: int) -> list[Judged]:
    """The answers to `per_task` questions of each task and prompt.

    A question's place in the lot depends on the seed, its task and its id alone: files with the same questions are
    judged on the same ones, and a larger sample contains the smaller.
    """
    groups: dict[tuple[str, str], list[Judged]] = {}
    for answer in answers:
        groups.setdefault((answer.prompt, answer.task), []).append(answer)
    return [
        answer
        for group in groups.values()
        for answer in sorted(group, key=lambda one: _lot(seed, one.task, one.id))[:per_task]
    ]


def rating(text: str) -> float | None:
    """The last `[[rating]]` in the judge's reply that is on the scale of 1 to 3; None where there is none."""
    found = [float(number) for number in re.findall(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]", text)]
    return next((number for number in reversed(found) if 1 <= number <= 3), None)


def averages(rows: Iterable[dict]) -> dict:
    """{file: {prompt: {"mean", "rated", "not_read", "tasks": {task: the same}}}}"""
    groups: dict[tuple, list[float | None]] = {}
    for row in rows:
        for task in (None, row["task"]):
            groups.setdefault((row["file"], row["prompt"], task), []).append(row["rating"])
    results: dict = {}
    for (file, prompt, task), ratings in groups.items():
        read = [number for number in ratings if number is not None]
        mean = sum(read) / len(read) if read else None
        average = {"mean": mean, "rated": len(read), "not_read": len(ratings) - len(read)}
        if task is None:
            results.setdefault(file, {})[prompt] = average | {"tasks": {}}
        else:
            results[file][prompt]["tasks"][task] = average
    return results


def table(results: dict) -> str:
    """The averages as Tables 13 and 14 have them, as Markdown."""
    lines = [
        [file, prompt, "-" if of["mean"] is None else f"{of['mean']:.2f}", of["rated"], of["not_read"]]
        for file, prompts in results.items()
        for prompt, of in prompts.items()
    ]
    return grid(["answers", "prompt", "mean", "rated", "not read"], lines)


def _parse() -> argparse.Namespace:
    parser = command.Parser(__doc__)
    what = parser.add_argument_group("answers")
    file = "evaluate's NAME.predictions.jsonl or annotate's output, one or several"
    what.add_argument("--predictions", type=Path, nargs="+", required=True, metavar="FILE", help=file)
    what.add_argument("--per-task", type=command.positive, default=50, help="questions of each task (App. H: 50)")
    what.add_argument("--targets", action="store_true", help="rate the bare targets too (Table 13's last row: 1)")
    judge = parser.add_argument_group("judge")
    judge.add_argument("--judge", required=True, metavar="NAME", help="the model's name at the server (App. H: GPT-4)")
    judge.add_argument("--temperature", type=command.rate, default=0.0, help="our choice: App. H is silent")
    judge.add_argument("--max-new-tokens", type=command.positive, default=512, help="our choice: App. H is silent")
    parser.add_argument("--output", type=command.file, required=True, metavar="FILE.json", help="averages, by task too")
    add_server_flags(parser)
    add_plan_flags(parser)
    command.add_machine_flags(parser)
    args = parser.parse_args()
    if not args.server and not args.dry_run and args.judge != SCRIPTED:
        parser.error("the judge answers at a server: give --server URL")
    return args


def _require_own(output: Path) -> None:
    """Raise UserError where the output is a file that no judge wrote: the answers themselves, an evaluation."""
    try:
        own = not output.exists() or not output.stat().st_size or "judge" in dict(json.loads(output.read_bytes()))
    except (ValueError, TypeError):
        own = False
    if not own:
        raise UserError(f"--output {output} is another file already: choose another name.")


def _replies(
    prompts: dict[Key, str], answers: dict[Key, Judged], args: argparse.Namespace
) -> Iterator[tuple[Key, Answer | Refusal]]:
    """The judge at work on `prompts`."""
    if not args.server:  # the scripted one
        asked = {key: answers[key] for key in prompts}
        rated = {
            key: 1 if of.prompt == "target" else rate(of.question, of.response, of.target, of.task)
            for key, of in asked.items()
        }
        return ((key, Answer(f"[[{number}]]")) for key, number in rated.items())
    return server.answers(prompts, model=args.judge, **server_settings(args))


def _rows(path: Path, settings: dict, answers: dict[Key, Judged]) -> dict[Key, dict]:
    """The ratings there are; raises UserError where one is of another answer than the file has now."""
    rows = rows_by_key(path, _NAMES, settings)
    for key, row in rows.items():
        if key in answers and row.get("response") != answers[key].response:
            raise UserError(f"{path}: {named(key)} was another answer when it was rated: give another --output.")
    return rows


def _lot(seed: int, task: str, question_id: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{task}\0{question_id}".encode("utf-8", "surrogatepass")).digest()


if __name__ == "__main__":
    command.run(main)
