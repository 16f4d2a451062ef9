"""The answer reader: ways to answer that went wrong once, their neighbours, and the plain forms."""

import doctest
import time

import pytest

from selfrefine.tasks import places
from selfrefine.tasks.answers import grade

PLANTS = ("moss", "tree", "rose", "fern")
LETTERED = ("(500 (°C))", "y", "z", "w", "v", "u", "growth")

CHOICES = [
    (
        "Answer: C\nExplanation: A fern is no flower. Option D, fern, is a possible answer, but it has none.",
        PLANTS,
        "C",
    ),
    ("Answer: C. rose\nExplanation: Option A is partially correct but moss does not bloom.", PLANTS, "C"),
    (
        "Answer: C\n\nExplanation: Option A is incorrect. Option D is correct in that ferns are green.",
        PLANTS,
        "C",
    ),
    ("Option A is a moss. Option D is a fern.\n\nAnswer: C", PLANTS, "C"),
    ("**Answer: B) tree**\n\nWhy not the others? Option A is a moss; option C could be correct, too.", PLANTS, "B"),
    ("Answer: C\nExplanation: roses bloom. Wait, ferns are older. Answer: D", PLANTS, "D"),
    ("(C) rose. Option A (moss) is also a good answer but less specific.", PLANTS, "C"),
    (
        "Answer: B because trees are tall. Option D would be the correct answer if it asked for shade.",
        PLANTS,
        "B",
    ),
    ("<answer>C</answer>", PLANTS, "C"),
    ("<answer>\nC\n</answer>", PLANTS, "C"),
    ("<answer>(C) rose</answer> I hope option A is clear.", PLANTS, "C"),
    ('{"explanation": "… option A …", "answer": "C"}', PLANTS, "C"),
    ('{"answer": "C", "explanation": "option A is a moss"}', PLANTS, "C"),
    ("{'answer': 'C'}", PLANTS, "C"),
    ('```json\n{\n "reasoning": "The answer is A?",\n "final_answer": "C"\n}\n```', PLANTS, "C"),
    ('{"answer": "rose"}', PLANTS, "C"),
    ('{"choice": "C"}', PLANTS, "C"),
    ('Action: Answer("C")\n\nRationale: Option D is a fern, and option A is a tree.', PLANTS, "C"),
    ("Action: Finish[C]", PLANTS, "C"),
    ("[ANSWER]C[/ANSWER]", PLANTS, "C"),
    ("<final_answer>C</final_answer>", PLANTS, "C"),
    ("At 500 (°C) the metal melts. The answer is B.", PLANTS, "B"),
    ("y = A·3^n, which matches option **G**", LETTERED, "G"),
    ("y = A·3^n, which matches option **G**.", LETTERED, "G"),
    ("We get A = 5 and B = 7. So the answer is (C).", PLANTS, "C"),
    ("The answer is A = 12? No: A tree is option B.", PLANTS, "B"),
    ("It is a rose.", PLANTS, "C"),
    ("A rose.", PLANTS, "C"),
    ("A rose is a plant that blooms. So the answer is a rose.", PLANTS, "C"),
    ("It is not A but C that blooms.", PLANTS, "C"),
    ("None of A, B, D fits. The only remaining choice, C, is right.", PLANTS, "C"),
    ("The answer is not A but C.", PLANTS, "C"),
    ("Neither A nor B blooms, and D has no flowers, which leaves C.", PLANTS, "C"),
    ("A, B and D can be ruled out, so C remains.", PLANTS, "C"),
    ("Not B. Not D. Not A. That leaves only C.", PLANTS, "C"),
    ("It can't be A, B, or D; it must be C.", PLANTS, "C"),
    ("Rather than A, I would choose C.", PLANTS, "C"),
    ("The answer is A. Hmm, wait: moss has no flower. So it is C.", PLANTS, "C"),
    ("The answer is A. Hmm, wait, moss does not bloom. So it must be C.", PLANTS, "C"),
    ("The answer is A... Actually, no. Let me reconsider. Roses bloom, so option C is the right one.", PLANTS, "C"),
    ("I first thought the answer was A, but the answer is C.", PLANTS, "C"),
    ("My initial answer was A. On reflection it should be C.", PLANTS, "C"),
    ("Answer: $C$ $D$", PLANTS, None),
    ("Answer: C, D", PLANTS, None),
    ("Answer: C and D", PLANTS, None),
    ("The answer is either C or D.", PLANTS, None),
    ("A and C are both correct.", PLANTS, None),
    ("Answer: (C) and (D)", PLANTS, None),
    ("The correct answers are A and C.", PLANTS, None),
    ("A/C", PLANTS, None),
    ("The answer is C: rose, or D: fern", PLANTS, None),
    ("Answer: A. moss\nAnswer: C. rose", PLANTS, "C"),
    ("Answer: $\\boxed{C}$", PLANTS, "C"),
    ("\\boxed{\\text{C. rose}}", PLANTS, "C"),
    ("\\[\\boxed{C}\\]", PLANTS, "C"),
    ("The correct answer is:\n\nC", PLANTS, "C"),
    ("The correct answer is option\nC", PLANTS, "C"),
    ("Final answer - C", PLANTS, "C"),
    ("**Answer** C", PLANTS, "C"),
    ("Answer → C", PLANTS, "C"),
    ("ans: C", PLANTS, "C"),
    ("Correct answer: C", PLANTS, "C"),
    ("Option C.", PLANTS, "C"),
    ("C.", PLANTS, "C"),
    ("c", PLANTS, "C"),
    ("C) rose", PLANTS, "C"),
    ("C: rose", PLANTS, "C"),
    ("C - rose", PLANTS, "C"),
    ("[C]", PLANTS, "C"),
    ("# C", PLANTS, "C"),
    ("I'd say C.", PLANTS, "C"),
    ("I think it's C.", PLANTS, "C"),
    ("My choice: C", PLANTS, "C"),
    ("Let's go with C.", PLANTS, "C"),
    ("I'm going with C.", PLANTS, "C"),
    ("So C it is.", PLANTS, "C"),
    ("C is the answer.", PLANTS, "C"),
    ("Therefore C is correct.", PLANTS, "C"),
    ("Thus, (C).", PLANTS, "C"),
    ("Hence, option C, rose, is what we want.", PLANTS, "C"),
    ("The best choice here would be C.", PLANTS, "C"),
    ("The most suitable option is C: rose.", PLANTS, "C"),
    ('Roses bloom, so the answer should be "rose".', PLANTS, "C"),
    ("Therefore, the plant that blooms is the rose.", PLANTS, "C"),
    ("Selected option: C", PLANTS, "C"),
    ("The answer: C", PLANTS, "C"),
    ("The answer is\n\n**C. rose**\n\n because it blooms, unlike option A.", PLANTS, "C"),
    (
        "Let's see:\nA) moss: no flowers.\nB) tree: some.\nC) rose: blooms.\nD) fern: no.\nThe answer is C.",
        PLANTS,
        "C",
    ),
    ("A) moss: wrong.\nB) tree: wrong.\nC) rose: correct.\nD) fern: wrong.", PLANTS, "C"),
    ("A. moss - ❌\nB. tree - ❌\nC. rose - ✅\nD. fern - ❌", PLANTS, "C"),
    ("None of the above.", PLANTS, None),
    ("I don't know.", PLANTS, None),
    ("The question cannot be answered.", PLANTS, None),
    ("There is no correct answer.", PLANTS, None),
    ("The answer is E.", PLANTS, None),
]

