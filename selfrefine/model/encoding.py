"""Text to token ids, in one place for both phases, sampling and evaluation.

Prompt and response are tokenised apart and their ids joined, so that the ids of the prompt in training are those that
the student is sampled from; special tokens are added by id: the beginning once, the end once where an answer ended.
"""

from selfrefine.errors import UserError
from selfrefine.model.student import Tokenizer


def uses_chat_template(tokenizer: Tokenizer, choice: str, trained: bool | None = None) -> bool:
    """`auto`: as the adapter was trained, else the tokenizer's chat template where it has one; `none`: plain prompts.

    `trained` is the adapter's own way, None without one. Raises UserError where `choice` contradicts it.
    """
    if trained is None:
        return choice == "auto" and tokenizer.chat_template is not None
    if trained and (choice == "none" or tokenizer.chat_template is None):
        raise UserError("the adapter was trained with the chat template: leave out --chat-template none.")
    return trained


def encode_prompt(tokenizer: Tokenizer, prompt: str, *, chat_template: bool) -> list[int]:
    """The ids of a prompt with the tokenizer's own beginning, exactly one; in a user's turn with `chat_template`."""
    if chat_template:
        messages = [{"role": "user", "content": prompt}]
        ids = list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    else:
        ids = list(tokenizer(prompt).input_ids)
        if ids and tokenizer.eos_token_id != tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]  # some tokenizers end every text: a prompt goes on
    while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        ids = ids[1:]  # the template's own beginning beside the tokenizer's
    if not ids:
        raise UserError(f"the prompt {prompt[:60]!r} has no tokens: there is nothing to answer.")
    return ids


def encode_response(tokenizer: Tokenizer, response: str) -> list[int]:
    """The ids of a response alone, without any special token at either end."""
    return list(tokenizer(response, add_special_tokens=False).input_ids)


def decode(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The text of sampled ids, special tokens left out."""
    return tokenizer.decode(ids, skip_special_tokens=True)
