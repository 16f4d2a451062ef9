"""Annotation: the demonstrations' content, and that no answer is lost, doubled or half written, whatever happens."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfrefine import annotate
from selfrefine.errors import UserError
from selfrefine.records import read_demonstrations
from selfrefine.tasks.splits import questions
from selfrefine.teachers.journal import appending
from tests.conftest import write_student
from tests.loopback import Loopback, Reply, as_json, completion, error

KEY = "sk-loopback-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def rows_of(path: Path) -> list[dict]:
    """Every line of a file, each of which must be whole."""
    content = path.read_bytes()
    assert not content or content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


def scripted(output: Path, *more) -> list:
    return ["--task", "pocket", "--teacher", "pocket", "--limit", 30, "--output", output, *more]


def served(output: Path, url: str, *more) -> list:
    return ["--task", "pocket", "--limit", 30, "--server", url, "--teacher", "m", "--output", output, *more]


# What is written


@pytest.mark.parametrize("prompt", ["cot", "standard"])
def test_a_demonstration_is_the_triple_and_where_it_came_from(command, tmp_path, prompt):
    """Table 6's triple: with the trigger for cot (Table 3), without for standard (Table 2)."""
    output = tmp_path / "deep" / "a.jsonl"
    assert command(annotate, *scripted(output, "--prompt", prompt)) == 0
    for row, question in zip(rows_of(output), questions("pocket", "train", 0), strict=False):
        trigger = " Let's think step by step" if prompt == "cot" else ""
        assert row["instruction"] == "Answer the following mathematical question with numerical solution."
        assert row["input"] == f"Question: {question.question}\nAnswer:{trigger}"
        assert (row["task"], row["id"], row["target"], row["teacher"]) == (
            "pocket",
            question.id,
            question.target,
            "pocket",
        )
        assert row["correct"] == (row["read"] == question.target)
        assert row["output"].endswith(row["read"] + ("." if prompt == "cot" else ""))
    kept = read_demonstrations([output])
    assert len(kept) == 30
    assert 0 < sum(not row.correct for row in kept) < 15  # annotation keeps the wrong ones too


def test_the_accuracy_of_table_5(command, tmp_path, capfd, benchmarks):
    """A teacher that always says B is as accurate as B is frequent, per task; what cannot be read is counted."""
    output = tmp_path / "a.jsonl"
    tasks = ("obqa", "csqa")
    with Loopback(
        lambda request: completion("The answer is B." if "triangle" not in request.prompt else "Hm.")
    ) as server:
        arguments = ["--task", *tasks, "--split", "test", "--data", benchmarks, "--limit", 200, "--concurrency", 32]
        assert command(annotate, *arguments, "--server", server.url, "--teacher", "m", "--output", output) == 0
    printed = capfd.readouterr().out
    for task in tasks:
        asked = questions(task, "test", 0, benchmarks)[:200]
        right = sum(q.target == "B" and "triangle" not in request_text(q) for q in asked)
        unread = sum("triangle" in request_text(q) for q in asked)
        assert f"{task:<16}{100 * right / 200:>9.1f}{right:>8}{200:>9}{unread:>10}" in printed


def request_text(question) -> str:
    return " ".join([question.question, *question.options])


def test_temperatures_of_c2():
    assert annotate.default_temperature("gpt-3.5-turbo") == 0.7
    assert annotate.default_temperature("gpt-35-turbo") == 0.7  # Azure's spelling
    assert annotate.default_temperature("meta-llama/Llama-2-70b-chat-hf") == 0.1


def test_c2s_temperature_is_what_the_server_gets(command, tmp_path):
    with Loopback(lambda request: completion("5")) as server:
        command(annotate, *served(tmp_path / "a.jsonl", server.url)[:-4], "--teacher", "gpt-3.5-turbo-0125",
                "--output", tmp_path / "a.jsonl")  # fmt: skip
    assert {request.body["temperature"] for request in server.requests} == {0.7}
    assert {request.body["model"] for request in server.requests} == {"gpt-3.5-turbo-0125"}


def test_the_scripted_teacher_needs_neither_torch_nor_a_client(tmp_path):
    """The quickstart starts it many times: importing torch would cost it seconds each."""
    code = (
        "import sys, runpy; sys.argv[1:] = sys.argv[1:]\n"
        "try: runpy.run_module('selfrefine.annotate', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'datasets', 'huggingface_hub', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} imported' if heavy else 0)"
    )
    arguments = [str(argument) for argument in scripted(tmp_path / "a.jsonl")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60)


