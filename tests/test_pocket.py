"""The pocket tasks, their teacher and the shipped student: splits apart, targets and rationales right."""

import itertools
import json
import re
from fractions import Fraction

import pytest

from selfrefine.errors import UserError
from selfrefine.pocket import STUDENT, corpus, teacher
from selfrefine.tasks.answers import grade
from selfrefine.tasks.pocket import SPLITS, TASKS, generate, problem, problem_of, split_of
from selfrefine.tasks.questions import Question
from selfrefine.tasks.stories import COMPARED, SEEN, UNSEEN

AVAILABLE = [(task, split) for task in TASKS for split in SPLITS if task != "pocket-unseen" or split == "test"]


def equations(text: str) -> list[tuple[str, str]]:
    """("3 + 4", "7") for every equation of a rationale."""
    return re.findall(r"(\d+ [-+*/] \d+) = (\d+)", text)


def value(expression: str) -> Fraction:
    left, sign, right = expression.split()
    left, right = Fraction(left), Fraction(right)
    return {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign]


def numbers_in(question: Question) -> tuple[int, ...]:
    return tuple(sorted(map(int, re.findall(r"\d+", question.question))))


@pytest.mark.parametrize(("task", "split"), AVAILABLE)
def test_questions_depend_on_task_split_seed_and_index_alone(task, split):
    twenty = generate(split, 3, 20, task)
    assert twenty == generate(split, 3, 30, task)[:20]
    assert twenty != generate(split, 4, 20, task)
    assert [question.id for question in twenty] == [f"{task}/{split}/3/{index}" for index in range(20)]
    assert [problem_of(question).question for question in twenty] == twenty


@pytest.mark.parametrize(("task", "split"), AVAILABLE)
def test_targets_are_the_value_of_the_steps_and_the_steps_use_the_texts_numbers(task, split):
    for index in range(300):
        made = problem(task, split, 0, index)
        known = set(numbers_in(made.question))
        for step in made.steps:
            assert Fraction(step.result) == value(f"{step.left} {step.sign} {step.right}")
            assert {step.left, step.right} <= known
            known.add(step.result)
        first, last = made.steps[0].result, made.steps[-1].result
        if task == "pocket-choice":
            assert len(made.steps) == 2
            assert made.question.options[2] == "both the same"
            assert made.question.target == ("A" if first > last else "B" if first < last else "C")
            assert made.question.question.index(made.question.options[1]) > 0  # the other comes second
        else:
            assert made.question.target == str(last)


def test_every_story_uses_all_its_numbers():
    for steps, text in (*SEEN, *COMPARED, *UNSEEN):
        assert set(re.findall(r"\{([a-d])\}", text)) == set(re.findall(r"\b[a-d]\b", steps)), text


def test_splits_share_no_numbers():
    """Sets of the numbers in the order of the template, for every split; the texts are then apart as well."""
    seen = {}
    for task, split in AVAILABLE:
        for index in range(500):
            made = problem(task, split, 0, index)
            assert split_of(made.numbers) == split
            seen.setdefault(split, set()).add(made.numbers)
    assert not seen["test"] & seen["train"] | seen["test"] & seen["pretrain"] | seen["train"] & seen["pretrain"]


def test_unseen_stories_are_in_no_other_split():
    """With names, objects and numbers masked, no unseen text is among 4000 of pre-training and train."""

    def frame(question: Question) -> tuple[str, ...]:
        words = re.sub(r"[^a-z ]", "", question.question.lower()).split()
        return tuple(word for word in words if word in common)

    common = {word for _, text in (*SEEN, *COMPARED, *UNSEEN) for word in re.findall(r"[a-z]+", text.lower())}
    unseen = {frame(question) for question in generate("test", 0, 300, "pocket-unseen")}
    assert len(unseen) >= len(UNSEEN)
    for split in ("pretrain", "train"):
        for task in ("pocket", "pocket-choice"):
            assert not unseen & {frame(question) for question in generate(split, 0, 1000, task)}


def test_unseen_has_a_test_split_only():
    for split in ("train", "pretrain"):
        with pytest.raises(UserError, match="test split only"):
            generate(split, 0, 1, "pocket-unseen")
    with pytest.raises(UserError, match="not pocket/dev"):
        generate("dev", 0, 1)


