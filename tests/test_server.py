"""The server teacher against a loopback server that misbehaves: what is asked again, what stops, what stays unseen."""

import asyncio
import email.utils
import random
import socket
import threading
import time
from dataclasses import replace

import pytest

from selfrefine.errors import RunError, UserError
from selfrefine.teachers import Answer, Refusal, server
from tests.loopback import Loopback, Reply, as_json, completion, error

KEY = "sk-loopback-0123456789"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Offline, a token of the Hub's that must not leave, no key, no proxy, and hardly any back-off."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_hub")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(server, "_LONGEST_WAIT", 0.3)


def ask(url: str, count: int = 1, **changes) -> dict:
    """What the server teacher gives to `count` questions: {index: answer}."""
    settings = {"model": "m", "temperature": 0.1, "max_new_tokens": 7, "seed": 0}
    settings |= {"concurrency": 4, "timeout": 5, "patience": 10} | changes
    prompts = {("task", str(index)): f"question {index}" for index in range(count)}
    return {int(key[1]): answer for key, answer in server.answers(prompts, url=url, **settings)}


def in_turn(*replies):
    """A server that gives these replies one after the other, the last one for ever."""
    left = list(replies)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_the_request_is_openais(monkeypatch):
    """One user's turn to /v1/chat/completions, with the settings, a seed of 31 bits, and the key as a bearer."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")  # as `export OPENAI_API_KEY=$(cat file)` may leave it
    with Loopback(lambda request: completion("5")) as loopback:
        assert ask(loopback.url) == {0: Answer("5", ended=True)}
    (request,) = loopback.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    seed = request.body.pop("seed")
    assert 0 <= seed < 2**31
    assert request.body == {
        "model": "m",
        "messages": [{"role": "user", "content": "question 0"}],
        "temperature": 0.1,
        "max_tokens": 7,
        "stream": False,
    }


@pytest.mark.parametrize(
    ("path", "base"),
    [
        *[("", "/v1"), ("/", "/v1"), ("/v1", "/v1"), ("/v1/", "/v1"), ("/v1/chat/completions", "/v1")],
        *[(path, path.rstrip("/")) for path in ("/v1beta/openai/", "/api/paas/v4", "/api/v3", "/inference", "/openai")],
    ],
)
def test_the_address_is_the_vendors_base_url(path, base):
    """Below what the vendor's page calls the base URL; only a bare host's is /v1."""
    with Loopback(lambda request: completion("5")) as loopback:
        ask(f"http://127.0.0.1:{loopback.port}{path}")
    assert loopback.requests[0].path == f"{base}/chat/completions"


def test_seeds_differ_by_question_and_run_and_are_the_same_again():
    with Loopback(lambda request: completion("5")) as loopback:
        ask(loopback.url, 20), ask(loopback.url, 20), ask(loopback.url, 20, seed=1)
    seeds = [(request.prompt, request.body["seed"]) for request in loopback.requests]
    assert sorted(seeds[:20]) == sorted(seeds[20:40])
    assert len({seed for _, seed in seeds}) == 40


def test_without_a_key_the_hubs_token_stays_here():
    with Loopback(lambda request: completion("5")) as loopback:
        ask(loopback.url)
    assert "hf_of_the_hub" not in str(loopback.requests[0].headers)


@pytest.mark.parametrize(
    ("finish", "ended"),
    [
        *[("stop", True), ("STOP", True), ("eos_token", True), (None, True), ("length", False), ("MAX_TOKENS", False)],
        ("repetition", False),  # whatever it is, the answer is trained without an end
    ],
)
def test_only_what_the_model_ended_itself_has_ended(finish, ended):
    with Loopback(lambda request: completion("5 and", finish)) as loopback:
        assert ask(loopback.url) == {0: Answer("5 and", ended)}


@pytest.mark.parametrize("text", [None, ""])
def test_an_answer_of_which_thoughts_left_nothing_is_cut_and_said_once(text, capfd):
    """Reasoning models: the budget went before the answer began; every question is paid once."""
    with Loopback(lambda request: completion(text, "length")) as loopback:
        assert ask(loopback.url, 5) == {index: Answer("", ended=False) for index in range(5)}
    assert len(loopback.requests) == 5
    assert capfd.readouterr().err.count("--max-new-tokens") == 1


def test_content_in_parts_is_text():
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "It is "}, {"type": "text", "text": "5."}]
    with Loopback(lambda request: completion(parts)) as loopback:
        assert ask(loopback.url) == {0: Answer("It is 5.")}


def test_extra_fields_go_with_every_request():
    """Added, put in place of ours, or with null left out."""
    extra = {"reasoning_effort": "low", "temperature": 1, "seed": None}
    with Loopback(lambda request: completion("5")) as loopback:
        ask(loopback.url, extra_body=extra)
    (request,) = loopback.requests
    assert (request.body["reasoning_effort"], request.body["temperature"]) == ("low", 1)
    assert "seed" not in request.body and request.body["max_tokens"] == 7


def test_half_a_surrogate_pair_can_be_stored():
    with Loopback(lambda request: completion("a\ud83d\0b")) as loopback:
        assert ask(loopback.url)[0].text == "a\ufffd\ufffdb"


@pytest.mark.parametrize(
    "fault",
    [
        error(429, "slow down"),
        as_json([{"error": {"code": 429, "message": "retry", "status": "RESOURCE_EXHAUSTED"}}], 429),
        as_json({"error": {"message": "rate limited upstream", "code": 429}}),
        completion("5 is", "error"),
        error(500, "oops"),
        Reply(b"<html>bad gateway</html>", 502),
        error(408, "timeout"),
        as_json({"error": "Request failed during generation", "error_type": "generation"}, 424),
        error(498, "Flex tier capacity exceeded"),
        completion("5").__class__(completion("5").body, cut=30),
        Reply(b'{"choices": [{', 200),
        as_json([]),
        as_json({"choices": []}),
        as_json({"choices": [{"message": "x"}]}),
        completion(None),
        Reply(b"\x1f\x8bno", 200, {"content-encoding": "gzip"}),
        Reply(completion("late").body, delay=2),
    ],
    ids=lambda reply: f"{reply.status} {reply.body[:12]!r}",
)
def test_a_passing_fault_is_asked_again(fault):
    """Busy, broken, cut mid-body, slower than --timeout, not JSON, not a completion: the next reply counts."""
    with Loopback(in_turn(fault, fault, completion("5"))) as loopback:
        assert ask(loopback.url, timeout=0.5) == {0: Answer("5")}
    assert len(loopback.requests) == 3


def test_a_server_that_is_gone_for_a_while():
    """Connection refused, then there: as when vLLM is started again."""
    port = closed_port()
    started: list[Loopback] = []
    timer = threading.Timer(1.0, lambda: started.append(Loopback(lambda request: completion("5"), port=port)))
    timer.start()
    begin = time.monotonic()
    try:
        assert ask(f"http://127.0.0.1:{port}/v1") == {0: Answer("5")}
    finally:
        timer.join()
        started[0].__exit__()
    assert time.monotonic() - begin >= 1.0


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_all(form):
    """After a 429 with Retry-After none of the requests in flight comes again before its time."""
    ask_to_wait = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2.1, usegmt=True)  # whole seconds
    first = error(429, "slow down", retry_after=ask_to_wait)
    with Loopback(in_turn(first, *[error(500, "oops")] * 3, completion("5"))) as loopback:
        assert len(ask(loopback.url, 8)) == 8
    arrivals = [request.at - loopback.requests[0].at for request in loopback.requests]
    assert sum(at < 0.9 for at in arrivals) == 4, arrivals  # those in flight when it came
    assert len(arrivals) == 12


def test_back_off_doubles_with_jitter_up_to_its_longest(monkeypatch):
    waits = []

    async def record(talk, seconds):
        waits.append(seconds) if seconds > 0 else None

    monkeypatch.setattr(server, "_pause", record)
    monkeypatch.setattr(server, "_FIRST_WAIT", 0.5)
    monkeypatch.setattr(server, "_LONGEST_WAIT", 30)
    with Loopback(in_turn(*[error(503, "loading")] * 9, completion("5"))) as loopback:
        ask(loopback.url, patience=1000)
    limits = [min(30, 0.5 * 2**attempt) for attempt in range(9)]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True)), waits
    assert len({wait / limit for wait, limit in zip(waits, limits, strict=True)}) == 9  # jitter


def test_patience_ends():
    begin = time.monotonic()
    with Loopback(lambda request: error(500, "oops")) as loopback, pytest.raises(RunError, match="oops"):
        ask(loopback.url, patience=1)
    assert time.monotonic() - begin < 3
    with pytest.raises(RunError, match="the connection failed"):
        ask(f"http://127.0.0.1:{closed_port()}/v1", patience=0.1)


def test_patience_is_with_the_server_not_with_one_question():
    """While others are answered, a question that keeps meeting 429 is not given up."""
    began = time.monotonic()

    def answer(request):
        unlucky = request.prompt == "question 0" and time.monotonic() - began < 1.2
        return error(429, "slow down") if unlucky else Reply(completion("5").body, delay=0.1)

    with Loopback(answer) as loopback:
        assert len(ask(loopback.url, 20, concurrency=2, patience=0.5)) == 20


def test_a_wait_longer_than_patience_ends_at_once():
    begin = time.monotonic()
    reply = error(429, "daily limit", retry_after="3600")
    with Loopback(lambda request: reply) as loopback, pytest.raises(RunError, match="it asks to wait 3600 s"):
        ask(loopback.url, 8)
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    ("reply", "kind", "says"),
    [
        (error(401, "Incorrect API key provided"), UserError, "OPENAI_API_KEY"),
        (error(403, "not allowed"), UserError, "OPENAI_API_KEY"),
        (error(404, "The model `m` does not exist"), UserError, "has no model 'm'.*does not exist.*--server"),
        (as_json({"detail": "Not Found"}, 404), UserError, "Not Found"),
        (as_json({"error": "unknown model", "error_type": "x"}, 404), UserError, "unknown model"),
        (error(405, "method"), UserError, "check --server"),
        (as_json([{"error": {"code": 404, "message": "no such model"}}], 404), UserError, r"\(404: no such model\)"),
        (Reply(b"", 301, {"location": "/elsewhere"}), UserError, "301: /elsewhere.*check --server"),
        (error(429, "You exceeded your current quota", "insufficient_quota"), RunError, "no credit left"),
        (error(402, "Payment required"), RunError, "no credit left"),
        (error(200, "You exceeded your current quota", "insufficient_quota"), RunError, "no credit left"),
        (error(400, "messages too long"), UserError, "messages too long"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_stops_the_run_at_once(reply, kind, says):
    with Loopback(lambda request: reply) as loopback, pytest.raises(kind, match=says):
        ask(loopback.url, 50)
    assert len(loopback.requests) < 2 * 4  # those in flight, and what takes the place of one before all are refused


@pytest.mark.parametrize("reply", [Reply(b"<html>"), completion(None), as_json({"error": {"code": 502}})])
def test_an_address_that_is_no_chat_server(reply):
    """No answer to anything: the run stops instead of asking thousands of questions in vain."""
    with Loopback(lambda request: reply) as loopback, pytest.raises(UserError, match="Check --server"):
        ask(loopback.url, 50)
    assert len(loopback.requests) < 2 * 20  # five each of those in flight, and of what takes their places


def test_a_stop_loses_no_answer_that_is_under_way():
    """Three slow answers are in flight when the fourth request meets an empty account."""

    def answer(request):
        if request.prompt == "question 3":
            return error(429, "quota", "insufficient_quota", delay="0")
        return Reply(completion(request.prompt).body, delay=0.5)

    got = []
    with Loopback(answer) as loopback, pytest.raises(RunError, match="no credit"):
        prompts = {("task", str(index)): f"question {index}" for index in range(20)}
        for key, _ in server.answers(
            prompts,
            url=loopback.url,
            model="m",
            temperature=0,
            max_new_tokens=5,
            seed=0,
            concurrency=4,
            timeout=5,
            patience=5,
        ):
            got.append(key[1])
    assert sorted(got) == ["0", "1", "2"]
    assert len(loopback.requests) == 4


@pytest.mark.parametrize(
    "refusal",
    [
        error(400, "content filter"),
        error(413, "too long"),
        error(403, "not for you"),
        error(451, "not where you are"),
        error(418, "whatever this is"),
        completion(None),
        completion("5 is", "content_filter"),
        completion("5 is", "error"),
        as_json({"error": {"message": "upstream", "code": 502}}),
        as_json({"error": {"message": "upstream", "code": 400}}),
    ],
    ids=lambda reply: f"{reply.status} {reply.body[:99]!r}",
)
def test_one_refused_question_does_not_stop_the_others(refusal):
    def answer(request):
        return refusal if request.prompt == "question 17" else completion("5")

    with Loopback(answer) as loopback:
        given = ask(loopback.url, 20)
    assert isinstance(given.pop(17), Refusal)
    assert given == {index: Answer("5") for index in range(20) if index != 17}


def test_a_refusal_that_comes_before_any_answer_does_not_stop_the_others():
    """A prompt that is too long is refused at once, where each answer takes seconds."""
    too_long, slow = error(400, "maximum context length is 10 tokens"), replace(completion("5"), delay=0.2)
    with Loopback(lambda request: too_long if request.prompt == "question 0" else slow) as loopback:
        given = ask(loopback.url, 6)
    assert isinstance(given.pop(0), Refusal)
    assert given == {index: Answer("5") for index in range(1, 6)}


@pytest.mark.parametrize(
    "refusal",
    [
        error(403, "This model requires moderation and your input was flagged"),
        error(400, "The prompt was filtered", "content_filter"),
        completion("", "content_filter"),
        as_json({"error": {"message": "flagged by moderation", "code": 403}}),
        error(400, "Input data may contain inappropriate content.", "data_inspection_failed"),
        error(400, "Content Exists Risk"),
        completion(None, "content_filter: RECITATION"),
        completion(None, "PROHIBITED_CONTENT"),
        completion("", "refusal"),
        as_json({"choices": [{"message": {"content": None, "refusal": "I cannot help."}, "finish_reason": "stop"}]}),
    ],
    ids=lambda reply: f"{reply.status} {reply.body[:99]!r}",
)
def test_a_filter_refuses_one_question_though_none_was_answered_yet(refusal):
    with Loopback(lambda request: refusal if request.prompt == "question 0" else completion("5")) as loopback:
        given = ask(loopback.url, 3, concurrency=1)
    assert isinstance(given.pop(0), Refusal)
    assert given == {1: Answer("5"), 2: Answer("5")}
    assert len(loopback.requests) == 3


@pytest.mark.parametrize(
    ("field", "sent", "said"),
    [
        ("temperature", None, {"message": "Unsupported parameter", "param": "temperature"}),
        ("max_tokens", "max_completion_tokens", {"message": "Unsupported parameter", "param": "max_tokens"}),
        ("max_tokens", "max_completion_tokens", {"message": "Unsupported parameter: 'max_tokens'"}),
        ("seed", None, {"message": "[{'type': 'extra_forbidden', 'loc': ('body', 'seed')}]", "param": None}),
    ],
)
def test_a_refused_field_is_found_wherever_it_is_named(field, sent, said):
    def answer(request):
        return as_json({"error": said}, 400) if field in request.body else completion("5")

    with Loopback(answer) as loopback:
        assert ask(loopback.url) == {0: Answer("5")}
    assert sent is None or loopback.requests[-1].body[sent] == 7


@pytest.mark.parametrize(
    "said",
    ["'max_tokens' or 'max_completion_tokens' is too large: 7.", "cannot read: question 1: of what temperature?"],
)
def test_what_is_refused_for_the_question_teaches_nothing_of_the_fields(said):
    """vLLM's word on a prompt that leaves no room; a server that quotes the prompt."""
    prompts = {("t", "0"): "of what temperature?", ("t", "1"): "and then?"}
    with Loopback(lambda request: error(400, said) if "what" in request.prompt else completion("5")) as loopback:
        settings = {"model": "m", "temperature": 0.1, "max_new_tokens": 7, "seed": 0, "concurrency": 1}
        given = dict(server.answers({("t", "2"): "?"} | prompts, url=loopback.url, timeout=5, patience=5, **settings))
    assert [type(given["t", name]) for name in "012"] == [Refusal, Answer, Answer]
    assert loopback.requests[-1].body["temperature"] == 0.1 and loopback.requests[-1].body["max_tokens"] == 7
    assert len(loopback.requests) == 3