# What is there is kept


def test_what_is_there_is_not_asked_again(command, tmp_path):
    output = tmp_path / "a.jsonl"
    with Loopback(lambda request: completion(request.prompt[-60:])) as server:
        assert command(annotate, *served(output, server.url)) == 0
        whole = {row["id"]: row for row in rows_of(output)}
        output.write_bytes(b"".join(output.read_bytes().splitlines(keepends=True)[:12]))
        server.requests.clear()
        assert command(annotate, *served(output, server.url)) == 0
        assert len(server.requests) == 18
        assert {row["id"]: row for row in rows_of(output)} == whole
        assert command(annotate, *served(output, server.url)) == 0
        assert len(server.requests) == 18


def test_half_a_last_line_is_mended_loudly(command, tmp_path, capfd):
    output = tmp_path / "a.jsonl"
    command(annotate, *scripted(output))
    whole = output.read_bytes()
    output.write_bytes(whole[:-40])
    assert command(annotate, *scripted(output)) == 0
    assert "half a line" in capfd.readouterr().err
    assert output.read_bytes() == whole
    output.write_bytes(whole[:-1])  # a whole line that lacks only its newline is kept
    assert command(annotate, *scripted(output)) == 0
    assert "half a line" not in capfd.readouterr().err
    assert output.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(command, tmp_path, capfd):
    output = tmp_path / "a.jsonl"
    command(annotate, *scripted(output))
    lines = output.read_bytes().split(b"\n")
    lines[4] = lines[4][:50]
    output.write_bytes(b"\n".join(lines))
    assert command(annotate, *scripted(output)) == 2
    assert f"{output} line 5 is not JSON" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--prompt", "standard"], "prompt cot (now standard)"),
        (["--seed", 1], "seed 0 (now 1)"),
        (["--split", "test"], "split train (now test)"),
        (["--temperature", 0.5], "temperature 0.1 (now 0.5)"),
        (["--max-new-tokens", 9], "max_new_tokens 512 (now 9)"),
        (["--extra-body", '{"top_p": 0.9}'], "extra_body None (now {'top_p': 0.9})"),
        (["--teacher", "n"], "teacher m (now n)"),
    ],
)
def test_settings_that_contradict_the_file_are_refused(command, tmp_path, capfd, change, says):
    output = tmp_path / "a.jsonl"
    with Loopback(lambda request: completion("5")) as server:
        command(annotate, *served(output, server.url))
        before = output.read_bytes()
        assert command(annotate, *served(output, server.url, *change)) == 2
    assert says in capfd.readouterr().err
    assert output.read_bytes() == before
    assert len(server.requests) == 30


def test_a_larger_budget_asks_the_cut_answers_again_and_no_others(command, tmp_path, capfd):
    """Six of thirty are cut at 512 tokens; with 2048 the server dies after two of them; the third start asks four.

    No answer is lost or paid twice meanwhile, and in the end each question has one line.
    """
    output = tmp_path / "a.jsonl"

    def answer(request):
        if request.body["max_tokens"] == 512:
            return completion("So", "length") if len(server.requests) <= 6 else completion("It is 5.")
        return error(402, "empty") if len(server.requests) == 33 else completion("It is 6.")

    with Loopback(answer) as server:
        assert command(annotate, *served(output, server.url, "--concurrency", 1)) == 0
        assert "6 answers were cut at 512 tokens: the same command with a larger" in capfd.readouterr().out
        assert command(annotate, *served(output, server.url, "--concurrency", 1)) == 0
        assert len(server.requests) == 30
        larger = served(output, server.url, "--concurrency", 1, "--max-new-tokens", 2048)
        assert command(annotate, *larger, "--dry-run") == 0
        assert "requests       6\n" in capfd.readouterr().out
        assert command(annotate, *larger) == 1
        assert sorted(row["output"] for row in rows_of(output)) == ["It is 5."] * 24 + ["It is 6."] * 2 + ["So"] * 4
        assert command(annotate, *larger) == 0
        assert len(server.requests) == 30 + 3 + 4
        assert "cut at" not in capfd.readouterr().out
        assert command(annotate, *served(output, server.url)) == 2  # not back to 512
    rows = rows_of(output)
    assert len({row["id"] for row in rows}) == len(rows) == 30
    assert {(row["output"], row["settings"]["max_new_tokens"]) for row in rows} == {
        ("It is 5.", 512),
        ("It is 6.", 2048),
    }


