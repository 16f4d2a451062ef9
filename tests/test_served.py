"""A served student: its answers as --answers, its evaluation; the wire changes neither pairs nor accuracies."""

import json
import subprocess
import sys
import time
from itertools import count
from types import SimpleNamespace

import pytest
import torch

import evaluate
import train_dpo
from selfrefine import annotate
from selfrefine.pocket import STUDENT
from tests.conftest import COMMON, ROOT
from tests.loopback import Loopback, Reply, as_json, completion, error

TASKS, ASKED, LONGEST = ("pocket", "pocket-choice"), 12, 3  # questions in all; tokens of an answer: some are cut


THERE = ("--server", "http://localhost:1/v1", "--student-name", "s")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def greedily():
    """The embedded student in four bits: what it answers a prompt greedily, by transformers' own forward, as (text,
    the prompt's ids, the answer's with the end's, whether it ended)."""
    from selfrefine.model.encoding import decode, encode_prompt, end_ids
    from selfrefine.model.student import load_student, load_tokenizer

    student, tokenizer, known = load_student(STUDENT, torch.device("cpu"), torch.float32), load_tokenizer(STUDENT), {}
    student.eval()
    ends = end_ids(student, tokenizer, False)

    @torch.inference_mode()
    def answer(prompt: str) -> tuple[str, list[int], list[int], bool]:
        if prompt not in known:
            ids = encode_prompt(tokenizer, prompt, chat_template=False)
            begin = len(ids)
            while len(ids) < begin + LONGEST and (len(ids) == begin or ids[-1] not in ends):
                ids.append(student(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
            ended = ids[-1] in ends
            known[prompt] = decode(tokenizer, ids[begin : len(ids) - ended]), ids[:begin], ids[begin:], ended
        return known[prompt]

    return answer


@pytest.fixture
def vllm(greedily):
    """A server that gives the student's answers, and their token ids where it is asked for them, as vLLM does."""

    def reply(request):
        text, prompt_ids, ids, ended = greedily(request.prompt)
        choice = {"message": {"content": text}, "finish_reason": "stop" if ended else "length"}
        if request.body.get("return_token_ids"):
            return as_json({"choices": [choice | {"token_ids": ids}], "prompt_token_ids": prompt_ids})
        return as_json({"choices": [choice]})

    return reply


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The scripted teacher's demonstrations of the first questions, the wrong ones too."""
    path = tmp_path_factory.mktemp("taught") / "taught.jsonl"
    line = ["-m", "selfrefine.annotate", "--task", *TASKS, "--teacher", "pocket", "--limit", 6, "--output", path]
    subprocess.run([sys.executable, *map(str, line)], cwd=ROOT, check=True, capture_output=True)
    return path


def annotated(command, url, output, questions, *more) -> int:
    """Both prompts of the demonstrations' questions, asked of the served student."""
    asked = ["--questions", questions, "--prompt", "both", "--server", url, "--teacher", "s", "--output", output]
    return command(annotate, *asked, "--temperature", 0, "--max-new-tokens", LONGEST, *more)


def refined(command, demonstrations, output, *more) -> int:
    flags = ["--student", "pocket", "--demonstrations", demonstrations, "--keep", "all", "--output", output, *COMMON]
    flags += ["--temperature", 0, "--max-new-tokens", LONGEST, "--max-steps", 1, "--validation-fraction", 0]
    return command(train_dpo, *flags, *more)


def rows_of(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_same_answers_served_give_the_same_pairs(command, vllm, taught, tmp_path, capsys):
    """By token ids to the byte; by texts alone but for the ids. The student is right at times, and cut at times."""
    answers = tmp_path / "answers.jsonl"
    with Loopback(vllm) as server:
        assert annotated(command, server.url, answers, taught) == 0
    assert [row["settings"]["prompt"] for row in rows_of(answers)].count("cot") == ASKED
    assert refined(command, taught, tmp_path / "local") == 0
    capsys.readouterr()
    assert refined(command, taught, tmp_path / "served", "--answers", answers) == 0
    told = capsys.readouterr().out
    assert f"{2 * ASKED} of y and ŷ are taken as the tokens that were sampled, 0 as text" in told
    assert "warning" not in told
    local, served = (tmp_path / name / "preferences.jsonl" for name in ("local", "served"))
    assert local.read_bytes() == served.read_bytes()
    pairs = rows_of(local)
    assert {pair["rejected_ended"] for pair in pairs} == {True, False}
    assert {pair["chosen_from"] for pair in pairs} == {"student", "teacher"}

    texts = tmp_path / "texts.jsonl"
    bare = [{name: value for name, value in row.items() if not name.endswith("_ids")} for row in rows_of(answers)]
    texts.write_text("".join(json.dumps(row) + "\n" for row in bare))
    assert refined(command, taught, tmp_path / "texts", "--answers", texts) == 0
    told = capsys.readouterr().out
    assert f"0 of y and ŷ are taken as the tokens that were sampled, {2 * ASKED} as text" in told
    assert "warning" not in told
    assert rows_of(tmp_path / "texts" / "preferences.jsonl") == [
        {name: value for name, value in pair.items() if not name.endswith("_ids")} for pair in pairs
    ]


def test_the_same_answers_served_give_the_same_accuracies(command, vllm, tmp_path, capsys):
    """Results and predictions, to the byte; stopped and started again, only what is missing is asked."""
    local, served = tmp_path / "local.json", tmp_path / "served.json"
    flags = ["--tasks", *TASKS, "--limit", 6, "--seeds", 0, 1, "--temperature", 0, "--max-new-tokens", LONGEST]
    assert command(evaluate, "--student", "pocket", *flags, "--output", local, "--dtype", "float32") == 0
    with Loopback(vllm) as server:
        wired = ["--server", server.url, "--student-name", "sr", *flags, "--output", served]
        assert command(evaluate, *wired) == 0
        assert {request.body["model"] for request in server.requests} == {"sr"}
        assert len({request.body["seed"] for request in server.requests}) == len(server.requests) == 4 * ASKED
        predictions = [path.with_name(f"{path.stem}.predictions.jsonl") for path in (local, served)]
        assert predictions[0].read_bytes() == predictions[1].read_bytes()
        results = [json.loads(path.read_text())["results"] for path in (local, served)]
        assert results[0] == results[1] and 0 < results[0]["pocket"]["cot"]["cut"] < 100
        assert results[0]["pocket-choice"]["cot"]["mean"] > 0
        assert "| sr, x̂ |" in capsys.readouterr().out

        whole = predictions[1].read_bytes()
        predictions[1].write_bytes(b"".join(whole.splitlines(keepends=True)[3:9]) + b'{"task": "to')
        server.requests.clear()
        assert command(evaluate, *wired, "--concurrency", 2) == 0
        assert len(server.requests) == 4 * ASKED - 6 and predictions[1].read_bytes() == whole
    with Loopback(vllm) as elsewhere:  # another address, the same student
        assert command(evaluate, "--server", elsewhere.url, *wired[2:]) == 0
        assert not elsewhere.requests
        other = ["--server", elsewhere.url, "--student-name", "other", *wired[4:]]
        assert command(evaluate, *other) == 2
    assert "student_name was 'sr', is 'other'" in capsys.readouterr().err


def test_a_refused_question_of_an_evaluation_is_told_and_asked_again(command, tmp_path, capsys):
    """No results of fewer questions than were asked; what was answered is kept."""
    number, output = count(), tmp_path / "e.json"
    flags = ["--student-name", "sr", "--tasks", "pocket", "--limit", 4, "--prompts", "cot", "--output", output]
    filtered = error(400, "flagged by moderation")
    with Loopback(lambda request: filtered if next(number) == 2 else completion("It is 5.", "length")) as server:
        assert command(evaluate, "--server", server.url, *flags, "--concurrency", 1) == 1
        assert "1 got no answer, the first is pocket" in capsys.readouterr().err
        assert json.loads(output.read_text())["results"] == {}
        assert command(evaluate, "--server", server.url, *flags) == 0
        assert len(server.requests) == 5
    assert json.loads(output.read_text())["results"]["pocket"]["cot"]["cut"] == 100


def test_a_killed_evaluation_goes_on(command, vllm, tmp_path):
    """kill -9 while the sixth answer is awaited: five are in the file, and three are asked for."""
    output = tmp_path / "e.json"
    flags = ["--student-name", "sr", "--tasks", "pocket", "--limit", 4, "--output", output, "--concurrency", 1]
    with Loopback(lambda request: vllm(request) if len(server.requests) != 6 else Reply(delay=60)) as server:
        line = [sys.executable, "evaluate.py", "--server", server.url, *map(str, flags)]
        running = subprocess.Popen(line, cwd=ROOT)
        until = time.monotonic() + 60
        while len(server.requests) < 6 and time.monotonic() < until:
            time.sleep(0.05)
        running.kill()
        running.wait()
        assert len(rows_of(tmp_path / "e.predictions.jsonl")) == 5
        assert command(evaluate, "--server", server.url, *flags) == 0
        assert len(server.requests) == 6 + 3
    assert json.loads(output.read_text())["results"]["pocket"]["cot"]["questions"] == 4


def test_a_served_evaluation_loads_no_torch(vllm, tmp_path):
    code = (
        "import sys, runpy\n"
        "try: runpy.run_path('evaluate.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    flags = ["--student-name", "sr", "--tasks", "pocket", "--limit", "1", "--output", str(tmp_path / "e.json")]
    with Loopback(vllm) as server:
        subprocess.run([sys.executable, "-c", code, "--server", server.url, *flags], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "give --student, a model on this machine, or --server URL and --student-name NAME"),
        (["--student", "pocket", "--student-name", "s"], "or --server URL and --student-name NAME"),
        ([*THERE[:2]], "or --server URL and --student-name NAME"),
        (["--server", "h:80", "--student-name", "s"], "give an address such as"),
        (
            [*THERE, "--method", "probe"],
            "give --student in place of --server",
        ),
        ([*THERE, "--student", "pocket"], "give --student, a model on this machine, or"),
        (
            [*THERE, "--adapter", "runs/it"],
            "--adapter is the server's to choose",
        ),
        ([*THERE, "--top-k", "5"], "--top-k is the server's to choose"),
        ([*THERE, "--chat-template", "none"], "--chat-template is the server's"),
    ],
)
def test_flags_of_an_evaluation_that_contradict_are_one_sentence(command, tmp_path, capsys, flags, said):
    assert command(evaluate, "--tasks", "pocket", "--limit", 1, "--output", tmp_path / "e.json", *flags) == 2
    told = capsys.readouterr().err.strip()
    assert said in told and "\n" not in told


def test_both_prompts_in_one_file(command, tmp_path, capsys):
    """x and x̂ of each question, keyed apart, each graded; a file of one prompt, as it was before, goes on as both."""
    output = tmp_path / "a.jsonl"
    common = ["--task", "pocket", "--limit", 5, "--teacher", "pocket", "--output", output]
    assert command(annotate, *common) == 0
    before = output.read_bytes()
    assert command(annotate, *common, "--prompt", "both") == 0
    assert output.read_bytes().startswith(before)
    told = capsys.readouterr().out
    assert "has 5 of 10 answers" in told and "standard prompt (Table 5)" in told and "cot prompt (Table 5)" in told
    assert [row["input"].endswith("Answer:") for row in rows_of(output)] == [False] * 5 + [True] * 5
    assert command(annotate, *common, "--prompt", "both") == 0
    assert len(rows_of(output)) == 10
    asked_again = ["--questions", output, "--teacher", "pocket", "--prompt", "both", "--output", tmp_path / "y.jsonl"]
    assert command(annotate, *asked_again) == 0
    inputs = [sorted(row["input"] for row in rows_of(path)) for path in (output, tmp_path / "y.jsonl")]
    assert inputs[0] == inputs[1]
    assert command(annotate, *common) == 2
    assert "prompt standard (now cot)" in capsys.readouterr().err
    assert command(annotate, "--task", "pocket", "--from", output, "--prompt", "both", "--output", tmp_path / "b") == 2
    assert "say with --prompt to which" in capsys.readouterr().err


def test_token_ids_are_asked_for_with_both_prompts_only_and_a_server_may_have_none(command, tmp_path, capfd):
    """A refusal of the field is learned once; what is no list of ids is left out."""

    def reply(request):
        if "return_token_ids" in request.body:
            return error(400, "Unrecognized request argument supplied: return_token_ids")
        return as_json({"choices": [{"message": {"content": "5"}, "finish_reason": "stop", "token_ids": [1, "x"]}]})

    flags = ["--task", "pocket", "--limit", 3, "--teacher", "m", "--concurrency", 1]
    with Loopback(reply) as server:
        both = [*flags, "--server", server.url, "--prompt", "both", "--output", tmp_path / "both.jsonl"]
        assert command(annotate, *both) == 0
        assert (
            len(server.requests) == 7
            and "takes no return_token_ids: answers are kept as texts" in capfd.readouterr().err
        )
        assert command(annotate, *flags, "--server", server.url, "--output", tmp_path / "cot.jsonl") == 0
        assert len(server.requests) == 10
    assert not any("output_ids" in row for row in rows_of(tmp_path / "both.jsonl"))


def test_answers_that_lack_or_do_not_fit_are_one_sentence(command, vllm, taught, tmp_path, capsys):
    answers = tmp_path / "answers.jsonl"
    with Loopback(vllm) as server:
        assert annotated(command, server.url, answers, taught) == 0
    order = [row["id"] for row in rows_of(taught)]  # the server's answers come in any
    whole = sorted(rows_of(answers), key=lambda row: order.index(row["id"]))

    def given(rows, *more) -> str:
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert refined(command, taught, tmp_path / "run", "--answers", answers, "--dry-run", *more) == 2
        return capsys.readouterr().err

    answers.write_text("".join(json.dumps(row | {"prompt_ids": row["prompt_ids"][1:]}) + "\n" for row in whole))
    assert refined(command, taught, tmp_path / "run", "--answers", answers, "--dry-run") == 0
    told = capsys.readouterr().out
    assert f"warning: {2 * ASKED} of their prompts were other tokens there" in told and "not used" not in told
    others = tmp_path / "others.jsonl"
    others.write_text(json.dumps(whole[0]) + "\n" + json.dumps(whole[0] | {"id": "not asked"}) + "\n")
    assert refined(command, taught, tmp_path / "run", "--answers", answers, others, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "--answers by s:" in told and "warning: 1 more answers to these questions are not used" in told
    first = whole[0]["id"]
    assert f"1 of {ASKED} questions left out (pocket {first} lacks answers)" in given(whole[1:])
    assert f"{ASKED} of {ASKED} questions left out (pocket {first} lacks answers;" in given(
        whole, "--answers-per-prompt", 2
    )
    assert "annotate --prompt both" in given(whole[1:])
    changed = whole[0] | {"instruction": "Answer."}
    assert f"line 1 answers another question than --demonstrations' pocket {first}" in given([changed])
    assert "line 1: output_ids must be a list of token ids" in given([whole[0] | {"output_ids": ["x"]}])
    assert "has no 'output'" in given([{name: value for name, value in whole[0].items() if name != "output"}])


def test_few_that_lack_are_left_out_and_said(command, vllm, taught, tmp_path, capsys):
    answers = tmp_path / "answers.jsonl"
    with Loopback(vllm) as server:
        assert annotated(command, server.url, answers, taught) == 0
    rows = rows_of(answers)
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    assert refined(command, taught, tmp_path / "run", "--answers", answers, "--max-dropped", 0.2) == 0
    said = capsys.readouterr().out
    assert f"warning: 1 of {ASKED} questions left out" in said
    assert f": {2 * ASKED - 2} of y and ŷ are taken as the tokens that were sampled, 0 as text" in said
    assert rows[0]["id"] not in {pair["id"] for pair in rows_of(tmp_path / "run" / "preferences.jsonl")}
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows[2:]))
    assert refined(command, taught, tmp_path / "run", "--answers", answers, "--max-dropped", 0.2, "--resume") == 2
    assert "the rows of --demonstrations, --answers or --preferences changed" in capsys.readouterr().err


def test_the_kth_row_of_a_question_is_its_kth_answer(tmp_path):
    """Three files, three samples a prompt; ids of another tokenizer, or of another text, are not taken."""
    from selfrefine.model.encoding import encode_response
    from selfrefine.model.student import load_tokenizer
    from selfrefine.preferences import given_answers
    from selfrefine.records import Demonstration, write_records

    tokenizer = load_tokenizer(STUDENT)
    row = {"instruction": "", "output": "5", "target": "5", "task": "t", "id": "q"}
    x, x_cot = ({"input": f"Question: 2 + 3?\nAnswer:{ending}"} for ending in ("", " Let's think step by step"))
    four = tuple(encode_response(tokenizer, "4"))
    kinds = [
        [{**x, "output": " 4", "output_ids": (*four, tokenizer.eos_token_id)}, {**x_cot, "output_ids": four}],
        [{**x, "output": "4", "output_ids": (*four, len(tokenizer))}, {**x_cot, "output_ids": (9, 9), "ended": False}],
    ]
    kinds[0].append({**x, "id": "another question"})
    spaced = tuple(encode_response(tokenizer, " 4"))  # some servers leave out the space that an answer begins with
    kinds.append([{**x, "output": "4", "output_ids": spaced}, {**x_cot}])
    for number, rows in enumerate(kinds):
        write_records(tmp_path / f"{number}.jsonl", [Demonstration(**row | changes) for changes in rows])
    files = [tmp_path / f"{number}.jsonl" for number in range(3)]
    flags = SimpleNamespace(answers=files, answers_per_prompt=3, max_dropped=0.0)
    kept, answers = given_answers([Demonstration(**row | x_cot)], flags, tokenizer, False)
    assert len(kept) == 1 and {key[2:]: (a.text, a.ids, a.ended) for key, a in answers.items()} == {
        ("standard",): ("4", four, True),
        ("standard", 1): ("4", None, True),
        ("cot",): ("5", None, True),
        ("cot", 1): ("5", None, False),
        ("standard", 2): (" 4", spaced, True),
        ("cot", 2): ("5", None, True),
    }
    flags.answers_per_prompt = 1
    assert [key[2:] for key in given_answers([Demonstration(**row | x_cot)], flags, tokenizer, False)[1]] == [
        ("standard",),
        ("cot",),
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--preferences", "p.jsonl", "--answers", "a.jsonl"], "--preferences has its answers already"),
        (["--demonstrations", "d.jsonl", "--answers", "a.jsonl", "--top-p", "0.5"], "--answers were sampled elsewhere"),
    ],
)
def test_flags_that_contradict_answers(command, tmp_path, capsys, flags, said):
    assert command(train_dpo, "--student", "pocket", "--output", tmp_path / "run", *flags) == 2
    assert said in capsys.readouterr().err


def test_two_processes_do_not_ask_one_server(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "ranks", SimpleNamespace(COUNT=2))
    assert command(evaluate, "--tasks", "pocket", "--output", tmp_path / "e.json", *THERE) == 2
    assert "start --server without it" in capsys.readouterr().err
