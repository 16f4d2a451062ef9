"""From records (lines of the user's files) to examples and pairs of token ids; what is left out is said."""

import argparse
from collections.abc import Callable, Iterable
from typing import TypeVar

from selfrefine.errors import UserError
from selfrefine.model.encoding import decode, encode_prompt, encode_response, rendered
from selfrefine.model.student import Tokenizer, context
from selfrefine.model.template import Marks, marks
from selfrefine.records import Demonstration, Preference, read_demonstrations
from selfrefine.tasks.answers import grade
from selfrefine.tasks.prompts import join, options_in
from selfrefine.tasks.splits import fraction_of, hold_out
from selfrefine.training.batches import Example, Pair
from selfrefine.training.setup import Setup

Record = TypeVar("Record", Demonstration, Preference)
Ids = TypeVar("Ids", Example, Pair)


def kept_demonstrations(args: argparse.Namespace) -> tuple[list[Demonstration], list[Demonstration]]:
    """All demonstrations of --demonstrations, and those that --keep and --fraction keep."""
    read = read_demonstrations(args.demonstrations)
    kept = [row for row in read if args.keep == "all" or is_correct(row)]
    return read, fraction_of(kept, args.fraction, args.seed) if args.fraction else kept


def is_correct(row: Demonstration) -> bool:
    """Whether the teacher's answer is right: App. B calls â the "target answer", DPO_CoT wants "correct CoT"."""
    if row.correct is not None:
        return row.correct
    return grade(row.output, row.target, row.options or options_in(row.input), row.task, row.ended).correct


def split(
    records: list[Record],
    encode: Callable[[Setup, list[Record]], list[Ids]],
    setup: Setup,
    among: Iterable[Demonstration | Preference] | None = None,
) -> tuple[list[Ids], list[Ids]]:
    """To train on, and the --validation-fraction of the questions of `among` (default: the records'), as token ids."""
    args = setup.args
    train, validation = hold_out(records, args.validation_fraction, args.seed, among=among)
    return encode(setup, train), encode(setup, validation)


def examples_of(setup: Setup, records: list[Demonstration]) -> list[Example]:
    """(i, q, â) of §2.1 as ids: the prompt is x̂ (Table 6's input has the trigger), the response â with its end token.
    Records that cannot be used are left out."""
    made, turn = [], marks(setup.tokenizer, setup.chat_template)
    for record in records:
        asked = join(record.instruction, record.input)
        prompt = encode_prompt(setup.tokenizer, asked, chat_template=setup.chat_template)
        example = Example(prompt, _response(setup.tokenizer, record.output, None, record.ended, turn), record.id)
        problem = "an empty answer" if not record.output.strip() else _problem(example, setup.config)
        made.append((example, problem or rendered(asked, [record.output], turn)))
    return _usable(made, setup.args.max_dropped, "demonstrations")


def pairs_of(setup: Setup, records: list[Preference]) -> list[Pair]:
    """(x̂, y_w, y_l) as ids (x for x̂ in Eq. 5), but of records that are of no use or of equal sides: zero gradient."""
    made, turn = [], marks(setup.tokenizer, setup.chat_template)
    for record in records:
        prompt = encode_prompt(setup.tokenizer, record.prompt, chat_template=setup.chat_template)
        chosen = _response(setup.tokenizer, record.chosen, record.chosen_ids, record.chosen_ended, turn)
        rejected = _response(setup.tokenizer, record.rejected, record.rejected_ids, record.rejected_ended, turn)
        pair = Pair(prompt, chosen, rejected, record.id)
        problem = _problem(pair, setup.config) or rendered(record.prompt, [record.chosen, record.rejected], turn)
        made.append((pair, problem))
    usable = _usable(made, setup.args.max_dropped, "pairs")
    pairs = [pair for pair in usable if pair.chosen != pair.rejected]
    if len(pairs) < len(usable):
        print(f"{len(usable) - len(pairs)} pairs whose sides are the same left out: their gradient is zero")
    return pairs


def _response(tokenizer: Tokenizer, text: str, ids: tuple[int, ...] | None, ended: bool, turn: Marks) -> list[int]:
    """The ids that are scored: the sampled ones where this tokenizer reads them as the same text, and the turn's end
    once, unless the answer was cut at the limit."""
    sampled = ids is not None and all(i < len(tokenizer) for i in ids) and decode(tokenizer, list(ids)) == text
    tokens = list(ids) if sampled else encode_response(tokenizer, text)
    while tokens and tokens[-1] in (turn.end_id, tokenizer.eos_token_id):
        tokens.pop()
    return [*tokens, turn.end_id] if ended else tokens


def _problem(example: Example | Pair, config) -> str | None:
    """Why an example cannot be trained on, if so."""
    longest = len(example.prompt) + max(map(len, example.responses))
    if longest > context(config):
        return f"{longest} tokens, the student's context has {context(config)}"
    if not all(example.responses):
        return "no token to learn from"
    if max(map(max, [example.prompt, *example.responses])) >= config.vocab_size:
        return "a token id beyond the student's vocabulary"
    return None


def _usable(made: list[tuple[Ids, str | None]], allowed: float, what: str) -> list[Ids]:
    """Those without a problem; UserError where the others are more than the `allowed` share."""
    require_most(len(made), [f"{ids.id}: {problem}" for ids, problem in made if problem], allowed, what)
    return [ids for ids, problem in made if not problem]


def require_most(count: int, problems: list[str], allowed: float, what: str, mend: str = "mend the rows") -> None:
    """Counts and names the records with a problem; UserError where they are more than the `allowed` share."""
    if problems:
        named = "; ".join([*problems[:5], *["..."] * (len(problems) > 5)])
        told = f"{len(problems)} of {count} {what} left out ({named})"
        if len(problems) > allowed * count:
            raise UserError(f"{told}: more than --max-dropped {allowed:g} allows; {mend} or raise it.")
        print(f"warning: {told}")
