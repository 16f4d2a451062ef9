"""The judge of Appendix H: Table 12's prompt, the sample, the ratings read from replies, the averages."""

import json

import pytest

from selfrefine import annotate, judge
from tests.loopback import Loopback, Reply, completion, error

KEY = "sk-loopback-0123456789"
TABLE_12 = """
Please act as an impartial judge and evaluate the quality of the response
provided by an AI assistant to the user instruction displayed below. Your
evaluation should consider factors such as quality, accuracy, depth, and
level of detail. Begin your assessment with a short explanation. Be as
objective as possible. After providing your explanation, please rate the
response on a scale of 1 to 3 strictly following this format: “[[rating]]”,
for example: “Rating: [[2]]”.
[question]
${question}
[AI assistant’s response]
${response}
"""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def predictions(path, tasks=("obqa", "gsm8k"), count=80, seeds=(0,)):
    """A file as evaluate.py writes it; the text says task, id and prompt."""
    rows = [
        {"task": task, "id": f"{task}-{n}", "prompt": prompt, "seed": seed, "text": f"{task} {n} {prompt} {seed}"}
        | {"question": f"What is {n}?", "options": ["ice", "steam"] if task == "obqa" else []}
        | {"target": "B" if task == "obqa" else str(n), "read": None, "rule": "none", "correct": False}
        for task in tasks
        for prompt in ("standard", "cot")
        for seed in seeds
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judged(command, server, output, *files, more=()) -> int:
    arguments = ["--predictions", *files, "--server", server.url, "--judge", "gpt-4", "--output", output]
    return command(judge, *arguments, *more)


def ratings_of(output) -> list[dict]:
    return [json.loads(line) for line in output.with_suffix(".ratings.jsonl").read_text().split("\n")[:-1]]


def test_table_12s_prompt_word_for_word():
    shown = TABLE_12.replace("${question}", "{question}").replace("${response}", "{response}")
    assert judge.PROMPT.split() == shown.split()


def test_what_the_judge_is_sent(command, tmp_path):
    """The question with its choices, without the trigger, and the raw answer; the judge's name and temperature 0."""
    with Loopback(lambda request: completion("Rating: [[2]]")) as server:
        assert judged(command, server, tmp_path / "j.json", predictions(tmp_path / "p", ["obqa"], 1)) == 0
    (sent,) = [request for request in server.requests if "cot" in request.prompt]
    assert sent.prompt.endswith("[question]\nWhat is 0?\nA) ice\nB) steam\n[AI assistant’s response]\nobqa 0 cot 0")
    assert (sent.body["model"], sent.body["temperature"]) == ("gpt-4", 0)


def test_fifty_questions_a_task_the_same_for_every_file_and_prompt(command, tmp_path):
    """By seed; a larger sample contains the smaller; of several seeds of sampling the first is judged."""
    one, two = predictions(tmp_path / "one", seeds=(0, 1)), predictions(tmp_path / "two")
    with Loopback(lambda request: completion("[[1]]")) as server:
        assert judged(command, server, tmp_path / "j.json", one, two) == 0
        judged(command, server, tmp_path / "k.json", one, two, more=["--per-task", 60])
        judged(command, server, tmp_path / "l.json", one, two, more=["--seed", 1])
    rows = ratings_of(tmp_path / "j.json")
    assert len(rows) == 2 * 2 * 2 * 50
    groups = {(row["file"], row["prompt"], row["task"]): set() for row in rows}
    for row in rows:
        groups[row["file"], row["prompt"], row["task"]].add(row["id"])
        assert row["response"].endswith(" 0")
    chosen = {task: {frozenset(ids) for key, ids in groups.items() if key[2] == task} for task in ("obqa", "gsm8k")}
    assert all(len(ids) == 1 for ids in chosen.values())
    fifty = {row["id"] for row in rows}
    assert fifty < {row["id"] for row in ratings_of(tmp_path / "k.json")}
    assert fifty != {row["id"] for row in ratings_of(tmp_path / "l.json")}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("It is right. Rating: [[2]]", 2),
        ("“[[3]]”", 3),
        ("Not [[1]] but, all in all, [[ 2 ]].", 2),
        ("[[2.5]]", 2.5),
        ("Rating: 2", None),
        ("[[rating]]", None),
        ("[[7]]", None),
        ("[[0]]", None),
        ("", None),
    ],
)
def test_the_rating_in_a_reply(text, read):
    assert judge.rating(text) == read


