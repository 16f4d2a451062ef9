"""Rows as others write them, in this project's terms: chats (OpenAI's, ShareGPT's), TRL's pairs, Alpaca's questions."""

from selfrefine.errors import UserError

_ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's


def demonstration(row: dict, place: str) -> dict:
    """A row with `instruction`, `input` and `output`: from a chat of one question and its answer, too.

    An instruction without an input is the whole question: then it is the `input`, to which the trigger can be put.
    """
    chat = row.get("messages") or row.get("conversations")
    if isinstance(chat, list) and chat and "output" not in row:
        asked, answer = _question(chat[:-1], place), _turn(chat[-1], "assistant", place)
        row = row | {"instruction": asked[0], "input": asked[1], "output": answer}
    if not row.get("input") and isinstance(row.get("instruction"), str):
        return row | {"instruction": "", "input": row["instruction"]}
    return row


def preference(row: dict, place: str) -> dict:
    """A row with `prompt`, `chosen` and `rejected` as texts: from lists of messages, too.

    Both sides may repeat the prompt, or hold it alone.
    """
    sides = {name: row[name] for name in ("chosen", "rejected") if isinstance(row.get(name), list)}
    before = [side[:-1] for side in sides.values()]
    if any(turns != before[0] for turns in before):
        raise UserError(f"{place}: chosen and rejected answer different prompts: a pair has one.")
    prompt = row.get("prompt") or (before[0] if before else None)
    if isinstance(prompt, list):
        prompt = "\n".join(filter(None, _question(prompt, place)))
    texts = {name: _turn(side[-1] if side else None, "assistant", place) for name, side in sides.items()}
    return row | {"prompt": prompt} | texts


def _question(turns: object, place: str) -> tuple[str, str]:
    """(what the system says, what the user asks) of the turns before an answer."""
    if not isinstance(turns, list) or not 1 <= len(turns) <= 2:
        raise UserError(f"{place} is a chat of other turns than one user's and one assistant's: make rows of such.")
    return _turn(turns[0], "system", place) if len(turns) == 2 else "", _turn(turns[-1], "user", place)


def _turn(message: object, role: str, place: str) -> str:
    """The text of a message, which must be of this role."""
    message = message if isinstance(message, dict) else {}
    said, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if isinstance(content, list):  # parts
        content = "".join(str(part.get("text")) for part in content if isinstance(part, dict) and "text" in part)
    if _ROLES.get(str(said), said) != role or not isinstance(content, str):
        raise UserError(f"{place} is a chat in which a text of the {role} should stand where {said!r} does.")
    return content
