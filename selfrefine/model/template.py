"""The tokenizer's chat template: filled in alike on every day, and what it puts around a turn."""

import re
from dataclasses import dataclass

from selfrefine.errors import UserError
from selfrefine.model import DATE
from selfrefine.model.student import Tokenizer

_CONTENT = "selfrefine-content"
# in place of transformers' function of this name, whose date is today's
_CODES = re.findall("%-?.", "%-d%-m%a%A%b%B%d%m%y%Y%j%H%I%M%S%p")
_FILLED = "".join(f".replace({code!r}, {DATE.strftime(code)!r})" for code in _CODES)
_TODAY = "{% macro strftime_now(format) %}{{ format" + _FILLED + " }}{% endmacro %}{{ '' }}"

# False: plain prompts; True: the template; with its arguments, where any are given, in place of True
ChatTemplate = bool | dict[str, object]


@dataclass(frozen=True)
class Marks:
    """What a template writes before a user's content, and the token (text, id) that it writes after an assistant's."""

    opening: str
    end: str
    end_id: int


def fill(
    tokenizer: Tokenizer, chat_template: ChatTemplate, user: str, assistant: str | None = None, **how
) -> str | list[int]:
    """The template filled in with a user's turn and an assistant's, or its beginning where that is None."""
    turns = [{"role": "user", "content": user}]
    turns += [] if assistant is None else [{"role": "assistant", "content": assistant}]
    arguments = chat_template if isinstance(chat_template, dict) else {}
    try:
        template = tokenizer.get_chat_template()
        template = _TODAY * ("strftime_now" in template) + template
        how |= {"chat_template": template, "add_generation_prompt": assistant is None}
        return tokenizer.apply_chat_template(turns, **how, **arguments)
    except Exception as error:  # a template is a program of somebody else's
        raise UserError(
            f"the student's chat template cannot be filled in ({type(error).__name__}: {str(error)[:200]}): look at "
            "--template-arguments, or take --chat-template none."
        ) from None


def marks(tokenizer: Tokenizer, chat_template: ChatTemplate) -> Marks:
    """The template's marks; without one, or where it ends an assistant's turn with no token of its own, the tokenizer's
    end of a text is what ends an answer. Some tokenizers do not call theirs special (Yi's)."""
    end = tokenizer.eos_token
    tokens = (token.content for token in tokenizer.added_tokens_decoder.values() if token.content.strip())
    special = re.compile("|".join(map(re.escape, sorted(tokens, reverse=True))) or r"(?!)")
    try:
        before = fill(tokenizer, chat_template, _CONTENT, tokenize=False) if tokenizer.chat_template else ""
    except UserError:
        if chat_template:
            raise
        before = ""  # it is not used, so it need not work
    if chat_template and _CONTENT not in before:
        raise UserError("the student's chat template leaves out what the user says: take --chat-template none.")
    before = before.partition(_CONTENT)[0].removeprefix(tokenizer.bos_token or "")
    opening = before[max((found.start() for found in special.finditer(before)), default=0) :].strip()
    if chat_template:
        after = fill(tokenizer, chat_template, "?", _CONTENT, tokenize=False).partition(_CONTENT)[2]
        end = found[0] if (found := special.search(after)) else end
    return Marks(opening, end, tokenizer.convert_tokens_to_ids(end))