def test_a_killed_larger_budget_leaves_lines_that_the_next_start_takes(command, tmp_path):
    """kill -9 after an answer took a cut one's place: both lines are there, the later one counts."""
    output = tmp_path / "a.jsonl"
    with Loopback(lambda request: completion("So", "length")) as server:
        command(annotate, *served(output, server.url, "--limit", 1))
    cut = rows_of(output)[0]
    whole = cut | {"output": "It is 5.", "ended": True, "settings": cut["settings"] | {"max_new_tokens": 2048}}
    output.write_text("".join(json.dumps(row) + "\n" for row in (cut, whole)))
    with Loopback(lambda request: completion("It is 6.")) as server:
        assert command(annotate, *served(output, server.url, "--limit", 1, "--max-new-tokens", 2048)) == 0
        assert server.requests == []
    assert rows_of(output) == [whole]


def test_extra_fields_go_to_the_server_and_into_the_file(command, tmp_path, capfd):
    output = tmp_path / "a.jsonl"
    with Loopback(lambda request: completion("5")) as server:
        assert command(annotate, *served(output, server.url, "--extra-body", '{"top_p": 0.9}')) == 0
        for wrong, says in (
            ("top_p=0.9", "no JSON object"),
            ("[1]", "no JSON object"),
            ('{"n": 2}', "n cannot be given"),
        ):
            assert command(annotate, *served(output, server.url, "--extra-body", wrong)) == 2
            assert says in capfd.readouterr().err
    assert {request.body["top_p"] for request in server.requests} == {0.9}
    assert rows_of(output)[0]["settings"]["extra_body"] == {"top_p": 0.9}


def test_another_question_under_the_same_id_is_refused(command, tmp_path, capfd):
    output = tmp_path / "a.jsonl"
    command(annotate, *scripted(output))
    output.write_text(output.read_text().replace("How many", "How few", 1))
    assert command(annotate, *scripted(output)) == 2
    assert "is another question there" in capfd.readouterr().err


def test_a_second_annotator_says_so_and_stops(command, tmp_path, capfd):
    """The lock is its holder's: it goes with it, however it ends."""
    output = tmp_path / "a.jsonl"
    with Loopback(lambda request: Reply(completion("5").body, delay=30)) as server:
        first = start(served(output, server.url))
        wait_until(lambda: server.requests)
        assert command(annotate, *scripted(output)) == 2
        assert "another process is writing there" in capfd.readouterr().err
        first.kill()
        first.wait()
    assert command(annotate, *scripted(output)) == 0


@pytest.mark.parametrize("content", ["my first line\nmy last line, no newline", "the answer\n42"])
def test_a_file_of_something_else_is_left_as_it_is(command, tmp_path, capfd, content):
    file = tmp_path / "notes.txt"
    file.write_text(content)
    flags = ["--task", "pocket", "--teacher", "pocket", "--limit", 2, "--output", file]
    assert command(annotate, *flags) == 2
    assert "was not written by this command" in capfd.readouterr().err
    assert file.read_text() == content


def test_a_full_disk_leaves_whole_lines(tmp_path):
    """A limit on the file's size cuts a write in the middle, as a full disk does."""
    output = tmp_path / "a.jsonl"
    limit = 5000

    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    stopped = start(scripted(output), preexec_fn=small_disk)
    _, said = stopped.communicate(timeout=60)
    assert stopped.returncode == 1
    assert f"{output}: " in said
    assert "Traceback" not in said
    assert limit - 1000 < output.stat().st_size <= limit
    assert 0 < len(rows_of(output)) < 30
    finished = start(scripted(output))
    finished.communicate(timeout=60)
    assert len(rows_of(output)) == 30


