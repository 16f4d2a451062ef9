"""The self-refine phase's data (§2.2, App. B): the instructed student's own answers, paired by Eq. 4 or Eq. 5."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from selfrefine import ranks
from selfrefine.errors import UserError
from selfrefine.files import read_lines
from selfrefine.model.encoding import decode, encode_prompt, end_ids
from selfrefine.model.student import Student, Tokenizer
from selfrefine.model.template import ChatTemplate
from selfrefine.records import Demonstration, Preference, is_standard
from selfrefine.sampling import row_seed, sample
from selfrefine.tasks.answers import grade
from selfrefine.tasks.prompts import cot_form, join, options_in, standard_form


@dataclass(frozen=True)
class Answer:
    """An answer, with its token ids where the student sampled it; `ended` is false where it was cut at the limit."""

    text: str
    ids: tuple[int, ...] | None
    ended: bool


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
                answers[key] = Answer(decode(tokenizer, sampled.ids), tuple(sampled.ids), sampled.ended)
                print(_line(key, answers[key]), file=file)
                bar.update(ranks.COUNT)
            after_each()
    bar.close()
    for others in ranks.gathered(answers):
        answers |= others
    ranks.put_together(path, (_line(key, answers[key]) + "\n" for key in keys))
    return answers


def cot_pair(row: Demonstration, y: Answer, y_cot: Answer, matching: str) -> Preference | None:
    """Eq. 4, for DPO_CoT (Eq. 3): y_w = ŷ if t ∈ ŷ, else the teacher's â; y_l = y; both at x̂.

    None where both are the same sampled tokens, ended alike: their gradient is zero.
    """
    refined = has_target(row, y_cot.text, matching, y_cot.ended)
    chosen = y_cot if refined else Answer(row.output, None, row.ended)  # Eq. 4
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
    return _pair(row, x(row), Answer(standard.output, None, standard.ended), y_cot, "teacher")


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
    return json.dumps({"key": key, **vars(answer)}, ensure_ascii=False)


def _read_answers(path: Path) -> Iterator[tuple[Key, Answer]]:
    for place, row in read_lines(path, mend=True):
        try:
            yield tuple(row["key"]), Answer(row["text"], tuple(row["ids"]), row["ended"])
        except (KeyError, TypeError):
            raise UserError(f"{place} was not written by train_dpo.py: remove the line, it is sampled again.") from None
