"""What every client is asked, and what must hold of any answer, however a client shows it.

The model is small and the questions are greedy: what is checked is the interface, never the model's knowledge.
"""

import base64
import json
from dataclasses import dataclass

import jsonschema

QUESTION = "What is the capital of France?"
# Long enough for several pages of 16 tokens, so that a second request finds most of its prompt in the cache.
SYSTEM = "You are a careful librarian. " + " ".join(
    f"Rule {n}: name the author, the year and the shelf of book number {n}." for n in range(1, 13)
)
MAX_TOKENS = 24
# Room for a whole object: the schemas below bound every string.
JSON_TOKENS = 96

WEATHER_PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 1, "maxLength": 20},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city now",
        "parameters": WEATHER_PARAMETERS,
    },
}
WEATHER_QUESTION = "What is the weather in Paris, in celsius? Use the tool."

BOOK_SCHEMA = {
    "title": "Book",
    "description": "A book",
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 24},
        "year": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "tags": {"type": "array", "items": {"enum": ["novel", "poem", "play"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["title", "year", "tags"],
    "additionalProperties": False,
}
BOOK_QUESTION = "Describe one famous book as JSON."


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    key: str
    model: str


def user(text, system=None):
    """A conversation of one question."""
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": text}]


def require(holds, what, found):
    """Fails with what was expected and what was found."""
    if not holds:
        raise AssertionError(f"expected {what}; found {found!r}")


def require_equal(found, expected, what):
    require(found == expected, f"{what} to be {expected!r}", found)


def require_json(text, schema):
    """The text is JSON of the schema; gives its value."""
    value = json.loads(text) if isinstance(text, str) else text
    jsonschema.validate(value, schema)
    return value


def require_logprobs(text, tokens, most):
    """Log-probabilities of an answer that took the likeliest token each time."""
    require(tokens, "log-probabilities of tokens", tokens)
    spelled = b"".join(bytes(token["bytes"]) for token in tokens).decode()
    require_equal(spelled, text, "the tokens' bytes together")
    for token in tokens:
        likeliest = [other["logprob"] for other in token["top_logprobs"]]
        require_equal(len(likeliest), most, "the number of likeliest tokens")
        require(likeliest == sorted(likeliest, reverse=True), "the likeliest token first", likeliest)
        require(token["logprob"] <= 0 and token["logprob"] == likeliest[0], "the likeliest token's probability", token)


def require_embeddings(vectors, usage_tokens=None):
    """Vectors of length 1, different for different texts, the same for the same."""
    require_equal(len({len(v) for v in vectors}), 1, "the number of different dimensions")
    for vector in vectors:
        length = sum(x * x for x in vector) ** 0.5
        require(abs(length - 1) < 1e-3, "a vector of length 1", length)
    first, second, third = vectors
    require(first == second and first != third, "one vector a text", [v[:2] for v in vectors])
    if usage_tokens is not None:
        require(usage_tokens > 0, "tokens in the usage", usage_tokens)


def require_cached(first_text, second_text, prompt_tokens, cached_tokens):
    """The second of two equal requests found its prompt but for what must be recomputed, and answered the same."""
    pages = (prompt_tokens - 1) // 16 * 16
    require(pages <= cached_tokens < prompt_tokens, f"{pages} cached tokens or more of {prompt_tokens}", cached_tokens)
    require_equal(second_text, first_text, "the answer with a cached prompt")


def stop_in(text):
    """A string to stop at, from the middle of an answer, and what must come before it."""
    words = text.split()
    require(len(words) >= 4, "an answer of some words", text)
    stop = words[len(words) // 2]
    return stop, text[: text.index(stop)]


def refused(kind, call):
    """The error that a call must end with."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"expected {kind.__name__}; found {answer!r}")


def little_endian_floats(text):
    """The vector in base64 as a list."""
    import array

    return array.array("f", base64.b64decode(text)).tolist()