NUMBERS = [
    ("**Answer:** The seventh term of the sequence is 44.", "44", True),
    ("Answer: 7 (without quotes)", "7", True),
    ("The total is $9 500.", "9500", True),
    ("The answer is $9 500", "9500", True),
    ("The answer is 12 000.", "12000", True),
    ("She has 12 red and 1 blue. The answer is thirteen.", "13", True),
    ("So the answer is twenty-five.", "25", True),
    ("The answer is one hundred and five dollars.", "105", True),
    ("The answer is 1.5 x 10^3.", "1500", True),
    ("The answer is 1.5 × 10^3", "1500", True),
    ("\\boxed{1.5 \\times 10^{3}}", "1500", True),
    ("It costs €1.250,00.", "1250", True),
    ("The answer is €1.250,00", "1250", True),
    ("They meet at 2:00 pm. The answer is 2:00 pm.", "2", True),
    ("So the train arrives at 2:00 pm.", "2", True),
    ("<answer>18</answer>", "18", True),
    ('{"reasoning": "3*6=18", "answer": "18"}', "18", True),
    ('{"answer": 18}', "18", True),
    ('{"answer": "18 dollars", "confidence": 90}', "18", True),
    ('{"answer": "$18", "steps": 3}', "18", True),
    ("The solution is to add. 5 + 13 = 18.\n\n# Answer\n\n18", "18", True),
    ("The solution is equal to a mix of both.\n\n# Answer\n\n17", "17", True),
    ("The answer is 20. Hmm, wait, she ate 2. So it is 18.", "18", True),
    ("The answer is 20. Wait, I made a mistake. 20 - 2 = 18, so she has 18 eggs.", "18", True),
    (
        "Answer: 18\n\nExplanation: She has 16 eggs, eats 3 and bakes 4. 16 - 3 - 4 = 9 and 9 * 2 = 18. In 7 days.",
        "18",
        True,
    ),
    ("#### 18\n\nIn 5 days, she gets more.", "18", True),
    ("The final answer is: 18. This took 3 steps.", "18", True),
    ("**18**", "18", True),
    ("18 eggs", "18", True),
    ("Total: 18", "18", True),
    ("= 18", "18", True),
    ("x = 18", "18", True),
    ("$\\boxed{18}$", "18", True),
    ("\\boxed{18\\text{ eggs}}", "18", True),
    ("\\boxed{\\$18.00}", "18", True),
    ("Answer: \\(18\\)", "18", True),
    ("\\[\\text{Answer: } 42\\]", "42", True),
    ("Therefore, Tom has $18$ left after 5 days.", "18", True),
    ("Tom will need 18 eggs for 3 cakes.", "18", True),
    ("He pays $1,800.", "1800", True),
    ("The answer is 1,800", "1800", True),
    ("The answer is 50%.", "50", True),
    ("The answer is 0.5", "1/2", True),
    ("It takes him 3 hours to read 18 pages, so he reads 6 pages per hour.", "6", True),
    ("So she has 15 - 7 = 8 eggs left.\n\nLet me know if you have 2 more questions!", "8", True),
    ("Step 1: 3 + 4 = 7\nStep 2: 7 * 2 = 14\nStep 3: 14 + 4 = 18", "18", True),
    ("1. 3+4=7\n2. 7*2=14\n3. The answer is 14", "14", True),
    ("The answer is -5.", "-5", True),
    ("He lost money: the answer is −$5", "-5", True),
    ("He is $5 short, so -5", "-5", True),
    ("Answer: 3 1/2", "3.5", True),
    ("Answer: 3.50 dollars", "3.5", True),
    ("She gets 2/3 of it. Answer: 2/3", "2/3", True),
    ("A: 18", "18", True),
    ("A: She has 18 eggs.", "18", True),
    ("The answer is 7 days and 3 hours.", "7", True),
    ("Janet makes 9 * 2 = <<9*2=18>>18 dollars.", "18", True),
    ("The number of eggs is 18 (16 - 3 + 5).", "18", True),
    ("Each of the 3 boys gets 6 apples, so there are 18 apples.", "18", True),
    ("So there are twelve eggs in the box.", "12", True),
    ("Final answer: 18/1", "18", True),
    ("The answer is 1,234,567.89", "1234567.89", True),
    ("The answer is one hundred fifty-seven thousand four hundred.", "157400", True),
    ("Answer: 58 files were still on the drive after she deleted 11 of the files.", "58", True),
    ("Answer: Matt has to eat 6 carrot sticks to get 5 cookies.", "6", True),
    ("We multiply 3 by 5 to get 15 apples.", "15", True),
    ("Answer: 96 potatoes can make 576 hash browns.", "576", True),
    ("Answer: Solo needs to read 6 pages per day, on average, in the next 4 days to complete his reading.", "6", True),
    ("For 3 cakes, she needs 18 eggs.", "18", True),
    ("Given: David did 37.\n\nQuestion: How many did Zachary do?\n\nAnswer: Zachary did 7.", "7", True),
    ("The answer is between 5 and 7 days.", "5", False),
    ("The answer is between 5 and 7 days.", "7", False),
    ("It takes 5-7 days.", "5", False),
    ("It takes 5 to 7 days.", "7", False),
    ("**5. FORMAT:** We lack data.", "5", False),
    ("There is not enough information.", "5", False),
    ("The answer is not 5.", "5", False),
    ("The answer is 3:30.", "3", False),
    ("The answer is 15.", "5", False),
    ("The answer is 5,000", "5", False),
]

