"""Text to token ids, in one place for both phases, sampling and evaluation.

Prompt and response are tokenised apart and their ids joined, so that the ids of the prompt in training are those that
the student is sampled from; special tokens are added by id: the beginning once, the end once where an answer ended.
What users, teachers and students wrote is text, whatever it looks like.
"""

from collections.abc import Iterable

from selfrefine.errors import UserError
from selfrefine.model.student import Student, Tokenizer
from selfrefine.model.template import ChatTemplate, Marks, fill, marks


def uses_chat_template(
    tokenizer: Tokenizer, choice: str, trained: ChatTemplate | None = None, arguments: dict[str, object] | None = None
) -> ChatTemplate:
    """`auto`: as the adapter was trained, else the tokenizer's chat template where it has one; `none`: plain prompts;
    `always`: the template, which must be there. With `arguments`, these in place of True.

    `trained` is the adapter's own way, None without one or where not noted; UserError where others contradict it.
    """
    has = tokenizer.chat_template is not None
    if trained is not None:
        if (trained and not has) or (choice != "auto" and (choice == "always") != bool(trained)):
            how = "with the" if trained else "without a"
            raise UserError(f"the adapter was trained {how} chat template: leave out --chat-template {choice}.")
        if arguments and arguments != trained:
            raise UserError(f"the adapter was trained with other --template-arguments ({trained}): leave them out.")
        return trained
    if choice == "always" and not has:
        raise UserError("--chat-template always: this tokenizer has none; take none, or auto.")
    used = has and choice != "none"
    if arguments and not used:
        raise UserError("--template-arguments are the chat template's, and none is used: leave them out.")
    template = (arguments or True) if used else False
    if used:
        marks(tokenizer, template)  # what cannot be filled in is told before any work
    return template


def encode_prompt(tokenizer: Tokenizer, prompt: str, *, chat_template: ChatTemplate) -> list[int]:
    """The ids of a prompt with the tokenizer's own beginning, exactly one; in a user's turn with `chat_template`.

    A special token's string in the prompt is text.
    """
    if chat_template:
        ids = list(fill(tokenizer, chat_template, prompt, return_dict=False, sanitize_control_tokens=True))
    else:
        ids = list(tokenizer(prompt, split_special_tokens=True).input_ids)
        if ids and tokenizer.eos_token_id != tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers end every text: a prompt goes on
    while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        ids = ids[1:]  # the template's own beginning beside the tokenizer's
    if not ids:
        raise UserError(f"the prompt {prompt[:60]!r} has no tokens: there is nothing to answer.")
    return ids


def encode_response(tokenizer: Tokenizer, response: str) -> list[int]:
    """The ids of a response alone, without any special token at either end; one's string in it is text."""
    return list(tokenizer(response, add_special_tokens=False, split_special_tokens=True).input_ids)


def rendered(prompt: str, responses: Iterable[str], turn: Marks) -> str | None:
    """What is wrong with texts that were filled into a chat template already, if they were."""
    opened = turn.opening and turn.opening in prompt
    if opened and turn.opening[0].isalnum():  # "User:" may stand in any text, and opens a turn where it begins it
        opened = prompt.lstrip().startswith(turn.opening)
    if not opened and not any(response.rstrip().endswith(turn.end) for response in responses):
        return None
    return f"put into a chat template already ({turn.opening if opened else turn.end!r}): give the bare texts"


def end_ids(student: Student, tokenizer: Tokenizer, chat_template: ChatTemplate) -> list[int]:
    """Every token id that ends an answer: the end of an assistant's turn first, the tokenizer's, the model's."""
    configured = student.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    known = [marks(tokenizer, chat_template).end_id, tokenizer.eos_token_id, *configured]
    return list(dict.fromkeys(i for i in known if i is not None))


def decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of sampled ids, special tokens left out."""
    return tokenizer.decode(ids, skip_special_tokens=True)
