"""Free-text answers: what is read from where, and that only the target as a whole is right."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrefine.tasks.answers import grade
from selfrefine.tasks.prompts import prompt
from selfrefine.tasks.questions import Question
from selfrefine.tasks.text import is_text, normalise, read

RIGHT = [
    ("Paris", "Paris"),
    ("Paris.", "Paris"),
    ("**Paris**", "Paris"),
    ("The capital of France is Paris.", "Paris"),
    ("The answer is Paris.", "Paris"),
    ("The answer is: **Paris**.", "Paris"),
    ("Answer: Paris", "Paris"),
    ("Answer:\nParis", "Paris"),
    ("Paris is the capital of France.", "Paris"),
    ("So the capital of France is Paris, of course.", "Paris"),
    ("France is a country in Europe. Its capital is Paris.", "Paris"),
    ("\\boxed{\\text{Paris}}", "Paris"),
    ("The final answer is $\\boxed{Paris}$.", "Paris"),
    ("Paris, France", "Paris"),
    ("Paris. It is the seat of the government.", "Paris"),
    ("no", "no"),
    ("No.", "no"),
    ("No, a whale is a mammal.", "no"),
    ("A whale is a mammal. So the answer is no.", "no"),
    ("The answer is: no", "no"),
    ("So no.", "no"),
    ("Let's think. A whale breathes air, so it is a mammal. Therefore, no.", "no"),
    ("Mars", "Mars"),
    ("The red planet is Mars.", "Mars"),
    ("Mars is called the red planet.", "Mars"),
    ("It is called Mars.", "Mars"),
    ("The planet that is called the red planet is Mars.", "Mars"),
    ("10 km", "10 km"),
    ("10km", "10 km"),
    ("It is 10 km.", "10 km"),
    ("5 km there and 5 km back, so 5 + 5 = 10 km.", "10 km"),
    ("One walks 5 km and 5 km, which is 10 km in all.", "10 km"),
    ("The answer is 10.", "10 km"),
    ("William Shakespeare", "William Shakespeare"),
    ("It was written by William Shakespeare.", "William Shakespeare"),
    ("The play was written by William Shakespeare in 1597.", "William Shakespeare"),
    ("william shakespeare", "William Shakespeare"),
    ("The answer is William Shakespeare.", "William Shakespeare"),
    ("William Shakespeare wrote it.", "William Shakespeare"),
    ("William Shakespeare wrote the play about Romeo.", "William Shakespeare"),
    ("True", "true"),
    ("Yes, 7 is prime.", "true"),
    ("7 is only divisible by 1 and 7. So it is true.", "true"),
    ("7 is prime, so the statement is true.", "true"),
    ("The answer is yes.", "true"),
    ("Blue", "blue"),
    ("The sky is blue.", "blue"),
    ("The sky is blue on a clear day.", "blue"),
    ("On a clear day, the sky is blue.", "blue"),
    ("It is blue because of scattering.", "blue"),
    ("St. Louis", "St. Louis"),
    ("The answer is St. Louis.", "St. Louis"),
    ("The answer is the U.S.", "US"),
]
WRONG = [
    ("The capital is Lyon.", "Paris"),
    ("The answer is Lyon, not Paris.", "Paris"),
    ("Paris or Lyon", "Paris"),
    ("It is not Paris.", "Paris"),
    ("Paris. Wait, it is Lyon.", "Paris"),
    ("London is larger than Paris.", "Paris"),
    ("Paris is smaller than London.", "Paris"),
    ("", "Paris"),
    ("I do not know.", "Paris"),
    ("Yes.", "no"),
    ("Yes, it is.", "no"),
    ("The answer is yes.", "no"),
    ("Venus", "Mars"),
    ("The answer is 20 km.", "10 km"),
    ("10 m", "10 km"),
    ("1.0 km", "10 km"),
    ("Shakespeare", "William Shakespeare"),
    ("False", "true"),
    ("grey", "blue"),
    ("the answer is light blue", "blue"),
    ("The answer is -5 degrees", "5 degrees"),
    ("1.5 m", "15 m"),
]


@pytest.mark.parametrize(("text", "target"), RIGHT)
def test_a_right_answer_however_it_is_put(text: str, target: str) -> None:
    graded = grade(text, target)
    assert graded.correct
    assert graded.read == normalise(target)
    assert graded.rule in ("boxed", "stated", "opening", "concluding")


@pytest.mark.parametrize(("text", "target"), WRONG)
def test_a_wrong_answer_though_it_names_the_target(text: str, target: str) -> None:
    assert not grade(text, target).correct


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("It is Lyon. \\boxed{Paris} The answer is Rome.", "boxed"),
        ("Lyon. The answer is Paris. It is Rome.", "stated"),
        ("Paris. It is Rome.", "opening"),
        ("One may think of Lyon. It is Paris.", "concluding"),
        ("", "none"),
    ],
)
def test_the_final_statement_comes_first(text: str, rule: str) -> None:
    assert read(text, "Paris") == ("paris" if rule != "none" else None, rule)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        *[("Paris", True), ("no", True), ("10 km", True), ("x", True), ("St. Louis", True), ("two thirds", True)],
        *[("\\frac12", False), ("3x+2", False), ("(1, 2)", False), ("x^2", False), ("$x$", False)],
    ],
)
def test_what_is_words_and_what_a_formula(target: str, text: bool) -> None:
    assert is_text(target) == text


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The Beatles!", "beatles", True),
        ("1,200 km", "1200km", True),
        ("O'Neill", "O’Neill", True),
        ("well-known", "well known", True),
        ("The", "the", True),  # SQuAD leaves nothing of it
        ("1.5 km", "15 km", False),
        ("-5 degrees", "5 degrees", False),
        ("vitamin A", "vitamin", True),  # SQuAD's articles
    ],
)
def test_squads_normal_form(one: str, other: str, same: bool) -> None:
    assert (normalise(one) == normalise(other)) == same


def test_a_question_whose_answer_is_words_is_not_asked_for_a_number() -> None:
    asked = Question("own", "1", "What is the capital of France?", "Paris")
    assert (
        prompt(asked, cot=False) == "Answer the following question.\nQuestion: What is the capital of France?\nAnswer:"
    )
    for target, task in (("1,200", "own"), ("\\frac{1}{2}", "own"), ("\\text{even}", "math"), ("east", "math")):
        assert prompt(Question(task, "1", "q", target), cot=False).startswith("Answer the following mathematical")


def test_an_invented_next_question_is_cut_off() -> None:
    assert grade("The answer is Paris.\n\nAnswer the following question.\nThe answer is Rome.", "Paris").correct


WORDS = st.text(st.characters(categories=["Lu", "Ll"]), min_size=2, max_size=9)


@given(st.text(max_size=300), WORDS)
def test_any_text_is_read_without_an_error(text: str, target: str) -> None:
    found, rule = read(text, target)
    assert (found is None) == (rule == "none")


@pytest.mark.parametrize("again", ["The answer is Paris or ", "Paris, ", "so it is ", "a. B ", "\\boxed{"])
def test_a_text_that_repeats_itself_to_the_token_limit_is_read_quickly(again: str) -> None:
    started = time.monotonic()
    read(again * 2000, "Paris")
    assert time.monotonic() - started < 2
