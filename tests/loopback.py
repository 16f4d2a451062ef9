"""A loopback server of the tests' own that speaks the OpenAI wire format, as wrongly as a test wants it to."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Reply:
    """What the server does with a request: waits, then sends status, headers and body, or `cut` bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None


def completion(text: str | list | None, finish_reason: str | None = "stop") -> Reply:
    """A chat completion with one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return as_json({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def as_json(value: object, status: int = 200, **headers: str) -> Reply:
    """A reply with a JSON body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(json.dumps(value).encode(), status, {"content-type": "application/json", **named})


def error(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's form."""
    return as_json({"error": {"message": message, "type": "error", "param": None, "code": code}}, status, **headers)


@dataclass
class Request:
    """What came in."""

    at: float
    path: str
    headers: dict[str, str]
    body: dict

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"]


class Loopback:
    """Answers on 127.0.0.1 from a thread of its own; `answer` gives the reply to a request, or a list of them in turn.

    It ends itself after `limit` requests or `seconds`, whatever the test does.
    """

    def __init__(self, answer: Callable[[Request], Reply], *, port: int = 0, limit: int = 20_000, seconds: float = 300):
        self.answer, self.limit = answer, limit
        self.requests: list[Request] = []
        self.finished: list[float] = []  # when each reply was sent
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", port))
        self.port = self._server.sockets[0].getsockname()[1]
        self._loop.call_later(seconds, self._loop.stop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._server.close()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while len(self.requests) < self.limit and await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        request = Request(time.monotonic(), head[0].split(" ")[1], headers, body)
        self.requests.append(request)
        reply = self.answer(request)
        if isinstance(reply, Awaitable):
            reply = await reply
        if reply.delay:
            await asyncio.sleep(reply.delay)
        lines = [f"HTTP/1.1 {reply.status} Status", f"content-length: {len(reply.body)}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + reply.body[: reply.cut])
        await writer.drain()
        self.finished.append(time.monotonic())
        return reply.cut is None