@pytest.mark.parametrize("concurrency", [1, 8])
def test_parameters_that_a_server_does_not_take(concurrency):
    """`seed` (Google: the error is a list) and `temperature` (o-series) are left out, and `max_tokens` is called as
    OpenAI's newer models call it, from the first refusal on."""

    def answer(request):
        if "seed" in request.body:
            return as_json([{"error": {"code": 400, "message": 'Unknown name "seed": Cannot find field.'}}], 400)
        if "temperature" in request.body:
            return error(400, "Unsupported value: 'temperature' does not support 0.1 with this model.")
        if "max_tokens" in request.body:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return completion(str(request.body["max_completion_tokens"]))

    with Loopback(answer) as loopback:
        assert ask(loopback.url, 20, concurrency=concurrency) == {index: Answer("7") for index in range(20)}
    assert 23 <= len(loopback.requests) <= 20 + 3 * concurrency


def test_as_many_in_flight_as_asked_for():
    in_flight, most = set(), []

    async def answer(request):
        in_flight.add(request.prompt)
        most.append(len(in_flight))
        await asyncio.sleep(0.05)
        in_flight.discard(request.prompt)
        return completion("5")

    with Loopback(answer) as loopback:
        ask(loopback.url, 40, concurrency=8)
    assert max(most) == 8