def test_the_averages(command, tmp_path, capfd):
    """60 % threes and 40 % twos in one task, ones in the other, and a tenth that cannot be read: worked out by hand.

    obqa/cot: ids 0..9 -> 3 for 0..5, 2 for 6..8, unreadable 9: (6 * 3 + 3 * 2) / 9 = 2.667. gsm8k/cot: ten ones.
    Together (18 + 6 + 10) / 19 = 1.789, 19 rated, 1 not read.
    """

    def answer(request):
        task, number, prompt, _ = request.prompt.split("\n")[-1].split()
        if task == "gsm8k" or prompt == "standard":
            return completion("[[1]]")
        return completion("Hm." if number == "9" else "[[3]]" if int(number) < 6 else "[[2]]")

    output = tmp_path / "j.json"
    file = predictions(tmp_path / "p", count=10)
    with Loopback(answer) as server:
        assert judged(command, server, output, file) == 0
    results = json.loads(output.read_text())["results"][str(file)]
    assert results["cot"]["tasks"]["obqa"] == {"mean": pytest.approx(24 / 9), "rated": 9, "not_read": 1}
    assert results["cot"]["mean"] == pytest.approx(34 / 19)
    assert (results["cot"]["rated"], results["cot"]["not_read"]) == (19, 1)
    assert results["standard"]["mean"] == 1
    printed = capfd.readouterr().out
    assert f"| {file} | cot | 1.79 | 19 | 1 |\n" in printed
    assert f"| {file} | standard | 1.00 | 20 | 0 |\n" in printed


def test_the_bare_targets_of_table_13(command, tmp_path):
    """A letter with its option's text, a number as it is; once for the questions that both prompts share."""
    file = predictions(tmp_path / "p", count=3)
    with Loopback(lambda request: completion("[[1]]")) as server:
        assert judged(command, server, tmp_path / "j.json", file, more=["--targets"]) == 0
    responses = {row["id"]: row["response"] for row in ratings_of(tmp_path / "j.json") if row["prompt"] == "target"}
    assert responses == {f"obqa-{n}": "B) steam" for n in range(3)} | {f"gsm8k-{n}": str(n) for n in range(3)}
    assert json.loads((tmp_path / "j.json").read_text())["results"]["target answers"]["target"]["rated"] == 6


def test_teachers_demonstrations_can_be_judged(command, tmp_path):
    """Table 13 judges teachers: annotate's two files, with and without the trigger."""
    files = []
    for prompt in ("cot", "standard"):
        files.append(tmp_path / f"{prompt}.jsonl")
        arguments = ["--task", "pocket-choice", "--teacher", "pocket", "--limit", 5, "--prompt", prompt]
        assert command(annotate, *arguments, "--output", files[-1]) == 0
    with Loopback(lambda request: completion("[[3]]")) as server:
        assert judged(command, server, tmp_path / "j.json", *files) == 0
    results = json.loads((tmp_path / "j.json").read_text())["results"]
    assert results[str(files[0])]["cot"]["rated"] == results[str(files[1])]["standard"]["rated"] == 5
    assert "step by step" not in server.requests[0].prompt
    assert "\nA) " in server.requests[0].prompt


