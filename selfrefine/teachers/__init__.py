"""Who answers: a local model, any OpenAI-compatible server, and what keeps every answer they gave.

Each is a function from prompts, by the key that names them, to (key, answer) pairs in the order they are done.
"""

from dataclasses import dataclass

Key = tuple  # what names a prompt: (task, question id, "cot" or "standard", ...), for the judge the judged file too


@dataclass(frozen=True)
class Answer:
    """A raw answer, a teacher's or the student's; `ended` is false where it was cut at the token limit, `ids` are the
    sampled tokens and `prompt_ids` those that they follow, where they are known."""

    text: str
    ended: bool = True
    ids: tuple[int, ...] | None = None
    prompt_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Refusal:
    """Why a teacher gave no answer to one question, while it answers others."""

    reason: str


def named(key: Key) -> str:
    """A key in a sentence."""
    return " ".join(map(str, key))
