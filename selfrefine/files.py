"""Files: written whole or not at all, by one process at a time; JSONL read with file and line in every complaint."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from selfrefine.errors import UserError

# how a line begins that a kill or a power cut left unfinished; what begins otherwise is not ours
TORN = (b"{", b"\0")
# what pandas reads tables with
_TABLES = {".csv": "read_csv", ".tsv": "read_table", ".parquet": "read_parquet", ".xlsx": "read_excel"}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens meanwhile.

    Raises UserError where something else is there: a draft that is renamed would take a device's place (/dev/null).
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file that can be replaced: choose another --output.")
    draft = path.with_name(path.name + ".tmp")
    with open(draft, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def write_json(path: Path, value: object) -> None:
    """Write an object as indented JSON, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def read_lines(path: Path, *, torn_end: bool = False, mend: bool = False) -> Iterator[tuple[str, dict]]:
    """Yield ("FILE line N", object) for each line of a JSONL file; only a newline ends a line, blank lines are skipped.

    A file that is one JSON array gives ("FILE row N", object) for each of its elements, one indented object itself.
    With `torn_end`, half an object after the last newline is passed over: a process writes there, or was killed as it
    did; with `mend` it is cut off the file.

    Raises UserError for a file that cannot be read and for a line that is not a JSON object in UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    if reader := _TABLES.get(path.suffix.lower()):
        convert = f"pandas.{reader}('{path}').to_json('{path}.jsonl', orient='records', lines=True)"
        raise UserError(f'{path} is a table: make it JSONL, python -c "import pandas; {convert}".')
    whole = content.rfind(b"\n") + 1
    if (torn_end or mend) and content[whole:].startswith(TORN):
        content = content[:whole]
        if mend:
            os.truncate(path, whole)
    content = content.removeprefix(b"\xef\xbb\xbf")
    if content.lstrip().startswith((b"[", b"{\n", b"{\r")):
        rows = _parsed(content, str(path))
        rows = rows if isinstance(rows, list) else [rows]
        found = ((f"{path} row {n}", row) for n, row in enumerate(rows, start=1))
    else:
        lines = ((f"{path} line {n}", line) for n, line in enumerate(content.split(b"\n"), start=1) if line.strip())
        found = ((place, _parsed(line, place)) for place, line in lines)
    for place, row in found:
        if not isinstance(row, dict):
            raise UserError(f"{place} is not a JSON object: mend or remove it.")
        yield place, row


def _parsed(content: bytes, place: str) -> object:
    """The value that JSON in UTF-8 stands for."""
    try:
        return json.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{place} is not UTF-8: save the file as text in UTF-8, unpacked.") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON ({str(error)[:100]}): mend it or, if it is a line, remove it.") from None


def beside(path: Path, ending: str) -> Path:
    """The file of that ending that goes with NAME.json, however many dots NAME has: "lr1e-4.b0.1" is one."""
    return path.with_name(path.name.removesuffix(".json") + ending)


def check_text(text: str, where: str) -> None:
    """Raise UserError for a text that no tokenizer takes."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise UserError(f"{where} has a NUL or half of a surrogate pair, which no tokenizer takes: mend the row.")


def lock(path: Path) -> FileLock:
    """Make the file and its folder, and lock it for as long as what is returned is kept, at most till the process ends.

    Raises UserError where it cannot be written or another process holds it.
    """
    held = FileLock(path if path.name == ".lock" else path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        open(path, "a").close()
        held.acquire(blocking=False)
    except Timeout:
        raise UserError(f"--output: another process is writing there ({path}); wait or choose another.") from None
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written: {error.strerror}; choose another place.") from None
    return held


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the bytes of files; UserError where one cannot be read."""
    whole = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    return whole.hexdigest()