MATH = [
    ("**Answer:** The seventh term of the sequence is 44.", "44", True),
    ("Answer: The value of $y$ that works is $y = 9$.", "9", True),
    ("Answer: 12$\\frac{1}{2}$", "\\frac{25}{2}", True),
    ("\\[\\text{Answer: } 42\\]", "42", True),
    ("The solution is equal to a mix of both.\n\n# Answer\n\n17", "17", True),
    ("\\boxed{f(2)=10}", "10", True),
    ("\\boxed{z^2 = -4}", "-4", True),
    ("\\boxed{n \\equiv 3 \\pmod 7}", "3", True),
    ("\\boxed{\\frac{5}{12} \\approx 0.417}", "\\frac{5}{12}", True),
    ("the value of $3x+1$ is **16**.", "16", True),
    ("So the answer is \\\\frac{2}{7}", "\\frac{2}{7}", True),
    ("\\boxed{\\\\frac{2}{7}}", "\\frac{2}{7}", True),
    ('{"answer": "\\\\frac{2}{7}"}', "\\frac{2}{7}", True),
    ("\\boxed{\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
    ("\\boxed{\\begin{pmatrix} 0.5 & 1 \\\\ 2 & 3 \\end{pmatrix}}", "\\begin{pmatrix}1/2&1\\\\2&3\\end{pmatrix}", True),
    ("\\\\boxed{\\\\begin{pmatrix} 1 \\\\\\\\ 2 \\\\end{pmatrix}}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", True),
    ("\\boxed{\\text{(B) Circle}}", "\\text{(B)}", True),
    ("the correct option is (B) Circle.", "\\text{(B)}", True),
    ("Therefore, the correct option is (B).", "\\text{(B)}", True),
    ("The answer is B.", "\\text{(B)}", True),
    ("\\boxed{B}", "\\text{(B)}", True),
    ("\\boxed{(B)}", "\\text{(B)}", True),
    ("Answer: $\\frac{5}{6}$\n\nAnswer: $\\frac{5", "\\frac{5}{6}", True),
    ("Answer: 7 (without quotes)", "7", True),
    ("$\\boxed{-1}$ and $\\boxed{6}$", "-1,6", True),
    ("The solutions are $\\boxed{-1}$ and $\\boxed{6}$.", "-1,6", True),
    ("The roots are $x=-1$ and $x=6$.", "-1,6", True),
    ("The answer is $x=-4$ and $x=1$", "-4,1", True),
    ("$x=-\\boxed{8}$", "-8", True),
    ("The answer is -$\\pi/6$", "-\\frac{\\pi}{6}", True),
    ("\\boxed{11^{\\text{th}}}", "11", True),
    ("\\boxed{4500 / \\pi}", "\\frac{4500}{\\pi}", True),
    ("Answer: $\\$$40", "40", True),
    ("Answer: \\$40", "40", True),
    ("The answer is $40.", "40", True),
    ("Thus $x = 5$ or $x = -3$.", "5,-3", True),
    ("The area is $12\\pi$ square units.", "12\\pi", True),
    ("The answer is 12 square units.", "12", True),
    ("\\boxed{12 \\text{ square units}}", "12", True),
    ("\\boxed{x=5}", "5", True),
    ("\\boxed{5x-7}", "5x-7", True),
    ("y = \\boxed{2x+1}", "2x+1", True),
    ("\\boxed{y=2x+1}", "2x+1", True),
    ("\\boxed{y=2x+1}", "y=2x+1", True),
    ("\\boxed{2x+1}", "y=2x+1", True),
    ("Therefore, the answer is Evelyn.", "\\text{Evelyn}", True),
    ("\\boxed{Evelyn}", "\\text{Evelyn}", True),
    ("The function is \\boxed{\\text{even}}.", "\\text{even}", True),
    ("The answer is even.", "\\text{even}", True),
    ("$$\n\\boxed{3}\n$$", "3", True),
    ("\\[\n x = 3\n\\]", "3", True),
    ("Therefore, the smallest value is\n\\[\n\\frac{1}{2}\n\\]", "\\frac{1}{2}", True),
    ("The final answer is $\\frac12$. I hope it is correct.", "\\frac{1}{2}", True),
    ("Final Answer: The final answer is $(3,4)$. I hope it is correct.", "(3,4)", True),
    ("The answer is (3, 4).", "(3,4)", True),
    ("The answer is [2, 5).", "[2,5)", True),
    ("\\boxed{[2,5)}", "[2,5)", True),
    ("The interval is $(-\\infty, 3)$", "(-\\infty,3)", True),
    ("x is in (-infinity, 3)", "(-\\infty,3)", True),
    ("sqrt(2)", "\\sqrt{2}", True),
    ("The answer is sqrt(2)/2", "\\frac{\\sqrt{2}}{2}", True),
    ("The answer is 2√3.", "2\\sqrt{3}", True),
    ("2*sqrt(3)", "2\\sqrt{3}", True),
    ("pi/6", "\\frac{\\pi}{6}", True),
    ("3pi", "3\\pi", True),
    ("The answer is 1/2.", "\\frac{1}{2}", True),
    ("50%", "50\\%", True),
    ("0.5", "\\frac{1}{2}", True),
    ("90 degrees", "90^\\circ", True),
    ("\\boxed{90^{\\circ}}", "90", True),
    ("\\boxed{\\dfrac{-1}{2}}", "-\\frac{1}{2}", True),
    ("\\boxed{\\frac{-\\pi}{2}}", "-\\frac{\\pi}{2}", True),
    ("\\boxed{(1+\\sqrt{5})/2}", "\\frac{1+\\sqrt{5}}{2}", True),
    ("\\boxed{10,000}", "10000", True),
    ("\\boxed{10{,}000}", "10000", True),
    ("\\boxed{10\\,000}", "10000", True),
    ("\\boxed{1, 2, 3}", "3,2,1", True),
    ("\\boxed{\\{1,2,3\\}}", "1,2,3", True),
    ("\\boxed{101_2}", "101_2", True),
    ("\\boxed{101}", "101_2", True),
    ("\\boxed{5 \\text{ or } 6}", "5,6", True),
    ("The answer is \\(\\frac{1}{3}\\).", "\\frac{1}{3}", True),
    ("So the answer is $\\boxed{7}$. Note that 8 is not.", "7", True),
    ("The probability is $\\frac{3}{6} = \\frac{1}{2}$.", "\\frac{1}{2}", True),
    ("Therefore $x^2+y^2=25$, so the radius is $5$.", "5", True),
    ("The answer is 3, because $2+1=3$.", "3", True),
    ("Hence $f(3) = 12$.", "12", True),
    ("So $f(3) = 12$, which is the maximum.", "12", True),
    ("Thus the minimum is 4, attained when $x = 2$.", "4", True),
    ("Answer: $2$\n\nExplanation: $x^2 = 4$ has roots $x = 2$ and $x=-2$, and we want the positive one.", "2", True),
    ("The answer is $5$. Wait, $2+2=4$. So the answer is $4$.", "4", True),
    ("The sum is 14.\n\n**Final Answer**\n\n14", "14", True),
    ("### Final Answer\n$\\frac{3}{4}$", "\\frac{3}{4}", True),
    ("**Final Answer:** $\\frac{3}{4}$", "\\frac{3}{4}", True),
    ("<answer>\\frac{3}{4}</answer>", "\\frac{3}{4}", True),
    ("The answer is $\\text{June 20}$", "\\text{June 20}", True),
    ("\\boxed{\\text{June } 20}", "\\text{June 20}", True),
    ("\\boxed{6:00}", "6:00", True),
    ("\\boxed{3+2i}", "3+2i", True),
    ("\\boxed{-\\frac{1}{2}x + 3}", "-\\frac{1}{2}x+3", True),
    ("\\boxed{ \\left( \\frac{3}{2}, -1 \\right) }", "\\left(\\frac{3}{2},-1\\right)", True),
    ("\\boxed{5\\text{ cm}}", "5", True),
    ("\\boxed{\\$5.50}", "5.50", True),
    ("\\boxed{5.5}", "5.50", True),
    ("$$x=\\frac{-b}{2a}=\\frac{4}{2}=2$$", "2", True),
    ("The answer is 2 + 3i", "2+3i", True),
    ("The answer is x^2 + 2x + 1.", "x^2+2x+1", True),
    ("The greatest common divisor is 6", "6", True),
    ("the answer is $\\sqrt{51}$ units", "\\sqrt{51}", True),
    ("\\boxed{x = 1, x = 2}", "1,2", True),
    ("\\boxed{x=1 \\text{ or } x=2}", "1,2", True),
    ("$\\boxed{x \\in (1,2)}$", "(1,2)", True),
    ("\\boxed{x \\ge 3}", "x\\ge3", True),
    ("\\boxed{k=3}", "3", True),
    ("\\boxed{\\angle A = 30^\\circ}", "30", True),
    ("\\boxed{P(A) = \\frac{1}{3}}", "\\frac{1}{3}", True),
    ("\\boxed{|AB| = 5}", "5", True),
    ("\\boxed{a+b+c = 12}", "12", True),
    ("\\boxed{12 or 13}", "12", False),
    ("$x=-4$ and $x=1$", "-4", False),
    ("The answer is $x=-4$ and $x=1$", "-4", False),
    ("\\boxed{-\\frac12}", "\\frac12", False),
    ("\\boxed{x+y=4}", "y+z=4", False),
    ("\\boxed{(1,2]}", "(1,2)", False),
    ("\\boxed{\\text{(C)}}", "\\text{(B)}", False),
    ("\\boxed{5\\pi}", "5", False),
    ("\\boxed{\\frac{5}{6}}", "\\frac{6}{5}", False),
    ("\\boxed{2x}", "x", False),
]

CUT = [
    ("It is 18 eggs, and then 3", "18", "gsm8k", ()),
    ("She has $5 and buys 3 eggs", "3", "gsm8k", ()),
    ("We get $x = 5$ and $y = 7", "5", "math", ()),
    ("Of all of them option B fits.\nIt rises.", "B", "obqa", PLANTS),
]


@pytest.mark.parametrize(("text", "options", "read"), CHOICES)
def test_choices(text: str, options: tuple[str, ...], read: str | None) -> None:
    for target in "ABCD":
        graded = grade(text, target, options, "csqa")
        assert (graded.read, graded.correct) == (read, read == target)


@pytest.mark.parametrize(("text", "target", "correct"), NUMBERS)
def test_numbers(text: str, target: str, correct: bool) -> None:
    assert grade(text, target, (), "gsm8k").correct == correct
    assert not grade(text, "31", (), "gsm8k").correct


@pytest.mark.parametrize(("text", "target", "correct"), MATH)
def test_math(text: str, target: str, correct: bool) -> None:
    assert grade(text, target, (), "math").correct == correct
    assert not grade(text, "31", (), "math").correct


@pytest.mark.parametrize(("text", "target", "task", "options"), CUT)
def test_nothing_is_guessed_of_a_text_that_was_cut_off(text: str, target: str, task: str, options: tuple) -> None:
    assert grade(text, target, options, task).rule == "last"
    assert grade(text, target, options, task, ended=False).read is None


def test_what_a_cut_text_states_or_concludes_is_read() -> None:
    for text in ("The answer is 18. In 3 days she", "So she makes 18 dollars.", "#### 18\n\nThe 3"):
        assert grade(text, "18", (), "gsm8k", ended=False).correct


def test_every_rule_has_an_example_that_runs() -> None:
    ran = doctest.testmod(places)
    assert ran.failed == 0
    assert ran.attempted >= 5


REPEATED = (  # noqa: SIM905
    "the answer is |Answer: |I choose |is the correct |A or B |(A) |A) x\n|#### 1\n|<answer>|"
    '"answer": "|Question: x\n|sure |\\boxed{|\\text{|\\[|\\(|[asy]|\\\n|$|x = |1 |1, |1 000 |hundred |wait |'
    "✅|- correct |and |($|\n| |so 1 |between 5 and |In 5 days, "
).split("|")


@pytest.mark.parametrize("again", REPEATED)
def test_reading_takes_a_time_that_grows_with_the_text(again: str) -> None:
    started = time.monotonic()
    for options, task in ((PLANTS, "obqa"), ((), "gsm8k"), ((), "math")):
        for text in (again * (6000 // len(again)), "The answer is 5 " + again * (6000 // len(again)) + " 7!"):
            grade(text, "A" if options else "5", options, task)
    assert time.monotonic() - started < 6  # six texts, none over a second
