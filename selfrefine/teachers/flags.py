"""The flags of a server teacher or judge, and what `--dry-run` says of the work before it costs anything."""

import argparse
from collections.abc import Mapping
from urllib.parse import urlsplit

from selfrefine.command import Parser, fields, positive, rate
from selfrefine.errors import UserError
from selfrefine.teachers import Key

# measured with the Llama-2 and Mistral tokenizers: 3.5 to 4.4 bytes per token on seven of the benchmarks, MATH 2.6
_BYTES_PER_TOKEN = 3.5
_TOKENS_PER_TURN = 10  # what a chat template adds


def add_server_flags(parser: Parser) -> None:
    """--server and how to talk to it."""
    group = parser.add_argument_group("server (OpenAI-compatible; the key comes from OPENAI_API_KEY only)")
    base = "the vendor's base URL, e.g. https://api.openai.com/v1 or http://localhost:8000/v1"
    group.add_argument("--server", metavar="URL", help=base)
    group.add_argument("--concurrency", type=positive, default=16, metavar="N", help="requests in flight")
    group.add_argument("--timeout", type=rate, default=600, metavar="SECONDS", help="for one request")
    asking = "how long to go on asking a server that fails or does not answer"
    group.add_argument("--patience", type=rate, default=600, metavar="SECONDS", help=asking)
    more = 'more fields of each request, e.g. \'{"reasoning_effort": "low"}\'; null leaves a field out'
    group.add_argument("--extra-body", type=_fields, metavar="JSON", help=more)


def add_plan_flags(parser: Parser) -> None:
    """--dry-run and the prices that it multiplies."""
    plan = parser.add_argument_group("plan")
    plan.add_argument("--dry-run", action="store_true", help="print the requests and tokens to come, ask nothing")
    plan.add_argument("--price-in", type=rate, metavar="PRICE", help="of a million prompt tokens, for --dry-run")
    plan.add_argument("--price-out", type=rate, metavar="PRICE", help="of a million answer tokens, for --dry-run")


def server_settings(args: argparse.Namespace, more: dict | None = None) -> dict:
    """The arguments of `server.answers` that come from flags, and `more` fields of each request unless --extra-body has
    them; UserError for what is no server's address."""
    try:
        address = urlsplit(args.server)
        usable = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UserError(f"--server {args.server}: give an address such as http://localhost:8000/v1.")
    if address.username or address.password or address.query:
        azure = " (Azure's is https://NAME.openai.azure.com/openai/v1)" if "api-version" in address.query else ""
        raise UserError(f"--server: give the base URL alone{azure}; a key is read from OPENAI_API_KEY.")
    same = ("temperature", "max_new_tokens", "seed", "concurrency", "timeout", "patience")
    extra = (more or {}) | (args.extra_body or {})
    return {"url": args.server, "extra_body": extra} | {name: getattr(args, name) for name in same}


def print_plan(prompts: Mapping[Key, str], args: argparse.Namespace) -> None:
    """Requests, estimated prompt tokens, the most that the answers can have, and with prices the cost."""
    size = sum(len(prompt.encode()) for prompt in prompts.values())
    tokens_in = round(size / _BYTES_PER_TOKEN) + _TOKENS_PER_TURN * len(prompts)
    tokens_out = args.max_new_tokens * len(prompts)
    print(f"requests       {len(prompts)}")
    print(
        f"prompt tokens  about {tokens_in} (estimate: one per {_BYTES_PER_TOKEN} bytes, {_TOKENS_PER_TURN} a request)"
    )
    print(f"answer tokens  at most {tokens_out} (--max-new-tokens {args.max_new_tokens} each)")
    if args.price_in is not None or args.price_out is not None:
        spent_in, spent_out = tokens_in * (args.price_in or 0) / 1e6, tokens_out * (args.price_out or 0) / 1e6
        print(f"cost           about {spent_in:.2f} for the prompts, at most {spent_out:.2f} for the answers")


def _fields(text: str) -> dict:
    """argparse type: a JSON object of fields, none of them this command's own."""
    own = fields(text).keys() & {"model", "messages", "stream", "n"}
    if own:
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(own))} cannot be given: leave it out")
    return fields(text)
