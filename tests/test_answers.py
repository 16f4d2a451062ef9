"""The answer reader: what it reads of 100 and more ways to answer, by which rule, and on every kind of real row."""

import json
import random
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfrefine.tasks.answers import grade
from selfrefine.tasks.benchmarks import SOURCES, load
from selfrefine.tasks.latex import equal, normalise
from selfrefine.tasks.letters import key
from selfrefine.tasks.numbers import canonical, numbers_in, plain, value
from selfrefine.tasks.places import RULES, boxed
from selfrefine.tasks.questions import LETTERS, Question

FORMS = ("ice", "steam", "water", "salt water")  # of Table 6; one text ends with another
PLACES = ("bank", "library", "department store", "mall", "new york")
FEELINGS = ("like attending", "like staying home", "a good friend to have")
PAIRS = ("the sun", "the moon", "both A and B", "neither A nor B")
ORDERS = ("4", "8", "12", "6")

# Table 6's demonstration, word for word
TABLE_6 = """Answer:
A) ice: Ice is a solid form of water. In solid form, substances can be molded or shaped into
various forms, including triangles. If you had a block of ice, you could carve or mold it
into a triangular shape.
B) steam: Steam is the gaseous form of water. Being a gas, it doesn’t have a fixed shape. You
can’t shape steam into a triangle without containing it within some form of solid boundary,
and even then, the steam itself isn’t triangular - the container is.
C) water: Water is a liquid that takes the shape of its container. You can pour water into
a triangular container, and while the volume inside would be triangular, the water itself
isn’t inherently triangular.
D) salt water: This is essentially the same as option C, but with salt dissolved in it. Being
a liquid, it takes the shape of its container.
Given these considerations, the only substance among the options that can be shaped into a
triangle by itself is A) Ice."""

CHOICES = [
    # the whole answer is an option
    ("C", FORMS, "C", "opening"),
    ("  (c)\n", FORMS, "C", "opening"),
    ("**(C)**", FORMS, "C", "opening"),
    ("C) water", FORMS, "C", "opening"),
    ("C. Water.", FORMS, "C", "opening"),
    ("water", FORMS, "C", "opening"),
    ("Salt water.", FORMS, "D", "opening"),
    ("A good friend to have", FEELINGS, "C", "opening"),
    ("both A and B", PAIRS, "C", "opening"),
    ("8", ORDERS, "B", "opening"),
    # stated
    ("The answer is C.", FORMS, "C", "stated"),
    ("The answer is C", FORMS, "C", "stated"),
    ("the answer is (b)", FORMS, "B", "stated"),
    ("The answer is B because a car moves.", FORMS, "B", "stated"),
    ("the correct option is **D**", FORMS, "D", "stated"),
    ("ANSWER: **A**", FORMS, "A", "stated"),
    ("ANSWER: $A$", FORMS, "A", "stated"),
    ("Answer: B", FORMS, "B", "stated"),
    ("### Answer\nB", FORMS, "B", "stated"),
    ("Answer: C) water\n\nExplanation: Ice (A) is solid, steam (B) is a gas.", FORMS, "C", "stated"),
    ("The correct answer is:\n\n**C) water**", FORMS, "C", "stated"),
    ("Final Answer: The final answer is (D). I hope it is correct.", FORMS, "D", "stated"),
    ("I would pick B — a safe choice.", FORMS, "B", "stated"),
    ("Thus, option (C) is the right choice.", FORMS, "C", "stated"),
    ("Therefore, steam (B) would be the best choice.", FORMS, "B", "stated"),
    ("So, steam is the correct answer.", FORMS, "B", "stated"),
    ("The answer is salt water.", FORMS, "D", "stated"),
    ("The answer is most likely the department store.", PLACES, "C", "stated"),
    ("The answer is A bank.", PLACES, "A", "stated"),
    ("The answer is a library.", PLACES, "B", "stated"),
    ("The answer is A good friend to have.", FEELINGS, "C", "stated"),
    ("The answer is both A and B.", PAIRS, "C", "stated"),
    ("The answer is 12", ORDERS, "C", "stated"),
    ("Among A through E, the answer is E.", PLACES, "E", "stated"),
    ("The answer is B. Note that A is a common distractor.", FORMS, "B", "stated"),
    ("The answer is A. Wait, steam rises, so the answer is B.", FORMS, "B", "stated"),
    ("It is not A, the answer is D.", FORMS, "D", "stated"),
    ("Answer: D, not B", FORMS, "D", "stated"),
    ("Conclusion: (B). Eliminated: (A), (C), (D).", FORMS, "B", "stated"),
    ("Answer seems to be A at first. Answer: C", FORMS, "C", "stated"),
    ("A) bank: They have revolving doors. This is the correct answer.\nB) library: No.", PLACES, "A", "stated"),
    ("<think>The answer is A?</think>The answer is C.", FORMS, "C", "stated"),
    # a field, opened with, boxed, judged, concluded with, named last
    ('{"answer": "C"}', FORMS, "C", "field"),
    ("Steam rises, so B is correct.", FORMS, "B", "judged"),
    ("(B). Eliminated: (A), (C)", FORMS, "B", "opening"),
    ("B) steam. It rises, unlike A) ice.", FORMS, "B", "opening"),
    ("\\boxed{D}", FORMS, "D", "boxed"),
    ("So we get $\\boxed{\\text{B}}$, steam.", FORMS, "B", "boxed"),
    (TABLE_6, FORMS, "A", "last"),
    ("We can eliminate A, B, and D. This leaves C.", FORMS, "C", "last"),
    ("It can't be A or B. D has salt. So it must be C.", FORMS, "C", "concluding"),
    ("Ice melts.\n\nGiven this, it's steam.", FORMS, "B", "concluding"),
    ("is: B)", FORMS, "B", "last"),
    ("Of all of them option B fits.\nIt rises.", FORMS, "B", "last"),
    ("A revolving door serves as a security measure at a bank.", PLACES, "A", "last"),
    # what follows the answer is not the answer
    ("B\n\nQuestion: What melts?\nChoices:\nA) ice\nB) fire\nAnswer: A", FORMS, "B", "opening"),
    ("The answer is C</s> The answer is D", FORMS, "C", "stated"),
    # no answer, or not one
    ("", FORMS, None, "none"),
    ("A or B", FORMS, None, "none"),
    ("The answer is A or B.", FORMS, None, "none"),
    ("The answer is A) ice or C) water.", FORMS, None, "none"),
    ("Answer: A, B and C", FORMS, None, "none"),
    ("not A", FORMS, None, "none"),
    ("The answer is not A.", FORMS, None, "none"),
    ("None of the options is correct.", FORMS, None, "none"),
    ("The correct answer must be (F).", FORMS, None, "none"),
    ("E)", FORMS, None, "none"),
    ("A good answer is hard to give.", FORMS, None, "none"),
    ("Both C and D are liquids, so I can't decide.", FORMS, None, "none"),
    ("A) ice: Ice is a solid.\nB) steam: Steam is the gas", FORMS, None, "none"),
]

