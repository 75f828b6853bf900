"""The openai package."""

import openai
from pydantic import BaseModel

from cases import (
    BOOK_QUESTION, BOOK_SCHEMA, JSON_TOKENS, MAX_TOKENS, QUESTION, SYSTEM, WEATHER, WEATHER_PARAMETERS, WEATHER_QUESTION,
    little_endian_floats, refused, require, require_cached, require_embeddings, require_equal, require_json,
    require_logprobs, stop_in, user,
)


class City(BaseModel):
    """A schema as the package writes it."""

    name: str
    is_capital: bool


class OpenAi:
    name = "openai"

    def __init__(self, served):
        self.served = served
        self.client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=served.key, max_retries=0, timeout=120)

    def chat(self, question=QUESTION, system=None, **settings):
        settings = {"temperature": 0, "max_tokens": MAX_TOKENS} | settings
        return self.client.chat.completions.create(model=self.served.model, messages=user(question, system), **settings)

    def answer(self):
        found = self.chat()
        choice, usage = found.choices[0], found.usage
        require(choice.message.content, "some text", found)
        require(choice.finish_reason in ("stop", "length"), "a finish reason", choice.finish_reason)
        require_equal(usage.total_tokens, usage.prompt_tokens + usage.completion_tokens, "all tokens")
        require_equal(found.model, self.served.model, "the model")

    def stream(self):
        chunks = list(self.chat(stream=True, stream_options={"include_usage": True}))
        require_equal(chunks[0].choices[0].delta.role, "assistant", "the first role")
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        whole = self.chat()
        require_equal(text, whole.choices[0].message.content, "the streamed text")
        require_equal(chunks[-2].choices[0].finish_reason, whole.choices[0].finish_reason, "how it ends")
        require(not chunks[-1].choices, "no choice beside the usage", chunks[-1])
        require_equal(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens, "the streamed usage")

    def tools(self):
        settings = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": JSON_TOKENS}
        found = self.chat(WEATHER_QUESTION, **settings)
        choice = found.choices[0]
        require_equal(choice.finish_reason, "tool_calls", "how it ends")
        call = choice.message.tool_calls[0]
        require_equal(call.function.name, "get_weather", "the function")
        require_json(call.function.arguments, WEATHER_PARAMETERS)
        messages = user(WEATHER_QUESTION) + [
            choice.message.model_dump(exclude_none=True),
            *({"role": "tool", "tool_call_id": c.id, "content": "17 degrees"} for c in choice.message.tool_calls),
        ]
        after = self.client.chat.completions.create(
            model=self.served.model, messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=MAX_TOKENS
        )
        require(after.choices[0].message.content, "an answer to the tool's result", after)

    def tools_streamed(self):
        named = {"type": "function", "function": {"name": "get_weather"}}
        settings = {"tools": [WEATHER], "tool_choice": named, "max_tokens": JSON_TOKENS, "parallel_tool_calls": False}
        whole = self.chat(WEATHER_QUESTION, **settings).choices[0].message.tool_calls[0].function
        with self.client.chat.completions.stream(
            model=self.served.model, messages=user(WEATHER_QUESTION), temperature=0, **settings
        ) as stream:
            call = stream.get_final_completion().choices[0].message.tool_calls[0].function
        require_equal((call.name, call.arguments), (whole.name, whole.arguments), "the streamed call")

    def json_schema(self):
        schema = {"name": "book", "schema": BOOK_SCHEMA, "strict": True}
        response_format = {"type": "json_schema", "json_schema": schema}
        settings = {"response_format": response_format, "max_tokens": JSON_TOKENS}
        text = self.chat(BOOK_QUESTION, **settings).choices[0].message.content
        require_json(text, BOOK_SCHEMA)
        chunks = self.chat(BOOK_QUESTION, stream=True, **settings)
        require_equal("".join(c.choices[0].delta.content or "" for c in chunks), text, "the streamed JSON")
        parsed = self.client.chat.completions.parse(
            model=self.served.model, messages=user("Name a city."), response_format=City, max_tokens=JSON_TOKENS, temperature=0
        )
        require(isinstance(parsed.choices[0].message.parsed, City), "a City", parsed)

    def logprobs(self):
        choice = self.chat(logprobs=True, top_logprobs=3).choices[0]
        tokens = [token.model_dump() for token in choice.logprobs.content]
        require_logprobs(choice.message.content, tokens, 3)
        chunks = self.chat(logprobs=True, top_logprobs=3, stream=True)
        streamed = [t.model_dump() for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
        require_equal(streamed, tokens, "the streamed log-probabilities")

    def n_2(self):
        settings = {"n": 2, "temperature": 1, "seed": 7}
        first, again = (self.chat(**settings) for _ in range(2))
        texts = [choice.message.content for choice in first.choices]
        require_equal([choice.index for choice in first.choices], [0, 1], "the answers' places")
        require(texts[0] != texts[1], "two answers", texts)
        require_equal([choice.message.content for choice in again.choices], texts, "the answers to the same seed")

    def stop(self):
        stop, before = stop_in(self.chat().choices[0].message.content)
        choice = self.chat(stop=[stop, "\x00"]).choices[0]
        require_equal((choice.message.content, choice.finish_reason), (before, "stop"), "what comes before the stop")
        chunks = self.chat(stop=stop, stream=True)
        require_equal("".join(c.choices[0].delta.content or "" for c in chunks), before, "what is streamed before it")

    def cached_tokens(self):
        system = f"{SYSTEM} (asked by {self.name})"
        first, second = (self.chat(system=system) for _ in range(2))
        texts = [found.choices[0].message.content for found in (first, second)]
        require_cached(*texts, second.usage.prompt_tokens, second.usage.prompt_tokens_details.cached_tokens)

    def errors(self):
        stranger = self.client.with_options(api_key="wrong")
        error = refused(openai.AuthenticationError, stranger.models.list)
        require_equal((error.status_code, error.code), (401, "invalid_api_key"), "the refusal of a wrong key")
        error = refused(openai.NotFoundError, lambda: self.client.completions.create(model="absent", prompt="x"))
        require_equal(error.code, "model_not_found", "the refusal of a model")
        for settings, param in [
            ({"extra_body": {"no_such_field": 1}}, "no_such_field"),
            ({"temperature": -1}, "temperature"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ]:
            error = refused(openai.BadRequestError, lambda: self.chat(**settings))
            require_equal((error.type, error.param), ("invalid_request_error", param), "the field that is refused")
        error = refused(openai.BadRequestError, lambda: self.chat("word " * 20_000))
        require_equal(error.code, "context_length_exceeded", "the refusal of a prompt")

    def responses(self):
        settings = {"model": self.served.model, "temperature": 0, "max_output_tokens": MAX_TOKENS}
        whole = self.client.responses.create(input=QUESTION, instructions="Be brief.", **settings)
        require(whole.output_text and whole.usage.output_tokens > 0, "some text and its usage", whole)
        with self.client.responses.stream(input=QUESTION, instructions="Be brief.", **settings) as stream:
            require_equal(stream.get_final_response().output_text, whole.output_text, "the streamed text")
        settings["max_output_tokens"] = JSON_TOKENS
        tool = {"type": "function", "strict": True, **WEATHER["function"]}
        called = self.client.responses.create(input=WEATHER_QUESTION, tools=[tool], tool_choice="required", **settings)
        require_json(called.output[0].arguments, WEATHER_PARAMETERS)
        parsed = self.client.responses.parse(input="Name a city.", text_format=City, **settings)
        require(isinstance(parsed.output_parsed, City), "a City", parsed)

    def completions(self):
        settings = {"model": self.served.model, "temperature": 0, "max_tokens": 8}
        choices = self.client.completions.create(prompt=["One, two,", "A, B,"], logprobs=2, echo=True, **settings).choices
        require(choices[0].text.startswith("One, two,") and choices[1].text.startswith("A, B,"), "the prompts", choices)
        require_equal("".join(choices[0].logprobs.tokens), choices[0].text, "the tokens together")
        text = "".join(c.choices[0].text for c in self.client.completions.create(prompt="One, two,", stream=True, **settings))
        require_equal("One, two," + text, choices[0].text, "the streamed text")

    def embeddings(self):
        texts = ["a cat", "a cat", "the theory of sets"]
        found = self.client.embeddings.create(model=self.served.model, input=texts)
        require_embeddings([item.embedding for item in found.data], found.usage.total_tokens)
        raw = self.client.embeddings.create(model=self.served.model, input="a cat", encoding_format="base64")
        vector = raw.data[0].embedding
        vector = little_endian_floats(vector) if isinstance(vector, str) else vector
        require_equal(vector, found.data[0].embedding, "the vector in base64")

    def models(self):
        require(self.served.model in [model.id for model in self.client.models.list()], "the model in the list", None)
        require_equal(self.client.models.retrieve(self.served.model).object, "model", "the model's kind")
