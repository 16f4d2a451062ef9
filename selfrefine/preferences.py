"""The self-refine phase's data (§2.2, App. B): the instructed student's own answers, paired by Eq. 4 or Eq. 5."""

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from selfrefine import ranks
from selfrefine.errors import UserError
from selfrefine.files import read_lines
from selfrefine.model.encoding import decode, encode_prompt, end_ids
from selfrefine.model.student import Student, Tokenizer
from selfrefine.model.template import ChatTemplate
from selfrefine.records import Demonstration, Preference, is_standard, read_answers
from selfrefine.sampling import row_seed, sample
from selfrefine.tasks.answers import grade
from selfrefine.tasks.prompts import cot_form, join, options_in, standard_form
from selfrefine.teachers import Answer, named
from selfrefine.training.examples import require_most

Key = tuple  # (task, question id, "standard" for y or "cot" for ŷ), and the sample's number k from 1 on where k > 0


def key_of(row: Demonstration, form: str, k: int) -> Key:
    """What names sample k of an answer in answers.jsonl; the first has no number: what it draws depends on its key."""
    return (row.task, row.id, form, k) if k else (row.task, row.id, form)


def questions_of(demonstrations: Iterable[Demonstration]) -> list[Demonstration]:
    """One demonstration per question, the first with the trigger in its input where any has it: its output is â."""
    questions: dict[tuple[str, str], Demonstration] = {}
    for row in demonstrations:
        first = questions.setdefault((row.task, row.id), row)
        if is_standard(first) and not is_standard(row):
            questions[row.task, row.id] = row
    return list(questions.values())


def explained(kept: Iterable[Demonstration], read: Iterable[Demonstration]) -> list[Demonstration]:
    """`kept` without answers at x to questions that `read` answers at x̂ too: Eq. 4 falls back to â, never to a_i."""
    with_cot = {(row.task, row.id) for row in read if not is_standard(row)}
    return [row for row in kept if not is_standard(row) or (row.task, row.id) not in with_cot]


def x(row: Demonstration) -> str:
    """x = i + q (§2.2)."""
    return join(row.instruction, standard_form(row.input))


def x_cot(row: Demonstration) -> str:
    """x̂ = x + "Let's think step by step" (§2.2)."""
    return join(row.instruction, cot_form(row.input))


def sample_answers(
    student: Student,
    tokenizer: Tokenizer,
    questions: list[Demonstration],
    path: Path,
    *,
    samples: int,
    chat_template: ChatTemplate,
    seed: int,
    temperature: float,
    max_new_tokens: int,
    top_k: int | None,
    top_p: float | None,
    batch_size: int,
    after_each: Callable[[], None],
) -> dict[Key, Answer]:
    """y ~ π_inst(· | x) and ŷ ~ π_inst(· | x̂) for every question (§2.2), `samples` times.

    Each answer is appended to `path` as it is done, and those that are there already are not sampled again.
    """
    prompts = {
        key_of(row, form, k): text(row)
        for k in range(samples)
        for row in questions
        for form, text in (("standard", x), ("cot", x_cot))
    }
    keys = list(prompts)
    answers = ranks.from_first(lambda: dict(chain.from_iterable(map(_read_answers, ranks.parts(path)))))
    todo = sample(
        student,
        [encode_prompt(tokenizer, prompts[key], chat_template=chat_template) for key in keys],
        [row_seed(seed, *map(str, key)) for key in keys],
        end_ids=end_ids(student, tokenizer, chat_template),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        top_k=top_k,
        top_p=top_p,
        batch_size=batch_size,
        done={index for index, key in enumerate(keys) if key in answers},
    )
    bar = tqdm(total=len(keys), initial=len(answers), desc="sampling y and ŷ")
    with open(ranks.own(path), "a", encoding="utf-8", buffering=1) as file:
        for index, sampled in todo:
            key = keys[index]
            if key not in answers:
                answers[key] = Answer(decode(tokenizer, sampled.ids), sampled.ended, tuple(sampled.ids))
                print(_line(key, answers[key]), file=file)
                bar.update(ranks.COUNT)
            after_each()
    bar.close()
    for others in ranks.gathered(answers):
        answers |= others
    ranks.put_together(path, (_line(key, answers[key]) + "\n" for key in keys))
    return answers


def given_answers(
    demonstrations: list[Demonstration], args: argparse.Namespace, tokenizer: Tokenizer, chat_template: ChatTemplate
) -> tuple[list[Demonstration], dict[Key, Answer]]:
    """--answers, sampled elsewhere, and the demonstrations of the questions that have all of theirs: of annotate's
    rows, a question's k-th at x is its k-th y, at x̂ its k-th ŷ. An answer is taken by its token ids where the row has
    them and this tokenizer reads them as its text; it is said whose they are, how many are so taken or not used at all,
    and where prompts were other tokens.

    Raises UserError where more questions than --max-dropped allows lack answers, and for an answer to another question
    than has its id among the demonstrations.
    """
    asked = {(row.task, row.id): row for row in questions_of(demonstrations)}
    answers: dict[Key, Answer] = {}
    count, other, unused, by = Counter(), 0, 0, {}
    for place, row in read_answers(args.answers):
        form, question = "standard" if is_standard(row) else "cot", asked.get((row.task, row.id))
        if question and join(row.instruction, row.input) != (x if form == "standard" else x_cot)(question):
            name = f"{row.task} {row.id}"
            raise UserError(f"{place} answers another question than --demonstrations' {name}: ask that, or remove it.")
        k = count[row.task, row.id, form]
        if question and k < args.answers_per_prompt:
            answers[key_of(row, form, k)] = _sampled(row, tokenizer)
            count[row.task, row.id, form] += 1
            prompt = encode_prompt(tokenizer, join(row.instruction, row.input), chat_template=chat_template)
            other += (row.prompt_ids or tuple(prompt)) != tuple(prompt)
            by[row.teacher or "?"] = None
        unused += k >= args.answers_per_prompt
    lacking = [name for name in asked if min(count[*name, "standard"], count[*name, "cot"]) < args.answers_per_prompt]
    told, mend = [f"{named(name)} lacks answers" for name in lacking], "ask for them with `annotate --prompt both`"
    require_most(len(asked), told, args.max_dropped, "questions", mend)
    answers = {key: answer for key, answer in answers.items() if key[:2] not in lacking}
    by_ids = sum(answer.ids is not None for answer in answers.values())
    print(
        f"--answers by {', '.join(by)}: {by_ids} of y and ŷ are taken as the tokens that were sampled, "
        f"{len(answers) - by_ids} as text, whose tokens may be others here; template, temperature and limit are those "
        "of where they were sampled"
    )
    if unused:
        print(f"warning: {unused} more answers to these questions are not used: --answers-per-prompt K takes K")
    if other:
        print(f"warning: {other} of their prompts were other tokens there: serve the chat template that is used here")
    return [row for row in demonstrations if (row.task, row.id) not in lacking], answers


