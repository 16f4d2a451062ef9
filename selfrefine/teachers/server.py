"""A teacher behind an OpenAI-compatible server: OpenAI's, Google's, OpenRouter's, vLLM, TGI, `transformers serve`.

Many requests in flight, and patience. A server that is busy, broken or gone is asked again, after what it says in
Retry-After or after an exponential back-off with jitter; a wrong key, an unknown model and an account without credit
stop the run; a question that the server will not take is reported while the others go on.
"""

import asyncio
import random
import re
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2
from tqdm import tqdm

from selfrefine.errors import RunError, UserError
from selfrefine.teachers import Answer, Key, Refusal, named
from selfrefine.teachers.chat import Again, BadReply, Filtered, Refused, api_key, ask

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0  # seconds, of the back-off
_WARN_EVERY = 10.0  # seconds
_BAD_REPLIES = 5  # in a row to one question, before it counts as refused
# fields that some models do not take, and what their absence means
_OPTIONAL = {
    "seed": "another run will give other answers",
    "temperature": "it samples at its own",
    "return_token_ids": "answers are kept as texts alone",
}


@dataclass
class _Talk:
    """What the requests in flight share: the client, and what the server's replies have taught so far."""

    client: httpx2.AsyncClient
    url: str
    body: dict  # of every request, but for its question and seed
    seed: int
    timeout: float
    patience: float
    refused: set[str] = field(default_factory=set)  # fields that the model does not take
    cut_told: bool = False
    answered_at: float | None = None  # these three on time.monotonic
    warned_at: float = float("-inf")
    paused_until: float = float("-inf")  # by Retry-After
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


def answers(
    prompts: Mapping[Key, str],
    *,
    url: str,
    model: str,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    concurrency: int,
    timeout: float,
    patience: float,
    extra_body: dict | None = None,
) -> Iterator[tuple[Key, Answer | Refusal]]:
    """Yield (key, answer) as the server answers, each prompt as a user's turn; `extra_body` goes with every request.

    Raises UserError for a wrong key, address or model, RunError for an empty account or a server that does not come
    back within `patience` seconds; the answers that were under way are waited for and yielded first.
    """
    body = {"model": model, "temperature": temperature, "max_tokens": max_new_tokens, "stream": False}
    headers = {"authorization": f"Bearer {key}"} if (key := api_key()) else {}
    limits = httpx2.Limits(max_connections=concurrency)
    with asyncio.Runner() as runner:
        run = runner.get_loop().run_until_complete
        client = httpx2.AsyncClient(headers=headers, limits=limits, timeout=None)
        talk = _Talk(client, endpoint(url), body | (extra_body or {}), seed, timeout, patience)
        todo, done, stopped = iter(prompts.items()), asyncio.Queue(), None
        workers = [
            runner.get_loop().create_task(_work(talk, todo, done)) for _ in range(min(concurrency, len(prompts)))
        ]
        while workers:
            for result in run(_all_of(done)):
                if isinstance(result, tuple):
                    yield result
                else:  # a worker has ended, with an error or as nothing is left to do
                    workers.pop()
                    stopped = stopped or result
        run(client.aclose())
    if stopped is not None:
        raise stopped


def endpoint(url: str) -> str:
    """Where chats are asked: below the base URL as the vendor's page gives it; a bare host's is /v1."""
    base = url.rstrip("/").removesuffix("/chat/completions")
    return f"{base}/chat/completions" if urlsplit(base).path else f"{base}/v1/chat/completions"


async def _work(talk: _Talk, todo: Iterator[tuple[Key, str]], done: asyncio.Queue) -> None:
    """One of the requests in flight at any time: take a prompt, have it answered, take the next."""
    error = None
    try:
        for key, prompt in todo:
            done.put_nowait((key, await _answer(talk, key, prompt)))
            if talk.stopping.is_set():
                break
    except Exception as raised:
        error = raised
        talk.stopping.set()
    done.put_nowait(error)


async def _all_of(done: asyncio.Queue) -> list:
    """All that is in the queue, at least one."""
    return [await done.get(), *(done.get_nowait() for _ in range(done.qsize()))]