def test_a_question_that_gets_no_answer_is_reported_and_asked_again(command, tmp_path, capfd):
    output = tmp_path / "a.jsonl"
    refusals = iter([True])
    with Loopback(
        lambda request: (
            error(400, "filtered") if len(server.requests) == 9 and next(refusals, False) else completion("5")
        )
    ) as server:
        assert command(annotate, *served(output, server.url, "--concurrency", 1)) == 1
        said = capfd.readouterr()
        assert "1 got no answer" in said.err
        assert "filtered" in said.err
        assert "accuracy" in said.out
        assert len(rows_of(output)) == 29
        assert command(annotate, *served(output, server.url)) == 0
    assert len(rows_of(output)) == 30


@pytest.mark.long
def test_faults_and_kills_at_random_moments(tmp_path):
    """200 questions, a server that fails in every way and is away for a while, kill -9 again and again.

    The file is read while the writer stands still (SIGSTOP) and after each kill: every line is whole each time. In the
    end there are 200 distinct answers.
    """
    rng, output = random.Random(0), tmp_path / "a.jsonl"
    faults = [
        error(429, "slow down"),
        error(429, "slow down", retry_after="0.3"),
        error(500, "oops"),
        Reply(completion("cut").body, cut=20),
        Reply(b"{", 200),
        as_json({"choices": []}),
        Reply(completion("late").body, delay=2),
    ]

    def answer(request):
        text = completion(request.prompt * rng.randrange(1, 40))  # lines of several pages: long writes to interrupt
        return rng.choice(faults) if rng.random() < 0.3 else Reply(text.body, delay=rng.random() / 2)

    kills = instants = port = 0
    done = False
    for round_of_kills in range(10):  # with a server that goes away after each, and comes back on the same port
        with Loopback(answer, port=port) as server:
            port = server.port
            arguments = served(output, server.url, "--limit", 200, "--concurrency", 8, "--timeout", 1)
            while not done and kills < 3 * (round_of_kills + 1):
                running = start(arguments)
                instants += watch(running, output, rng.uniform(0.5, 3))
                done = running.poll() == 0
                running.kill()
                running.communicate()
                kills += not done
                rows_of(output)
        if done:
            break
        gone = start(arguments)  # it is refused for a while, and goes on by itself
        time.sleep(1.5)
        with Loopback(answer, port=port):
            instants += watch(gone, output, rng.uniform(1, 3))
            done = gone.poll() == 0
            gone.kill()
            gone.communicate()
            kills += not done
    assert done
    assert kills >= 5
    assert instants >= 50
    ids = [row["id"] for row in rows_of(output)]
    assert len(ids) == len(set(ids)) == 200


def watch(running: subprocess.Popen, output: Path, seconds: float) -> int:
    """Stop the writer at random moments to find whole lines in its file; gives how often."""
    instants, until = 0, time.monotonic() + seconds
    while time.monotonic() < until and running.poll() is None:
        time.sleep(random.random() / 10)
        running.send_signal(signal.SIGSTOP)
        if running.returncode is None:
            os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        instants += output.exists() and len(rows_of(output)) > 0
        running.send_signal(signal.SIGCONT)
    return instants