def test_the_key_is_shown_nowhere(monkeypatch, capfd, caplog):
    """Not by a server that echoes it in an error, nor by one that echoes it in what is asked again."""
    caplog.set_level("DEBUG")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for reply in (error(401, f"Incorrect API key provided: {KEY}"), error(500, KEY), error(400, KEY), Reply(b"", 302)):
        with Loopback(lambda request, reply=reply: reply) as loopback, pytest.raises((UserError, RunError)) as caught:
            ask(loopback.url, patience=0.1)
        assert loopback.requests[0].headers["authorization"].endswith(KEY)
        assert KEY not in str(caught.getrepr(showlocals=False, style="short"))
    assert KEY not in "".join(capfd.readouterr()) + caplog.text


def test_a_key_that_a_server_answers_with_is_not_stored(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Loopback(lambda request: completion(f"5 {KEY}")) as loopback:
        assert KEY not in ask(loopback.url)[0].text


@pytest.mark.parametrize("word", ["EMPTY", "none", "x"])
def test_a_word_in_place_of_a_key_changes_no_answer(monkeypatch, word):
    monkeypatch.setenv("OPENAI_API_KEY", word)
    with Loopback(lambda request: completion(f"It is {word}.")) as loopback:
        assert ask(loopback.url)[0].text == f"It is {word}."


def test_a_key_that_no_header_takes_is_not_shown_either(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(UserError) as caught:
        ask("http://127.0.0.1:9/v1")
    assert KEY not in str(caught.value)


def test_many_faults_at_once():
    """200 questions through a server that fails a third of its requests in every way: 200 answers."""
    rng = random.Random(0)
    faults = [
        error(429, "slow down"),
        error(500, "oops"),
        Reply(completion("cut").body, cut=20),
        Reply(b"{", 200),
        as_json({"choices": []}),
        Reply(completion("late").body, delay=1.5),
    ]

    def answer(request):
        if len(loopback.requests) == 50:
            return error(429, "slow down", retry_after="1")
        return rng.choice(faults) if rng.random() < 0.33 else completion(request.prompt)

    with Loopback(answer) as loopback:
        given = ask(loopback.url, 200, concurrency=32, timeout=1, patience=30)
    assert given == {index: Answer(f"question {index}") for index in range(200)}