async def _answer(talk: _Talk, key: Key, prompt: str) -> Answer | Refusal:
    """Ask until there is an answer, a refusal, or a reason to stop."""
    failures, bad_replies, failing_since = 0, 0, None
    while True:
        await _pause(talk, talk.paused_until - time.monotonic())
        body = {"messages": [{"role": "user", "content": prompt}], "seed": _seed(talk.seed, key)} | talk.body
        if "max_tokens" in talk.refused:
            body["max_completion_tokens"] = body["max_tokens"]
        body = {name: value for name, value in body.items() if name not in talk.refused and value is not None}
        asked_to_wait = None
        try:
            answer = await ask(talk.client, talk.url, body, talk.timeout)
            talk.answered_at = time.monotonic()
            _tell_cut(talk, answer)
            return answer
        except Filtered as filtered:
            return Refusal(f"the server filters it: {filtered}.")
        except Refused as refused:
            if _learn(talk, str(refused), body):
                continue
            return _given_up(talk, key, f"the server refuses it: {refused}.")
        except BadReply as bad:
            reason, bad_replies = str(bad), bad_replies + 1
            if bad_replies == _BAD_REPLIES:
                return _given_up(talk, key, f"{reason}, {bad_replies} times.")
        except Again as again:
            reason, asked_to_wait, bad_replies = str(again), again.wait, 0
        failing_since = failing_since or time.monotonic()
        _check_patience(talk, key, reason, failing_since, asked_to_wait or 0)
        if asked_to_wait is None:
            await _pause(talk, min(_LONGEST_WAIT, _FIRST_WAIT * 2**failures) * random.uniform(0.5, 1))
        else:
            talk.paused_until = max(talk.paused_until, time.monotonic() + asked_to_wait)
        failures += 1


def _check_patience(talk: _Talk, key: Key, reason: str, failing_since: float, wait: float) -> None:
    """RunError where the server is silent or asks to wait for longer than --patience; else a word on what is wrong."""
    now = time.monotonic()
    silent_since = max(failing_since, talk.answered_at or failing_since)  # others' answers show that it is alive
    if max(wait, now - silent_since) > talk.patience:
        raise RunError(
            f"no answer to {named(key)} within --patience {talk.patience:g} s: {reason}. What was answered is kept; "
            "the same command goes on from there."
        )
    if now - talk.warned_at > _WARN_EVERY:
        tqdm.write(f"{reason}; asking again", file=sys.stderr)
        talk.warned_at = now


def _given_up(talk: _Talk, key: Key, reason: str) -> Refusal:
    """One question goes without an answer; where none has had one, the fault is not the question's."""
    if talk.answered_at is None:
        raise UserError(
            f"no answer to {named(key)} or any other: {reason} Check --server, OPENAI_API_KEY, the model and the flags."
        )
    return Refusal(reason)


def _learn(talk: _Talk, said: str, body: dict) -> bool:
    """Whether what was refused is a field that can be called otherwise or left out; from now on it is."""
    if "max_tokens" in body and re.search(r"max_completion_tokens\W+instead|nsupported param\w+\W+max_tokens", said):
        talk.refused.add("max_tokens")  # OpenAI's newer models
        return True
    asked = body["messages"][0]["content"]  # which may be what the server quotes
    for name, means in _OPTIONAL.items():
        if name in body and re.search(rf"['\"`]{name}\b" if name in asked else rf"\b{name}\b", said):
            if name not in talk.refused:
                tqdm.write(f"the server takes no {name}: {means}", file=sys.stderr)
            talk.refused.add(name)
            return True
    return False


def _tell_cut(talk: _Talk, answer: Answer) -> None:
    """A word, once, on answers of which nothing was left: a model that thinks first needs room for it."""
    if not answer.ended and not answer.text.strip() and not talk.cut_told:
        tqdm.write("an answer was cut before it began: give a larger --max-new-tokens", file=sys.stderr)
        talk.cut_told = True


async def _pause(talk: _Talk, seconds: float) -> None:
    """Wait, and up to a second more, so that not all requests come at once. Raises RunError if the run is stopping."""
    if seconds > 0:
        try:
            await asyncio.wait_for(talk.stopping.wait(), seconds + random.uniform(0, min(seconds, 1)))
        except TimeoutError:
            return
        raise RunError("the run is stopping.")


def _seed(seed: int, key: Key) -> int:
    """A seed for one question, in the 31 bits that every server takes."""
    return zlib.crc32("\0".join(map(str, [seed, *key])).encode("utf-8", "surrogatepass")) >> 1