NUMBERS = [
    ("18", "18", "opening"),
    ("18.", "18", "opening"),
    ("$18.00", "18", "opening"),
    ("**18**", "18", "opening"),
    ("1,080", "1080", "opening"),
    ("$1,234.50", "1234.5", "opening"),
    ("-7", "-7", "opening"),
    ("18 dollars", "18", "opening"),
    ("18\n\nTom has 5 apples and eats 2", "18", "opening"),
    ("The answer is 18", "18", "stated"),
    ("The answer is 18.", "18", "stated"),
    ("The answer is 1,080", "1080", "stated"),
    ("The answer is $1,234.50.", "1234.5", "stated"),
    ("The answer is 1.0e3.", "1000", "stated"),
    ("The answer is 25%.", "25", "stated"),
    ("The answer is -3.", "-3", "stated"),
    ("The answer is −3.", "-3", "stated"),
    ("The answer is 1/2.", "0.5", "stated"),
    ("The answer is 2 1/2 hours.", "2.5", "stated"),
    ("The answer is \\frac{1}{3}.", "1/3", "stated"),
    ("The answer is $1{,}234$.", "1234", "stated"),
    ("The answer is 1.2 million.", "1200000", "stated"),
    ("The answer is 5 + 3 = 8 apples.", "8", "stated"),
    ("The answer is 3:30", "3:30", "stated"),
    ("The answer is 4 onions and 1 potato.", "4", "stated"),
    ("The answer is 20. Wait, she ate 2, so the answer is 18.", "18", "stated"),
    ("She sells 9 eggs, 9 * 2 = 18.\nA: 18", "18", "stated"),
    ("9 * 2 = $<<9*2=18>>18 a day.\n#### 18", "18", "hashes"),
    ("#### $10", "10", "hashes"),
    ("#### 10.00", "10", "hashes"),
    ("#### 1. Add up\n5 + 3 = 8\n#### 2. Subtract\n8 - 1 = 7", "7", "last"),
    ("So it is $\\boxed{18}$ in 3 days.", "18", "boxed"),
    ("\\boxed{\\$1{,}080}", "1080", "boxed"),
    ("Therefore, Jackson needs 7 packs for the 27 students.", "7", "concluding"),
    ("So in 5 days, she makes $18.", "18", "concluding"),
    ("Thus, 10 lollipops will cost him $5.20.", "5.2", "concluding"),
    ("Therefore, the 8 adults are 60 kg too heavy.", "60", "concluding"),
    ("$10\nExplanation: She sold 9 roses, 9 x 4 = 36. So, April earned $36.", "36", "concluding"),
    ("It is 18...", "18", "last"),
    ("5 * 3 = 15 dollars in 3 days", "15", "last"),
    ("She has 15 - 7 = 8 left. I hope this helps with your 3 questions!", "8", "last"),
    ("18 dollars a day.\n\nQuestion: Tom has 5 apples.\nAnswer: 5", "18", "opening"),
    ("", None, "none"),
    ("She has some left.", None, "none"),
    ("...", None, "none"),
]

