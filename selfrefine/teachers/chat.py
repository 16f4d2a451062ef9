"""One question to an OpenAI-compatible server: the answer, or what it means that there is none.

Status and raw body are looked at first, as vendors differ in both. The key is read from OPENAI_API_KEY, sent to the
server, and shown nowhere.
"""

import asyncio
import email.utils
import json
import os
import re
import time

import httpx2

from selfrefine.errors import RunError, UserError
from selfrefine.teachers import Answer

_NO_CREDIT = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_NOT_PERMANENT = {408, 409, 424, 425, 429, 498, 499}  # 424 is TGI's, 498 Groq's
_MODERATION = re.compile(  # DashScope's and DeepSeek's words too
    r"moderat|flagged|content.?(?:filter|polic|management|exists risk)|safety|inappropriate|unsafe", re.IGNORECASE
)
# finish_reason by OpenAI and, after it, by vLLM, TGI, Mistral, Zhipu, DeepSeek and Google; any other is no known end
_ENDED = {"stop", "eos", "eos_token", "stop_sequence", "end_turn", "complete"}
_CUT = {"length", "max_tokens", "model_length"}
_FILTERED = {"content_filter", "sensitive", "safety", "refusal", "recitation", "prohibited_content", "blocklist"}
_BROKEN = {"error", "network_error", "insufficient_system_resource"}


class Again(Exception):
    """The server is busy, broken or gone; `wait` is what Retry-After said, in seconds."""

    def __init__(self, reason: str, wait: float | None = None):
        super().__init__(reason)
        self.wait = wait


class BadReply(Exception):
    """The server answered, but not with an answer."""


class Refused(Exception):
    """The server will not take this request, be it for the question or for how it was asked."""


class Filtered(Exception):
    """The server will not answer this question for what it says."""


async def ask(client: httpx2.AsyncClient, url: str, body: dict, timeout: float) -> Answer:
    """One request. Raises Again, BadReply, Refused, Filtered, UserError or RunError."""
    try:
        async with asyncio.timeout(timeout):
            response = await client.post(url, json=body)
    except TimeoutError:
        raise Again(f"no answer within --timeout {timeout:g} s") from None
    except httpx2.TransportError as error:
        raise Again(f"the connection failed ({_hidden(str(error)) or type(error).__name__})") from None
    except httpx2.DecodingError as error:
        raise BadReply(f"the server's reply is not a chat completion ({type(error).__name__})") from None
    try:
        reply = json.loads(response.content)
    except (ValueError, RecursionError):
        reply = None
    if response.status_code != 200:
        raise _failure(response.status_code, reply, response, body["model"])
    if isinstance(reply, dict) and reply.get("error"):  # a router's: what the model's own server said
        code, said = _error_in(reply)
        if code in _NO_CREDIT or (code.isdecimal() and 400 <= int(code) < 500):
            raise _failure(402 if code in _NO_CREDIT else int(code), reply, response, body["model"])
        raise BadReply(f"the server's reply is an error ({code}: {said})")
    return _answer(reply)


def _answer(reply: object) -> Answer:
    """The answer that the body of a reply holds."""
    try:
        choice = reply["choices"][0]
        content, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        ids = _ids(choice.get("token_ids")), _ids(reply.get("prompt_token_ids"))  # vLLM's, where it was asked for them
        finish = str(choice.get("finish_reason") or "stop").lower().partition(":")[0]  # Google's says more behind it
        if isinstance(content, list):  # parts; a model's thoughts may be one
            content = "".join(part["text"] for part in content if part.get("type") == "text")
    except (AttributeError, IndexError, TypeError, KeyError):
        raise BadReply("the server's reply is not a chat completion") from None
    if finish in _FILTERED or (refusal and not content):
        raise Filtered(_shown(refusal or f"finish_reason {finish}"))
    if finish in _BROKEN:
        raise BadReply(f"the server broke off its answer (finish_reason {finish})")
    if content is None and finish in _CUT:
        content = ""  # all tokens went into thoughts
    if not isinstance(content, str):
        raise BadReply("the server's reply has no text")
    return Answer(_hidden(_storable(content)), finish in _ENDED, *ids)


def _ids(value: object) -> tuple[int, ...] | None:
    """Token ids, None where a reply has none."""
    known = isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)
    return tuple(value) if known else None


def _failure(status: int, reply: object, response: httpx2.Response, model: str) -> Exception:
    """What an HTTP error, or one of this status inside a reply, means for the run."""
    code, said = _error_in(reply)
    said = said or _shown(response.text or response.headers.get("location") or response.reason_phrase)
    if status == 402 or code in _NO_CREDIT:
        return RunError(
            f"the account has no credit left ({said}). What was answered is kept; the same command goes on from there."
        )
    if status in (400, 403, 422) and _MODERATION.search(f"{code} {said}"):
        return Filtered(f"{status}: {said}")
    if status == 401:
        return UserError(f"the server refuses the key ({status}: {said}): set OPENAI_API_KEY to one that it accepts.")
    if status in _NOT_PERMANENT or status >= 500:
        wait = _retry_after(response.headers.get("retry-after"))
        asks = f", it asks to wait {wait:.0f} s" if wait else ""
        return Again(f"the server is not ready ({status}: {said}){asks}", wait)
    if status >= 400 and status not in (404, 405, 410):
        return Refused(f"{status}: {said}")
    return UserError(
        f"{response.url} has no model {model!r} to chat with ({status}: {said}): check --server and the name."
    )


def _error_in(reply: object) -> tuple[str, str]:
    """(code, message) of an error's body, in the forms of OpenAI, Google (a list), vLLM, TGI and FastAPI."""
    body = reply[0] if isinstance(reply, list) and reply else reply
    error = (body.get("error") or body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        said, field = _shown(error.get("message") or error.get("detail") or ""), error.get("param")
        return str(error.get("code")), f"{said} ({field!r})" if field and str(field) not in said else said
    return "", _shown(error or "")


def _shown(said: object) -> str:
    """What a server said, in a form that can stand in a sentence; without the key."""
    return _hidden(" ".join(str(said).split()))[:300].rstrip(".")


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which has seconds or a date."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if seconds < float("inf") else None


def _storable(text: str) -> str:
    """The text without what UTF-8 or a tokenizer cannot hold: halves of surrogate pairs and NUL become U+FFFD."""
    return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)


def api_key() -> str:
    """The key, in a form that can stand in a header; a line break in it would show it in the HTTP client's error."""
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError("OPENAI_API_KEY has characters that no key has: copy it again.")
    return key


def _hidden(text: str) -> str:
    """The text without the key, should the server have echoed it."""
    key = api_key()
    return text.replace(key, "(the key)") if len(key) > 7 else text  # "none" and "EMPTY" are words, not secrets
