"""Asks a served model through the client packages that people use: `conformance.py URL KEY MODEL`.

Prints a table of clients and features, `-` where a client has no such thing, and fails if anything did.
"""

import sys
import time
import traceback

from cases import Served
from with_anthropic import Anthropic
from with_langchain import LangChain
from with_litellm import LiteLlm
from with_openai import OpenAi

CLIENTS = [OpenAi, Anthropic, LangChain, LiteLlm]
FEATURES = [
    "answer", "stream", "tools", "tools_streamed", "json_schema", "logprobs", "n_2", "stop", "cached_tokens", "errors",
    "responses", "completions", "embeddings", "models",
]


def outcome(client, feature):
    """`ok`, `FAILED`, or `-` where the client has no such feature."""
    check = getattr(client, feature, None)
    if check is None:
        return "-"
    start = time.monotonic()
    try:
        check()
    except Exception:  # What a client raises is its own affair; that it did is a failure.
        print(f"\n{client.name}, {feature}:\n{traceback.format_exc(limit=-6)}", file=sys.stderr)
        return "FAILED"
    print(f"{client.name:<18} {feature:<16} {time.monotonic() - start:5.1f} s", file=sys.stderr)
    return "ok"


def main():
    served = Served(*sys.argv[1:])
    clients = [client(served) for client in CLIENTS]
    rows = [(feature, [outcome(client, feature) for client in clients]) for feature in FEATURES]
    print(f"{'':<16}" + "".join(f"{client.name:<18}" for client in clients).rstrip())
    for feature, found in rows:
        print(f"{feature:<16}" + "".join(f"{word:<18}" for word in found).rstrip())
    words = [word for _, found in rows for word in found]
    print(f"{words.count('ok')} passed, {words.count('FAILED')} failed")
    sys.exit(1 if "FAILED" in words else 0)


if __name__ == "__main__":
    main()
