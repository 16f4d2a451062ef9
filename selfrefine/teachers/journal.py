"""Answers on disk as they come: an append-only JSONL file with one writer, from which a stopped run goes on.

A line is one write to a descriptor in append mode, so an answer is in the file whole or not at all, also when the
process is killed. The kernel then holds it; it is forced to the disk once a second and at the end, so that a power cut
costs a second of answers, which are asked again, and not every answer waits for the disk. Where such a cut (or a kill
amid the kernel's copying) leaves half a line after all, the next start removes it and says so.
"""

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from selfrefine import ranks
from selfrefine.errors import RunError, UserError
from selfrefine.files import TORN, lock, read_lines, write_whole
from selfrefine.teachers import Answer, Key, Refusal, named

_SYNC_SECONDS = 1.0


@contextmanager
def appending(
    path: Path, read: Callable[[], dict[Key, dict]]
) -> Iterator[tuple[dict[Key, dict], Callable[[Key, dict], None]]]:
    """Lock `path` for one writer, mend its end, `read` what it holds, and give that and the function that adds to both.

    An answer that replaces another is appended, and in the end the other's line goes. Raises UserError where the file
    cannot be written or another process writes to it. The lock dies with the process.
    """
    with lock(path), open(path, "ab") as opened:
        file, synced = opened.fileno(), time.monotonic()
        _mend(file, path)
        rows = read()

        def append(key: Key, row: dict) -> None:
            nonlocal synced
            _write(file, path, _line(row))
            rows[key] = row
            if time.monotonic() - synced > _SYNC_SECONDS:
                os.fsync(file)
                synced = time.monotonic()

        try:
            yield rows, append
        finally:
            os.fsync(file)
            if path.exists() and len(list(read_lines(path))) > len(rows):  # the first rank has taken the others' in
                write_whole(path, b"".join(map(_line, rows.values())))


def rows_by_key(path: Path, names: tuple[str, ...], settings: dict) -> dict[Key, dict]:
    """The answers in `path` so far, by the fields or settings that name them; none where there is no file.

    An answer that was cut may have a later one in its place, and `max_new_tokens` may have grown. Raises UserError
    where a row was made with other settings (one that names it may be left open), or where two rows have one key.
    """
    rows: dict[Key, dict] = {}
    for place, row in read_lines(path, torn_end=True) if path.exists() else ():
        try:
            made_with = dict(row["settings"])
            key = tuple(str((made_with | row)[name]) for name in names)
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{place} was not written by this command: give another --output.") from None
        now = {name: made_with.get(name) for name in names} | settings
        changed = [name for name in made_with | now if made_with.get(name) != now.get(name)]
        if _tokens(made_with) < _tokens(settings):
            changed.remove("max_new_tokens")
        if changed:
            what = ", ".join(f"{name} {made_with.get(name)} (now {settings.get(name)})" for name in changed)
            raise UserError(f"{place} was made with {what}: keep to it, or give another --output.")
        if key in rows and rows[key].get("ended", True):
            raise UserError(f"{place} answers {named(key)} again: remove one of the two lines.")
        rows[key] = row
    return rows


def missing(prompts: Mapping[Key, str], rows: Mapping[Key, dict], settings: dict) -> dict[Key, str]:
    """What is to be asked: the prompts without an answer, or whose answer was cut where more tokens are allowed now."""

    def done(row: dict) -> bool:
        return row.get("ended", True) or _tokens(row["settings"]) >= _tokens(settings)

    return {key: prompt for key, prompt in prompts.items() if key not in rows or not done(rows[key])}


def tell_cut(rows: Iterable[dict], settings: dict) -> None:
    """A word on the answers that were cut at the token limit, and what to do about it."""
    cut = sum(not row.get("ended", True) for row in rows)
    if cut:
        print(
            f"{cut} answers were cut at {settings['max_new_tokens']} tokens: the same command with a larger "
            "--max-new-tokens asks these again, and no others."
        )


def keep_all(
    answers: Iterable[tuple[Key, Answer | Refusal]], total: int, keep: Callable[[Key, Answer], None], doing: str
) -> dict[Key, Refusal]:
    """Pass every answer to `keep` as it comes, with a progress bar; gives the questions that were refused."""
    refused: dict[Key, Refusal] = {}
    with tqdm(total=total, desc=doing, disable=total == 0) as bar:
        for key, answer in answers:
            if isinstance(answer, Refusal):
                refused[key] = answer
            else:
                keep(key, answer)
            bar.update(ranks.COUNT)
    return refused


def complain(refused: dict[Key, Refusal]) -> None:
    """Raises RunError where there are refused questions."""
    if refused:
        key, refusal = next(iter(refused.items()))
        raise RunError(
            f"{len(refused)} got no answer, the first is {named(key)}: {refusal.reason} All other answers are kept; "
            "the same command asks these again."
        )


def _tokens(settings: dict) -> int:
    """The most tokens that an answer could have; 0 where it is not said."""
    most = settings.get("max_new_tokens")
    return most if isinstance(most, int) else 0


def _line(row: dict) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _mend(file: int, path: Path) -> None:
    """Make the file end with a newline: complete a whole last line, remove half a line."""
    content = path.read_bytes()
    whole, newline, tail = content.rpartition(b"\n")
    if not tail:
        return
    if not tail.startswith(TORN):
        raise UserError(f"{path} was not written by this command: give another --output.")
    try:
        json.loads(tail)
    except ValueError:
        os.ftruncate(file, len(whole) + len(newline))
        print(f"{path}: removed half a line ({len(tail)} bytes) at its end; it is asked again.", file=sys.stderr)
    else:
        _write(file, path, b"\n")


def _write(file: int, path: Path, line: bytes) -> None:
    """One write, whole or not at all: what a full disk took of it is cut off again."""
    size = os.fstat(file).st_size
    try:
        written = os.write(file, line)
    except OSError as error:
        error.filename = str(path)
        raise
    if written < len(line):
        os.ftruncate(file, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
