"""The project's JSONL files: demonstrations and preferences, read with the file and line in every complaint."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from selfrefine import formats
from selfrefine.errors import UserError
from selfrefine.files import check_text, read_lines, write_whole
from selfrefine.tasks.prompts import join, standard_form


@dataclass(frozen=True)
class Demonstration:
    """A teacher's answer: the Alpaca triple (App. A, Table 6) and where it came from.

    `input` is the question with the trigger, `target` the right answer t_i, `options` those of a multiple choice;
    an answer that did not end was cut at the teacher's token limit; `output_ids` are the tokens that were sampled,
    `prompt_ids` those that they follow.
    """

    instruction: str
    input: str
    output: str
    target: str
    task: str = ""
    id: str = ""
    teacher: str = ""
    question: str = ""
    options: tuple[str, ...] = ()
    read: str | None = None
    correct: bool | None = None
    ended: bool = True
    output_ids: tuple[int, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None

    @property
    def asked(self) -> str:
        """x, without the trigger: one text for all that is asked of a question, in either phase."""
        return standard_form(join(self.instruction, self.input)).strip()


@dataclass(frozen=True)
class Preference:
    """A pair (x̂, y_w, y_l) of Eq. 4 and where it came from.

    `chosen_ids` and `rejected_ids` are the sampled tokens; an answer that did not end was cut at the token limit;
    `sample` numbers the pairs of one question, from 0.
    """

    prompt: str
    chosen: str
    rejected: str
    task: str = ""
    id: str = ""
    target: str = ""
    chosen_from: str = ""
    chosen_ids: tuple[int, ...] | None = None
    rejected_ids: tuple[int, ...] | None = None
    chosen_ended: bool = True
    rejected_ended: bool = True
    sample: int = 0

    @property
    def asked(self) -> str:
        """x, without the trigger: Eq. 4's pairs stand at x̂, Eq. 5's at x."""
        return standard_form(self.prompt).strip()


Record = TypeVar("Record", Demonstration, Preference)
_REQUIRED = {Demonstration: ("instruction", "input", "output", "target"), Preference: ("prompt", "chosen", "rejected")}
_CONVERT = {Demonstration: formats.demonstration, Preference: formats.preference}
_NEVER_EMPTY = {Demonstration: ("input", "target", "read"), Preference: ("prompt",)}


def _natural(value: object) -> bool:
    return type(value) is int and value >= 0


# what a field must be that is no text, and what says whether it is
_TEXTS = ("a list of texts", lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value))
_IDS = ("a list of token ids", lambda value: isinstance(value, list) and all(map(_natural, value)))
_TRUTH = ("true or false", lambda value: isinstance(value, bool))
_KINDS = {"options": _TEXTS, "sample": ("a whole number from 0", _natural)}
_KINDS |= dict.fromkeys(("chosen_ids", "rejected_ids", "output_ids", "prompt_ids"), _IDS)
_KINDS |= dict.fromkeys(("correct", "ended", "chosen_ended", "rejected_ended"), _TRUTH)


def read_demonstrations(paths: Iterable[Path]) -> list[Demonstration]:
    """All demonstrations of the files, in order; a missing id is made from file and line."""
    return _read(paths, Demonstration)


def read_preferences(path: Path) -> list[Preference]:
    """All preference pairs of the file, in order."""
    return _read([path], Preference)


def read_answers(paths: Iterable[Path]) -> Iterator[tuple[str, Demonstration]]:
    """("FILE line N", row) for each line of annotate's, of which several may answer one question."""
    return ((place, _checked(row, Demonstration, place)) for path in paths for place, row in read_lines(path))


def write_records(path: Path, records: Iterable[Demonstration | Preference]) -> None:
    """Write a JSONL file, whole or not at all."""
    write_whole(path, "".join(to_line(record) + "\n" for record in records).encode())


def to_line(record: Demonstration | Preference) -> str:
    """One record as a line of JSONL, without the fields that are unknown."""
    return json.dumps({name: value for name, value in asdict(record).items() if value is not None}, ensure_ascii=False)


def _read(paths: Iterable[Path], kind: type[Record]) -> list[Record]:
    records, seen = [], {}
    for path in paths:
        before = len(records)
        for place, row in read_lines(path):
            record = _checked(row, kind, place)
            which = (record.teacher, is_standard(record)) if kind is Demonstration else ()
            of_id: dict[Record, str] = seen.setdefault((record.task, record.id, *which), {})
            first = next(iter(of_id), record)  # pairs of one prompt may share its id
            if record in of_id or (of_id and (kind is Demonstration or record.prompt != first.prompt)):
                what = f"repeats {of_id[record]}" if record in of_id else f"has the id of {of_id[first]}"
                raise UserError(f"{place} {what} ({record.id!r}): remove one, or give them ids of their own.")
            of_id[record] = place
            records.append(record)
        if len(records) == before:
            raise UserError(f"{path} has no rows: there is nothing to train on.")
    return records


def is_standard(record: Demonstration) -> bool:
    """Whether a demonstration answers x: a teacher may have answered a question both at x and at x̂."""
    return standard_form(record.input) == record.input


def _checked(row: dict, kind: type[Record], place: str) -> Record:
    """A record from a JSON object; unknown fields are left out, wrong ones are a UserError."""
    row = _CONVERT[kind](row, place)
    values = {field.name: row[field.name] for field in fields(kind) if row.get(field.name) is not None}
    for name in _REQUIRED[kind]:
        if name not in values:
            what = ", the right answer, by which answers are checked" if name == "target" else ""
            raise UserError(f"{place} has no {name!r}{what}: every row needs {', '.join(_REQUIRED[kind])}.")
    for name, numbers in (("id", int), ("target", int | float)):
        if isinstance(values.get(name), numbers) and not isinstance(values[name], bool):
            values[name] = str(values[name])
    values.setdefault("id", place.rpartition("/")[2])
    for name, value in values.items():
        what, fits = _KINDS.get(name, ("text", lambda value: isinstance(value, str)))
        if not fits(value):
            raise UserError(f"{place}: {name} must be {what}, not {value!r:.60}.")
        if isinstance(value, list):
            values[name] = tuple(value)
        elif isinstance(value, str):
            check_text(value, f"{place}: {name}")
            if not value.strip() and name in _NEVER_EMPTY[kind]:
                raise UserError(f"{place}: {name} is empty.")
    return kind(**values)
