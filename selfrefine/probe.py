"""Probing (§3.3): the option whose letter has the highest log-probability after the prompt."""

from collections.abc import Container, Iterator

import torch

from selfrefine.errors import UserError
from selfrefine.fast import response_log_probs
from selfrefine.model.encoding import encode_response
from selfrefine.model.student import Student, Tokenizer
from selfrefine.tasks.questions import LETTERS
from selfrefine.training.batches import Example


def likeliest_letters(
    student: Student, tokenizer: Tokenizer, prompts: list[list[int]], options: list[int], done: Container[int]
) -> Iterator[tuple[int, str]]:
    """Yield (index, letter) for each prompt not in `done`: argmax over its options of log π(letter | prompt).

    Raises UserError for a student whose head has a bias, which `response_log_probs` does not add.
    """
    if student.get_output_embeddings().bias is not None:
        raise UserError(
            f"--method probe: a {student.config.model_type} model's head has a bias: take --method generate."
        )
    for index, (prompt, count) in enumerate(zip(prompts, options, strict=True)):
        if index not in done:
            letters = [Example(prompt, encode_response(tokenizer, letter)) for letter in LETTERS[:count]]
            with torch.inference_mode():
                log_probs = response_log_probs(student, letters)  # (options,): the prompt is computed once
            yield index, LETTERS[int(log_probs.argmax())]