@pytest.mark.long
def test_throughput_at_200_ms(tmp_path):
    """64 in flight and 200 ms of latency allow 320 answers a second: the whole command reaches 0.85 of that."""
    output = tmp_path / "a.jsonl"
    reply = Reply(completion("First, 5 + 5 = 10. Then, 10 + 5 = 15. The answer is 15.").body, delay=0.2)
    rows = [{"question": f"What is {n} + 1?", "target": str(n + 1)} for n in range(64 * 20)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Loopback(lambda request: reply) as server:
        arguments = ["--questions", tmp_path / "questions.jsonl", "--server", server.url, "--teacher", "m"]
        finished = start([*arguments, "--output", output, "--concurrency", 64])
        finished.communicate(timeout=60)
    assert finished.returncode == 0
    seconds = server.finished[-1] - server.requests[0].at
    assert len(rows_of(output)) == len(rows)
    assert 20 * 0.2 / seconds >= 0.85, f"{20 * 0.2 / seconds:.2f}"


def start(arguments: list, **how) -> subprocess.Popen:
    """Annotate in a process of its own."""
    line = [sys.executable, "-m", "selfrefine.annotate", *map(str, arguments)]
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(line, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def wait_until(holds) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


# The teachers


def test_dry_run_counts_what_is_missing_and_asks_nothing(command, tmp_path, capfd):
    """30 questions at 2 and 8 a million tokens: 30 * 100 answer tokens cost 30 * 100 * 8 / 1e6."""
    output = tmp_path / "a.jsonl"
    with Loopback(lambda request: completion("5")) as server:
        plan = ["--dry-run", "--max-new-tokens", 100, "--price-in", 2, "--price-out", 8000]
        assert command(annotate, *served(output, server.url, *plan)) == 0
        assert not server.requests
        assert not output.exists()
        printed = capfd.readouterr().out
        assert "requests       30\n" in printed
        assert "at most 3000 " in printed
        assert "at most 24.00 for the answers" in printed
        command(annotate, *served(output, server.url, "--limit", 10, "--max-new-tokens", 100))
        capfd.readouterr()
        command(annotate, *served(output, server.url, *plan))
    assert "requests       20\n" in capfd.readouterr().out


def test_the_wire_changes_nothing(command, tmp_path, student_folder):
    """The same model on this machine and behind a server gives the same greedy answers, character by character."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(student_folder, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(student_folder)

    def generate(request):
        ids = tokenizer(request.prompt, return_tensors="pt")
        drawn = model.generate(**ids, do_sample=False, max_new_tokens=request.body["max_tokens"], pad_token_id=0)
        new = drawn[0, ids.input_ids.shape[1] :]
        return completion(tokenizer.decode(new, skip_special_tokens=True), "stop" if new[-1] == 2 else "length")

    common = ["--task", "pocket", "--limit", 6, "--temperature", 0, "--max-new-tokens", 12]
    with Loopback(generate) as server:
        wired = ["--server", server.url, "--teacher", "m", "--output", tmp_path / "wired.jsonl"]
        assert command(annotate, *common, *wired) == 0
    local = ["--teacher", student_folder, "--batch-size", 1, "--output", tmp_path / "local.jsonl"]
    assert command(annotate, *common, *local, "--device", "cpu") == 0
    wired, local = ({row["id"]: row for row in rows_of(tmp_path / f"{name}.jsonl")} for name in ("wired", "local"))
    assert {id: (row["output"], row["ended"]) for id, row in wired.items()} == {
        id: (row["output"], row["ended"]) for id, row in local.items()
    }


def test_a_local_teacher_draws_by_seed_and_question(command, tmp_path, student_folder):
    """In NF4, as the student is sampled: asked at once or in two goes, a question gets the same answer."""
    common = [
        "--task",
        "pocket",
        "--temperature",
        1,
        "--max-new-tokens",
        8,
        "--teacher",
        student_folder,
        "--weights",
        "nf4",
    ]
    common += ["--device", "cpu", "--dtype", "float32"]
    command(annotate, *common, "--limit", 6, "--output", tmp_path / "one.jsonl")
    command(annotate, *common, "--limit", 2, "--output", tmp_path / "two.jsonl")
    command(annotate, *common, "--limit", 6, "--output", tmp_path / "two.jsonl")
    command(annotate, *common, "--limit", 6, "--output", tmp_path / "other.jsonl", "--seed", 1)
    one, two, other = (
        {row["question"]: row["output"] for row in rows_of(tmp_path / f"{name}.jsonl")}
        for name in ("one", "two", "other")
    )
    assert one == two
    greedy, first = (tmp_path / f"{name}.jsonl" for name in ("greedy", "first"))
    command(annotate, *common, "--limit", 6, "--output", greedy, "--temperature", 0)
    command(annotate, *common, "--limit", 6, "--output", first, "--top-k", 1)
    assert [row["output"] for row in rows_of(first)] == [row["output"] for row in rows_of(greedy)]
    assert command(annotate, *common, "--limit", 6, "--output", first, "--top-k", 2) == 2
    before = [
        {**row, "settings": {k: v for k, v in row["settings"].items() if "top" not in k}} for row in rows_of(first)
    ]
    first.write_text("".join(json.dumps(row) + "\n" for row in before))  # as it was written before there were these
    assert command(annotate, *common, "--limit", 6, "--output", first) == 2
    assert command(annotate, *common, "--limit", 7, "--output", first, "--top-k", 0, "--top-p", 1) == 0
    assert len(set(one.values())) == 6
    assert not set(one.values()) & set(other.values())


def test_a_stopped_local_teacher_goes_on_in_the_same_batches(command, tmp_path, student_folder, monkeypatch):
    """All prompts are given, with those that are done; an answer that comes again is not written twice."""
    from selfrefine.teachers import local

    given, original = [], local.sample
    monkeypatch.setattr(
        local,
        "sample",
        lambda _, prompts, *rest, **how: (given.append((prompts, how["done"])), original(_, prompts, *rest, **how))[1],
    )
    output = tmp_path / "answers.jsonl"
    how = ["--task", "pocket", "--limit", 6, "--temperature", 1, "--max-new-tokens", 8, "--teacher", student_folder]
    assert command(annotate, *how, "--output", output, "--device", "cpu") == 0
    straight = output.read_text().splitlines(keepends=True)
    output.write_text("".join(straight[:4]))
    assert command(annotate, *how, "--output", output, "--device", "cpu") == 0
    assert output.read_text().splitlines(keepends=True) == straight
    (before, nothing), (after, done) = given
    assert after == before and not nothing and len(done) == 4


def test_a_model_whose_logits_are_scaled_is_refused(command, tmp_path, capfd):
    """Gemma 2 caps its logits: the student's sampling would draw from other probabilities."""
    folder = write_student(tmp_path / "gemma", "gemma2", head_dim=32)
    arguments = [
        "--task",
        "pocket",
        "--limit",
        2,
        "--teacher",
        folder,
        "--output",
        tmp_path / "a.jsonl",
        "--device",
        "cpu",
    ]
    assert command(annotate, *arguments) == 2
    assert "--server" in capfd.readouterr().err


def test_a_prompt_longer_than_the_teachers_context_is_reported(command, tmp_path, capfd, student_folder):
    """The long question is named and left out, the short one is answered, cut where the context of 512 ends."""
    rows = [{"question": "long " * 200, "target": "1", "id": "l"}, {"question": "1+1?", "target": "2", "id": "s"}]
    own, output = tmp_path / "own.jsonl", tmp_path / "a.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["--questions", own, "--teacher", student_folder, "--output", output, "--device", "cpu"]
    assert command(annotate, *arguments, "--max-new-tokens", 500) == 1
    assert "fill the teacher's context of 512" in capfd.readouterr().err
    assert [json.loads(line)["id"] for line in output.read_text().split("\n") if line] == ["s"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--server", "localhost:8000"], "give an address such as"),
        (["--server", "http://:x"], "give an address such as"),
        (["--server", "http://localhost:8000", "--top-k", "5"], "--top-k and --top-p are a local teacher's"),
        (["--server", "https://user:secret@host/v1"], "OPENAI_API_KEY"),
        (["--teacher", "pocket", "--task", "obqa"], "pocket"),
        (["--task", "nothing"], "nothing"),
    ],
)
def test_bad_input_gets_a_sentence(command, tmp_path, capfd, arguments, says, benchmarks):
    common = ["--task", "pocket", "--teacher", "m", "--data", benchmarks, "--output", tmp_path / "a.jsonl"]
    assert command(annotate, *common, *arguments) == 2
    said = capfd.readouterr().err
    assert says in said
    assert "secret" not in said


def test_the_key_is_in_no_file_and_no_message(command, tmp_path, capfd, monkeypatch):
    """A server that echoes the key in its errors, and a whole run; everything written and printed is searched."""
    monkeypatch.chdir(tmp_path)
    with Loopback(lambda request: completion("5")) as server:
        assert command(annotate, *served(tmp_path / "a.jsonl", server.url)) == 0
        assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    with Loopback(lambda request: error(401, f"Incorrect API key provided: {KEY}")) as server:
        assert command(annotate, *served(tmp_path / "b.jsonl", server.url)) == 2
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b'"teacher": "m"' in written
    assert KEY.encode() not in written
    assert KEY not in "".join(capfd.readouterr())


def test_the_journal_appends_to_what_another_wrote_before(tmp_path):
    """One write per line, at the end: also after a line from outside."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    with appending(path, lambda: {("a",): {"a": 1}}) as (_, append):
        append(("b",), {"b": "\u2028"})
        with pytest.raises(UserError, match="another process"), appending(path, dict):
            pass
    assert rows_of(path) == [{"a": 1}, {"b": "\u2028"}]
