"""Rows as others write them, in this project's terms: chats (OpenAI's, ShareGPT's), TRL's pairs, Alpaca's questions."""

from selfrefine.errors import UserError

_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}  # ShareGPT's and OpenAI's


def demonstration(row: dict, place: str) -> dict:
    """A row with `instruction`, `input` and `output`: also from a chat of a question and its answer, or TRL's columns.

    An instruction without an input is the whole question: then it is the `input`, to which the trigger can be put.
    """
    if "output" not in row and "completion" in row:
        asked, answer = _turns(row.get("prompt"), "user"), _turns(row["completion"], "assistant")
    else:
        chat = row.get("messages") or row.get("conversations")
        asked, answer = (chat[:-1], chat[-1:]) if isinstance(chat, list) else ([], [])
    if answer and "output" not in row:
        beside = _turns(row.get("system") or None, "system")  # where ShareGPT has it
        system, question = _question(beside + asked, place)
        row = row | {"instruction": system, "input": question, "output": _turn(answer[-1], "assistant", place)}
    elif isinstance(row.get("instruction"), str) and not str(row.get("input") or "").strip():
        return row | {"instruction": "", "input": row["instruction"]}
    return row


def preference(row: dict, place: str) -> dict:
    """A row with `prompt`, `chosen` and `rejected` as texts: from messages, one or a list, too.

    Both sides may repeat the prompt, or hold it alone.
    """
    sides = {name: _turns(row[name], "assistant") for name in ("chosen", "rejected") if row.get(name) is not None}
    asked = _turns(row.get("prompt") or row.get("conversations"), "user")
    prompts = [turns for turns in (asked, *(side[:-1] for side in sides.values())) if turns]
    beside = _turns(row.get("system") or None, "system")
    prompts = ["\n".join(filter(None, _question(beside + turns, place))) for turns in prompts]
    whole = max(prompts, key=len, default=None)  # a prompt may stand without what the system says in the sides
    if any(prompt != whole and not (asked and whole.endswith(f"\n{prompt}")) for prompt in prompts):
        raise UserError(f"{place}: chosen and rejected answer different prompts: a pair has one.")
    texts = {name: _turn(side[-1] if side else None, "assistant", place) for name, side in sides.items()}
    return row | ({"prompt": whole} if prompts else {}) | texts


def _turns(value: object, role: str) -> list:
    """The messages of a list, of one alone, or of a bare text of this role."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return value if isinstance(value, list) else [value] if value else []


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
        content = "".join(str(part["text"]) for part in content if isinstance(part, dict) and part.get("text"))
    if _ROLES.get(str(said), said) != role or not isinstance(content, str):
        raise UserError(f"{place} is a chat in which a text of the {role} should stand where {said!r} does.")
    return content