def _sampled(row: Demonstration, tokenizer: Tokenizer) -> Answer:
    """A row's answer as `sample` would have given it: by its ids, the end token left out, where they are its text."""
    ids = row.output_ids
    if ids is not None and all(i < len(tokenizer) for i in ids):
        for known in (ids[:-1], ids) if row.ended else (ids,):
            text = decode(tokenizer, list(known))
            if text.lstrip() == row.output.lstrip():  # servers keep the space that some tokenizers begin with
                return Answer(text, row.ended, known)
    return Answer(row.output, row.ended)


def cot_pair(row: Demonstration, y: Answer, y_cot: Answer, matching: str) -> Preference | None:
    """Eq. 4, for DPO_CoT (Eq. 3): y_w = ŷ if t ∈ ŷ, else the teacher's â; y_l = y; both at x̂.

    None where both are the same sampled tokens, ended alike: their gradient is zero.
    """
    refined = has_target(row, y_cot.text, matching, y_cot.ended)
    chosen = y_cot if refined else Answer(row.output, row.ended)  # Eq. 4
    return _pair(row, x_cot(row), chosen, y, "student" if refined else "teacher")


def answer_pair(
    row: Demonstration, y: Answer, y_cot: Answer, standard: Demonstration | None, matching: str
) -> Preference | None:
    """Eq. 5, DPO_answer, at x: the answer without CoT is preferred to ŷ.

    Eq. 5 leaves its preferred side open: y where it reads as t, else the teacher's a_i at x, else there is no pair.
    """
    if has_target(row, y.text, matching, y.ended):
        return _pair(row, x(row), y, y_cot, "student")
    if standard is None:
        return None
    return _pair(row, x(row), Answer(standard.output, standard.ended), y_cot, "teacher")


def build_pairs(
    demonstrations: list[Demonstration], answers: dict[Key, Answer], *, samples: int, preferred: str, matching: str
) -> tuple[list[Preference], Counter]:
    """A pair for each sample of each question by Eq. 4 (`preferred` "cot") or Eq. 5 ("answer"), a question's equal
    pairs once; and how many came from where: "student", "teacher", "none" (no pair) and "again" (an equal one)."""
    standard = {(row.task, row.id): row for row in demonstrations if is_standard(row)}
    pairs, counts = [], Counter()
    for row in questions_of(demonstrations):
        of_question: set[Preference] = set()
        for k in range(samples):
            y, y_cot = answers[key_of(row, "standard", k)], answers[key_of(row, "cot", k)]
            if preferred == "cot":
                pair = cot_pair(row, y, y_cot, matching)
            else:
                pair = answer_pair(row, y, y_cot, standard.get((row.task, row.id)), matching)
            again = pair in of_question
            counts["again" if again else pair.chosen_from if pair else "none"] += 1
            if pair and not again:
                of_question.add(pair)
                pairs.append(replace(pair, sample=k))
    return pairs, counts


def has_target(row: Demonstration, text: str, matching: str, ended: bool = True) -> bool:
    """t_i ∈ ŷ_i: the final answer read from the text is the target (`final`), or the text contains it (`substring`)."""
    graded = grade(text, row.target, row.options or options_in(row.input), row.task, ended)
    return graded.correct if matching == "final" else graded.contains


def _pair(row: Demonstration, prompt: str, chosen: Answer, rejected: Answer, source: str) -> Preference | None:
    if chosen == rejected:  # not by the text alone: other tokens, or one side cut, and there is something to learn
        return None
    return Preference(
        prompt=prompt,
        chosen=chosen.text,
        rejected=rejected.text,
        task=row.task,
        id=row.id,
        target=row.target,
        chosen_from=source,
        chosen_ids=chosen.ids,
        rejected_ids=rejected.ids,
        chosen_ended=chosen.ended,
        rejected_ended=rejected.ended,
    )


def _line(key: Key, answer: Answer) -> str:
    return json.dumps({"key": key, "text": answer.text, "ids": answer.ids, "ended": answer.ended}, ensure_ascii=False)


def _read_answers(path: Path) -> Iterator[tuple[Key, Answer]]:
    for place, row in read_lines(path, mend=True):
        try:
            yield tuple(row["key"]), Answer(row["text"], row["ended"], tuple(row["ids"]))
        except (KeyError, TypeError):
            raise UserError(f"{place} was not written by train_dpo.py: remove the line, it is sampled again.") from None