LATEX = [
    ("so $x=\\boxed{\\frac{1}{2}}$, not \\boxed{\\dfrac{3}{4}}.", "\\frac{3}{4}", "boxed"),
    ("\\boxed{\\left(3, \\frac{\\pi}{2}\\right)}", "(3,\\frac{\\pi}{2})", "boxed"),
    ("\\boxed 2$ and no more", "2", "boxed"),
    ("\\fbox{7}", "7", "boxed"),
    ("first \\boxed{5}, then \\boxed{\\frac{1", "5", "boxed"),
    ("The answer is $x = 5$.", "5", "stated"),
    ("Final Answer: The final answer is $12 \\text{ cm}^2$. I hope it is correct.", "12", "stated"),
    ("The answer is 0.5", "0.5", "stated"),
    ("Hence the area is $2 + 3 = 5$ for all $x$.", "5", "concluding"),
    ("It must be 42.", "42", "last"),
    ("We add.\n\n(3, \\sqrt 2)", "(3,\\sqrt{2})", "last"),
    ("x = \\frac{1}{2}", "\\frac{1}{2}", "opening"),
    ("It is \\boxed{4", None, "none"),
    ("It is 4, \\boxed{}", None, "none"),
    ("no idea", None, "none"),
]


@pytest.mark.parametrize(("text", "options", "read", "rule"), CHOICES)
def test_pitfall_p13_choices(text: str, options: tuple[str, ...], read: str | None, rule: str) -> None:
    for target in LETTERS[: len(options)]:
        graded = grade(text, target, options, "obqa")
        assert (graded.read, graded.rule, graded.correct) == (read, rule, read == target)


@pytest.mark.parametrize(("text", "read", "rule"), NUMBERS)
def test_pitfall_p13_numbers(text: str, read: str | None, rule: str) -> None:
    a_number = read is not None and value(read) is not None  # "3:30" is none
    graded = grade(text, read if a_number else "18", task="gsm8k")
    assert (graded.read, graded.rule, graded.correct) == (read, rule, a_number)
    assert not grade(text, "31", task="gsm8k").correct


@pytest.mark.parametrize(("text", "read", "rule"), LATEX)
def test_pitfall_p13_latex(text: str, read: str | None, rule: str) -> None:
    graded = grade(text, read or "18", task="math")
    assert (graded.read, graded.rule, graded.correct) == (read, rule, read is not None)
    assert not grade(text, "31", task="math").correct


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("7-3", ["7", "3"]),
        ("7 - 3", ["7", "3"]),
        ("7 -3", ["7", "3"]),
        ("(-3)", ["-3"]),
        ("-$5 and $-5 and −5", ["-5", "-5", "-5"]),
        ("pages 10–12", ["10", "12"]),
        ("1,000,000 or 1, 2, 3", ["1000000", "1", "2", "3"]),
        ("1/2 of 2 1/2", ["0.5", "2.5"]),
        ("on 1/2/2024 at 3:30", ["1/2/2024", "3:30"]),
        (".5, 1.0e3 and 3 million", ["0.5", "1000", "3000000"]),
        ("10\u202f000 or 10\\,000", ["10000", "10000"]),
    ],
)
def test_pitfall_p13_which_numbers_a_text_holds(text: str, found: list[str]) -> None:
    assert numbers_in(plain(text)) == found


def test_the_tables_name_every_rule() -> None:
    assert {row[-1] for row in [*CHOICES, *NUMBERS, *LATEX]} == {rule.__name__ for rule in RULES} | {"none"}