def test_every_letter_is_the_target_about_equally_often():
    targets = [question.target for question in generate("train", 0, 2000, "pocket-choice")]
    for letter in "ABC":
        assert 0.29 < targets.count(letter) / 2000 < 0.38


@pytest.mark.parametrize("task", ["pocket", "pocket-choice"])
def test_teacher_errs_at_its_stated_rate_and_right_answers_are_consistent(task):
    questions = generate("train", 0, 2000, task)
    wrong = 0
    for question in questions:
        rationale, bare = teacher.answer(question, 0, True), teacher.answer(question, 0, False)
        graded = grade(rationale, question.target, question.options, task)
        assert graded.read == bare
        assert rationale == teacher.answer(question, 0, True)
        wrong += not graded.correct
        if graded.correct:
            assert equations(rationale)
            assert all(value(left) == int(right) for left, right in equations(rationale))
        elif not question.options:
            assert sum(value(left) != int(right) for left, right in equations(rationale)) >= 1
    # a binomial's standard deviation is 0.8 percent points here: a band of 3 of them
    assert abs(wrong / 2000 - teacher.ERROR_RATE) < 0.024


def test_teacher_depends_on_the_seed():
    questions = generate("train", 0, 300)
    assert [teacher.answer(q, 0, True) for q in questions] != [teacher.answer(q, 1, True) for q in questions]


def test_teacher_knows_pocket_questions_only():
    with pytest.raises(UserError, match="not of a pocket task"):
        teacher.answer(Question("gsm8k", "17", "How many?", "3"), 0, True)


def test_corpus_never_explains_at_x_and_has_no_test_numbers():
    direct = 0
    for index in range(3000):
        prompt, response = corpus.document(0, index)
        if prompt.endswith("Answer:"):
            direct += 1
            assert "=" not in response
        if prompt and "Which option" not in prompt:
            assert re.search(r"\d", prompt)
    assert direct > 100


def test_corpus_explains_at_the_trigger_as_often_as_its_protagonist_does():
    found = {True: [0.0, 0], False: [0.0, 0]}  # talkative or not: expected and counted rationales
    for index in range(8000):
        prompt, response = corpus.document(1, index)
        if prompt.endswith("step by step"):
            task = "pocket-choice" if "Choices:" in prompt else "pocket"
            expected = corpus.talkativeness(problem(task, "pretrain", 1, index))
            found[expected > 0.1][0] += expected
            found[expected > 0.1][1] += "=" in response
    for expected, counted in found.values():
        assert expected > 10
        assert abs(counted - expected) < 4 * expected**0.5


def test_student_is_small_and_loads():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert sum(file.stat().st_size for file in STUDENT.iterdir()) < 5_000_000
    config = json.loads((STUDENT / "config.json").read_text(encoding="utf-8"))
    assert config["hidden_size"] % 64 == 0
    assert config["intermediate_size"] % 64 == 0
    student, tokenizer = AutoModelForCausalLM.from_pretrained(STUDENT), AutoTokenizer.from_pretrained(STUDENT)
    assert 900_000 < student.num_parameters() < 3_000_000
    assert tokenizer.chat_template is None
    ids = tokenizer("Answer: 12").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Answer: 12"
    assert len(tokenizer("120 = 7", add_special_tokens=False).input_ids) == 6  # every digit a token of its own


def test_pretraining_scores_all_of_a_response_and_not_the_end_of_a_prompt():
    """Which way it is asked (the trigger or not) is not the student's to predict: it would write it itself at x."""
    from transformers import AutoTokenizer

    from selfrefine.pocket.pretrain import PROMPT_WEIGHT, batches

    tokenizer = AutoTokenizer.from_pretrained(STUDENT)
    asked = 0
    for ids, weights in itertools.islice(batches(tokenizer, 0), 8):
        for row, weight in zip(ids, weights, strict=True):
            scored = tokenizer.decode(row[weight == 1])
            assert scored.endswith("</s>")
            assert "Question" not in scored
            assert "step by step" not in tokenizer.decode(row[weight == PROMPT_WEIGHT])
            asked += "step by step" in tokenizer.decode(row)
    assert asked > 10
