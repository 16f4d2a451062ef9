"""Probing (§3.3): the option whose letter has the highest log-probability after the prompt."""

from collections.abc import Container, Iterator

import torch

from selfrefine import ranks
from selfrefine.errors import UserError
from selfrefine.fast import response_log_probs
from selfrefine.model.encoding import encode_response
from selfrefine.model.student import Student, Tokenizer
from selfrefine.tasks.questions import LETTERS
from selfrefine.training.batches import Example

READ = 8  # prompts read together, of like lengths


def likeliest_letters(
    student: Student, tokenizer: Tokenizer, prompts: list[list[int]], options: list[int], done: Container[int]
) -> Iterator[tuple[int, str]]:
    """Yield (index, letter) for prompts in batches not all `done`: argmax over the options of log π(letter | prompt).

    Raises UserError for a student whose head has a bias, which `response_log_probs` does not add.
    """
    if student.get_output_embeddings().bias is not None:
        raise UserError(f"--method probe: a {student.config.model_type}'s head has a bias: take --method generate.")
    longest_first = ranks.mine(sorted(range(len(prompts)), key=lambda index: -len(prompts[index])), READ)
    for begin in range(0, len(longest_first), READ):
        read = longest_first[begin : begin + READ]
        if not all(index in done for index in read):  # whole batches: a resumed run has a straight one's bits
            ids = [[encode_response(tokenizer, letter) for letter in LETTERS[: options[index]]] for index in read]
            letters = [Example(prompts[index], one) for index, each in zip(read, ids, strict=True) for one in each]
            with torch.inference_mode():
                log_probs = response_log_probs(student, letters)  # a prompt is computed once for all its letters
            for index, scores in zip(read, log_probs.split([len(each) for each in ids]), strict=True):
                yield index, LETTERS[int(scores.argmax())]