def test_table_6_reads_as_a_and_the_literal_rule_accepts_every_option() -> None:
    graded = [grade(TABLE_6, letter, FORMS, "obqa") for letter in "ABCD"]
    assert [one.correct for one in graded] == [True, False, False, False]
    assert all(one.contains for one in graded)


def test_the_literal_rule_beside_ours() -> None:
    assert grade("She has 15 apples.", "5", task="gsm8k").contains
    assert not grade("She has 15 apples.", "5", task="gsm8k").correct
    assert grade("It costs $1,080.", "1080", task="gsm8k").correct
    assert not grade("It costs $1,080.", "1080", task="gsm8k").contains
    assert not grade("no target", "", FORMS).contains


@pytest.mark.parametrize("text", ["<think>\nIt may be 5.", "<think>a</think>\n<think>\nThe answer is 5.", "<think>"])
def test_reasoning_that_never_ended_is_no_answer(text: str) -> None:
    for target, options in (("5", ()), ("A", FORMS), ("x^5", ()), ("five", ())):
        graded = grade(text, target, options)
        assert (graded.read, graded.rule, graded.correct) == (None, "none", False)
    assert grade("<think>It may be 4.</think>The answer is 5.", "5").correct


@pytest.mark.parametrize("turn", ["\nQuestion: ", "\n\nQ: ", "\n### Instruction:\n", "[INST] ", "<|im_end|>\n"])
def test_an_invented_next_exercise_is_cut_off(turn: str) -> None:
    assert grade(f"The answer is 5.{turn}What is 2 + 2? The answer is 4.", "5", task="gsm8k").correct


def test_a_restated_question_is_not_cut_off() -> None:
    assert grade("\nQuestion: What is 2 + 2?\nAnswer: 4", "4", task="gsm8k").correct


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dfrac{1}{2}", "0.5"),
        ("\\frac12", ".50"),
        ("-\\frac{1}{2}", "\\frac{-1}{2}"),
        ("1\\frac{1}{2}", "\\frac{3}{2}"),
        ("1 1/2", "1.5"),
        ("\\sqrt2", "\\sqrt{2}"),
        ("\\$18.00", "18"),
        ("50\\%", "50"),
        ("90^\\circ", "90^{\\circ}"),
        ("90°", "90"),
        ("1,000,000", "1{,}000{,}000"),
        ("11,\\! 111", "11111"),
        ("10\\text{ cm}^2", "10"),
        ("10 square units", "10"),
        ("x = 5", "5"),
        ("x\\in[-2,7]", "[-2, 7]"),
        ("\\text{(C)}", "C"),
        ("\\text{Even}", "even"),
        ("\\left( -\\infty , 3 \\right]", "(-\\infty,3]"),
        ("\\begin{pmatrix} 1/3 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}\\frac{1}{3}\\\\2\\end{pmatrix}"),
        ("1, -2 \\text{ and } 3", "-2,1,3"),
        ("x=1 \\text{ or } x=2", "2,1"),
        ("\\{1,2\\}", "2,1"),
        ("\\pm 3", "-3, 3"),
        ("(0.5, 3)", "(\\frac{1}{2},3)"),
        ("(1,2),(3,4)", "(3,4),(1,2)"),
        ("2516_8", "2516"),
        ("3\\pi/4", "\\frac{3\\pi}{4}"),
        ("5.", "5"),
    ],
)
def test_latex_that_is_the_same(one: str, other: str) -> None:
    assert equal(one, other)
    assert equal(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("(1,2)", "(2,1)"),
        ("[1,2]", "(1,2)"),
        ("1,2", "1,3"),
        ("1,2", "1"),
        ("a=3,b=4", "a=4,b=3"),
        ("-5", "5"),
        ("\\frac{1}{2}", "\\frac{2}{1}"),
        ("5\\pi", "5"),
        ("2x", "x"),
        ("10_2", "10_3"),
        ("(1,234)", "1234"),
        ("", ""),
    ],
)
def test_latex_that_differs(one: str, other: str) -> None:
    assert not equal(one, other)


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=2, allow_nan=False))
def test_a_number_is_read_back_however_it_is_written(number: object) -> None:
    written = [f"The answer is {number}.", f"{number:,}", f"so she has {number:f} in all", f"\\boxed{{{number}}}"]
    for text in written:
        assert grade(text, str(number), task="gsm8k").correct
    assert value(canonical(value(str(number)))) == value(str(number))


