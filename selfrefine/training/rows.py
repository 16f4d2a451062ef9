"""From demonstrations and pairs to token sequences: what is kept, what is left out, and that it is said."""

from collections.abc import Iterable
from typing import TypeVar

from selfrefine.errors import UserError
from selfrefine.model.encoding import Sequence, decode, encode_prompt, encode_response
from selfrefine.model.student import Tokenizer, context
from selfrefine.records import Demonstration, Preference
from selfrefine.tasks.answers import grade
from selfrefine.tasks.prompts import join, options_in

Row = TypeVar("Row", Demonstration, Preference)


def keep_correct(demonstrations: Iterable[Demonstration]) -> list[Demonstration]:
    """The demonstrations whose answer is right: App. B calls â the "target answer", DPO_CoT wants "correct CoT"."""
    return [row for row in demonstrations if (row.correct if row.correct is not None else is_correct(row))]


def is_correct(row: Demonstration) -> bool:
    """Whether the teacher's answer, as it is read, is the target."""
    return grade(row.output, row.target, row.options or options_in(row.input), row.task, row.ended).correct


def demonstration_sequences(
    tokenizer: Tokenizer, rows: list[Demonstration], config, *, chat_template: bool, allowed: float
) -> tuple[list[Demonstration], list[Sequence]]:
    """(i, q, â) of §2.1 as ids: prompt, response, end token. Rows that cannot be used are left out."""
    sequences, problems = [], {}
    for index, row in enumerate(rows):
        prompt = encode_prompt(tokenizer, join(row.instruction, row.input), chat_template=chat_template)
        response = _response(tokenizer, row.output, None, row.ended)
        sequences.append(Sequence(prompt, [response]))
        problem = "an empty answer" if not row.output.strip() else _problem(sequences[-1], config)
        if problem:
            problems[index] = problem
    usable = _require_most(rows, problems, allowed, "demonstrations")
    return [rows[index] for index in usable], [sequences[index] for index in usable]


def preference_sequences(
    tokenizer: Tokenizer, rows: list[Preference], config, *, chat_template: bool, allowed: float
) -> tuple[list[Preference], list[Sequence]]:
    """[x̂, y_w, y_l] as ids, both sides after the same prompt (Eq. 3). Rows that cannot be used are left out, equal
    pairs too: their gradient is zero."""
    sequences, problems = [], {}
    for index, row in enumerate(rows):
        prompt = encode_prompt(tokenizer, row.prompt, chat_template=chat_template)
        chosen = _response(tokenizer, row.chosen, row.chosen_ids, row.chosen_ended)
        rejected = _response(tokenizer, row.rejected, row.rejected_ids, row.rejected_ended)
        sequences.append(Sequence(prompt, [chosen, rejected]))
        problem = _problem(sequences[-1], config)
        if problem:
            problems[index] = problem
    usable = _require_most(rows, problems, allowed, "pairs")
    unequal = [index for index in usable if sequences[index].responses[0] != sequences[index].responses[1]]
    if len(unequal) < len(usable):
        print(f"{len(usable) - len(unequal)} pairs whose sides are the same left out: their gradient is zero")
    return [rows[index] for index in unequal], [sequences[index] for index in unequal]


def _response(tokenizer: Tokenizer, text: str, ids: tuple[int, ...] | None, ended: bool) -> list[int]:
    """The ids that are scored: the sampled ones where this tokenizer reads them as the same text, and the end token
    once, unless the answer was cut at the limit."""
    sampled = ids is not None and all(i < len(tokenizer) for i in ids) and decode(tokenizer, list(ids)) == text
    tokens = list(ids) if sampled else encode_response(tokenizer, text)
    while tokens and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()
    return [*tokens, tokenizer.eos_token_id] if ended else tokens


def _problem(sequence: Sequence, config) -> str | None:
    """Why a sequence cannot be trained on, if so."""
    longest = len(sequence.prompt) + max(map(len, sequence.responses))
    if longest > context(config):
        return f"{longest} tokens, the student's context has {context(config)}"
    if not all(sequence.responses):
        return "no token to learn from"
    if max(map(max, [sequence.prompt, *sequence.responses])) >= config.vocab_size:
        return "a token id beyond the student's vocabulary"
    return None


def _require_most(rows: list[Row], problems: dict[int, str], allowed: float, what: str) -> list[int]:
    """The indices of `rows` without a problem. The rest are counted and named; UserError above the `allowed` share."""
    if problems:
        named = "; ".join(f"{rows[index].id}: {problem}" for index, problem in list(problems.items())[:5])
        told = f"{len(problems)} of {len(rows)} {what} left out ({named}{'; ...' if len(problems) > 5 else ''})"
        if len(problems) > allowed * len(rows):
            raise UserError(f"{told}: more than --max-dropped {allowed:g} allows; mend the rows or raise it.")
        print(f"warning: {told}")
    return [index for index in range(len(rows)) if index not in problems]