def test_the_scripted_judge_rates_by_rule(command, tmp_path):
    """`--judge pocket` without a server: 1 for a wrong answer and a bare target, 2 for a right one, 3 with a chain."""
    texts = {"3 + 4 = 7. 7 is less than 9. The answer is B.": 3, "B": 2, "3 + 4 = 7. The answer is A.": 1}
    question = {"task": "pocket-choice", "prompt": "cot", "question": "Who has more?", "target": "B"}
    rows = [question | {"id": str(n), "text": text, "options": ["Tom", "Ann"]} for n, text in enumerate(texts)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "j.json"
    flags = ["--predictions", tmp_path / "p.jsonl", "--judge", "pocket", "--targets", "--output", output]
    assert command(judge, *flags) == 0
    rated = {row["response"]: row["rating"] for row in ratings_of(output)}
    assert rated == texts | {"B) Ann": 1}
    assert json.loads(output.read_text())["results"][str(tmp_path / "p.jsonl")]["cot"]["mean"] == 2
    flags[3] = "gpt-4"
    assert command(judge, *flags) == 2  # any other judge needs a server


def test_ratings_are_kept_and_asked_once(command, tmp_path, capfd):
    """Stopped by an empty account and started again: what is missing is asked, and nothing else."""
    output, file = tmp_path / "j.json", predictions(tmp_path / "p", count=10)

    def answer(request):
        return error(429, "quota", "insufficient_quota") if len(server.requests) > 15 else completion("[[2]]")

    with Loopback(answer) as server:
        assert judged(command, server, output, file, more=["--concurrency", 1]) == 1
    assert len(ratings_of(output)) == 15
    assert not output.exists()
    with Loopback(lambda request: completion("[[2]]")) as server:
        assert judged(command, server, output, file) == 0
        assert len(server.requests) == 25
        assert judged(command, server, output, file) == 0
        assert len(server.requests) == 25
        capfd.readouterr()
        assert judged(command, server, output, file, more=["--temperature", 1]) == 2
        assert "temperature 0.0 (now 1.0)" in capfd.readouterr().err
        predictions(file, count=10).write_text(file.read_text().replace("obqa 3 cot", "obqa three cot"))
        assert judged(command, server, output, file) == 2
        assert "was another answer when it was rated" in capfd.readouterr().err


def test_a_larger_budget_asks_cut_ratings_again(command, tmp_path, capfd):
    output, file = tmp_path / "j.json", predictions(tmp_path / "p", ["obqa"], 2)

    def answer(request):
        cut = request.body["max_tokens"] == 512 and "obqa 0" in request.prompt
        return completion("It is", "length") if cut else completion("[[2]]")

    with Loopback(answer) as server:
        assert judged(command, server, output, file) == 0
        assert "2 answers were cut at 512 tokens" in capfd.readouterr().out
        assert judged(command, server, output, file, more=["--max-new-tokens", 1024]) == 0
        assert len(server.requests) == 4 + 2
    assert [row["rating"] for row in ratings_of(output)] == [2] * 4


def test_the_answers_are_never_written_over(command, tmp_path, capfd):
    file = predictions(tmp_path / "p.json", count=3)
    (tmp_path / "mine.json").write_text('["judge"]')
    for output in (file, tmp_path / "mine.json"):
        before = output.read_bytes()
        with Loopback(lambda request: completion("[[2]]")) as server:
            assert judged(command, server, output, file) == 2
            assert server.requests == []
        assert output.read_bytes() == before
    assert "is another file already" in capfd.readouterr().err


def test_dry_run_prints_the_plan(command, tmp_path, capfd):
    arguments = ["--predictions", predictions(tmp_path / "p"), "--judge", "gpt-4", "--output", tmp_path / "j.json"]
    assert command(judge, *arguments, "--dry-run", "--max-new-tokens", 10, "--price-out", 1000) == 0
    printed = capfd.readouterr().out
    assert "requests       200\n" in printed
    assert "at most 2.00 for the answers" in printed


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"task": "a", "id": "1"}\n', "line 1 is neither"),
        ("", "has no answers"),
        ('{"task"\n', "line 1 is not JSON"),
        ("{\n", "is not JSON (Expecting property name enclosed in double quotes: line 2"),
        ('{"task": ["a"], "id": "1", "prompt": "cot", "question": "q", "text": "t", "target": "A"}\n', "is neither"),
        ('{"task": "a", "id": "1", "prompt": "cot", "question": "q", "text": null, "target": "A"}\n', "is neither"),
    ],
)
def test_bad_input_gets_a_sentence(command, tmp_path, capfd, content, says):
    file = tmp_path / "p"
    file.write_text(content)
    with Loopback(lambda request: completion("[[2]]")) as server:
        assert judged(command, server, tmp_path / "j.json", file) == 2
    assert f"{file} " in (said := capfd.readouterr().err)
    assert says in said


def test_the_key_is_in_no_file_and_no_message(command, tmp_path, capfd):
    file = predictions(tmp_path / "p", count=3)
    with Loopback(lambda request: completion("[[2]]")) as server:
        assert judged(command, server, tmp_path / "j.json", file) == 0
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    with Loopback(lambda request: Reply(KEY.encode(), 403)) as server:
        assert judged(command, server, tmp_path / "k.json", file) == 2
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"gpt-4" in written
    assert KEY.encode() not in written
    assert KEY not in "".join(capfd.readouterr())