@given(st.text(), st.sampled_from([FORMS, PLACES, PAIRS, ()]), st.sampled_from(["obqa", "math", "gsm8k"]))
def test_any_text_is_graded_without_an_error(text: str, options: tuple[str, ...], task: str) -> None:
    graded = grade(text, "A" if options else "5", options, task)
    assert (graded.read is None) == (graded.rule == "none")
    assert graded.read is None or not options or graded.read in LETTERS[: len(options)]


@given(st.text(alphabet="\\{}$frac123sqrt_^(),.=-+ xπ°%text", max_size=40))
def test_latex_normalises_without_an_error_and_equals_itself(text: str) -> None:
    assert equal(text, text) == bool(normalise(text))
    boxed(f"\\boxed{{{text}}}")


def _some(questions: list[Question], most: int = 600) -> list[Question]:
    """At most `most` rows, spread over all: every row was tried when the rules were written; a test must stay quick."""
    return questions[:: max(1, len(questions) // most)]


def _written(question: Question) -> list[str]:
    """A target in the forms in which models give it; for MATH see its own test."""
    if not question.options:
        number = int(question.target)
        return [
            f"The answer is {number}.",
            f"She pays ${number:,}.00",
            f"{number:,}",
            str(number),
            f"12 * 3 = 36, so 36 + {number - 36} = {number}",
        ]
    text = question.options[LETTERS.index(question.target)]
    unique = [key(option) for option in question.options].count(key(text)) == 1 and text not in LETTERS
    letter = question.target
    forms = [
        f"The answer is {letter}.",
        f"**({letter})**",
        f"{letter}) {text}",
        letter,
        f"The answer is {letter}) {text}.",
    ]
    return [*forms, text] if unique else forms


@pytest.mark.parametrize("task", [task for task in SOURCES if task != "math"])
def test_every_real_target_is_read_back_and_no_other_accepted(task: str, benchmarks: Path) -> None:
    draw = random.Random(0)
    for file in sorted((benchmarks / task).glob("*.jsonl")):
        if (task, file.stem) in {("csqa", "test"), ("piqa", "test")}:
            continue  # without labels
        for question in _some(load(task, file.stem, benchmarks)):
            for text in _written(question):
                assert grade(text, question.target, question.options, task).correct, (text, question)
            if question.options:
                other = draw.choice([each for each in LETTERS[: len(question.options)] if each != question.target])
                wrong = [f"The answer is {other}.", f"**({other})**", other]
            else:
                other = int(question.target) + draw.choice([-10, -1, 1, 9, 1000])
                wrong = [f"The answer is {other}.", str(other), f"{question.target} - 1 = {other}"]
            for text in wrong:
                assert not grade(text, question.target, question.options, task).correct, (text, question)


def test_every_real_math_solution_reads_as_its_target(benchmarks: Path) -> None:
    for split in ("train", "test"):
        rows = {f"{split}-{index}": row for index, row in enumerate(_rows(benchmarks / "math" / f"{split}.jsonl"))}
        for question in load("math", split, benchmarks):
            solution = rows[question.id]["solution"]
            assert grade(solution, question.target, task="math").rule == "boxed"
            assert grade(solution, question.target, task="math").correct
            assert grade(f"The answer is ${question.target}$.", question.target, task="math").correct
            assert not grade(solution, f"{question.target}+17", task="math").correct


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize("again", ["the answer is ", "A or B ", "\n", "so 1 ", "\\boxed{", "if a, "])
def test_a_text_that_repeats_itself_to_the_token_limit_is_graded_quickly(again: str) -> None:
    started = time.monotonic()
    for options, task in ((FORMS, "obqa"), ((), "gsm8k"), ((), "math")):
        grade(again * (4000 // len(again)), "A" if options else "5", options, task)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "text",
    [
        "The answer is 12 since considering every possible intersection point between segments 3",
        "The answer is 1 " + "a" * 60 + "!",
        "The answer is 5 " + "cm. " * 200 + "!",
    ],
)
def test_words_after_a_number_are_looked_through_once(text: str) -> None:
    started = time.monotonic()
    grade(text, "12", (), "math")
    assert time.monotonic() - started < 1


@pytest.mark.parametrize(
    "text", ["1" * 5000, "\\boxed{" + "7" * 5000 + "}", "\\frac{1}{" + "3" * 5000 + "}", "0." + "1" * 5000]
)
@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_digits_without_end_are_no_number(text: str, task: str) -> None:
    """Python turns no text of more than 4300 digits into a number; a student may write one."""
    assert not grade(f"The answer is {text}.", "5", (), task).correct
    assert not grade("The answer is 5.", text, (), task).correct
