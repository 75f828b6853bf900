"""The litellm package, by OpenAI's interface and, for one answer and one stream, by Anthropic's."""

import os

# Prices are asked of no server, and nothing is reported to any.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

from cases import (  # noqa: E402
    BOOK_QUESTION, BOOK_SCHEMA, JSON_TOKENS, MAX_TOKENS, QUESTION, SYSTEM, WEATHER, WEATHER_PARAMETERS, WEATHER_QUESTION,
    refused, require, require_cached, require_embeddings, require_equal, require_json, require_logprobs, stop_in, user,
)

litellm.telemetry = False
litellm.suppress_debug_info = True


class LiteLlm:
    name = "litellm"

    def __init__(self, served):
        self.served = served

    def chat(self, question=QUESTION, system=None, **settings):
        base = {"model": f"openai/{self.served.model}", "api_base": f"{self.served.url}/v1", "api_key": self.served.key}
        base |= {"temperature": 0, "max_tokens": MAX_TOKENS, "num_retries": 0, "messages": user(question, system)}
        return litellm.completion(**(base | settings))

    def answer(self):
        found = self.chat()
        require(found.choices[0].message.content and found.usage.completion_tokens, "text and its usage", found)
        require(self.by_anthropic().choices[0].message.content, "text by Anthropic's interface", None)

    def by_anthropic(self, **settings):
        return self.chat(model=f"anthropic/{self.served.model}", api_base=self.served.url, **settings)

    def stream(self):
        for ask in (self.chat, self.by_anthropic):
            text = "".join(chunk.choices[0].delta.content or "" for chunk in ask(stream=True))
            require_equal(text, ask().choices[0].message.content, "the streamed text")

    def tools(self):
        settings = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": JSON_TOKENS}
        found = self.chat(WEATHER_QUESTION, **settings)
        message = found.choices[0].message
        require_equal(found.choices[0].finish_reason, "tool_calls", "how it ends")
        require_json(message.tool_calls[0].function.arguments, WEATHER_PARAMETERS)
        results = [{"role": "tool", "tool_call_id": c.id, "content": "17 degrees"} for c in message.tool_calls]
        messages = [*user(WEATHER_QUESTION), message, *results]
        after = self.chat(messages=messages, tools=[WEATHER], tool_choice="none")
        require(after.choices[0].message.content, "an answer to the tool's result", after)

    def tools_streamed(self):
        settings = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": JSON_TOKENS}
        whole = self.chat(WEATHER_QUESTION, **settings).choices[0].message.tool_calls[0].function
        chunks = list(self.chat(WEATHER_QUESTION, stream=True, **settings))
        call = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0].function
        require_equal((call.name, call.arguments), (whole.name, whole.arguments), "the streamed call")

    def json_schema(self):
        schema = {"name": "book", "schema": BOOK_SCHEMA, "strict": True}
        wanted = {"type": "json_schema", "json_schema": schema}
        found = self.chat(BOOK_QUESTION, response_format=wanted, max_tokens=JSON_TOKENS)
        require_json(found.choices[0].message.content, BOOK_SCHEMA)

    def logprobs(self):
        choice = self.chat(logprobs=True, top_logprobs=2).choices[0]
        tokens = [token.model_dump() for token in choice.logprobs.content]
        require_logprobs(choice.message.content, tokens, 2)

    def n_2(self):
        texts = [choice.message.content for choice in self.chat(n=2, temperature=1, seed=5).choices]
        require(len(texts) == 2 and texts[0] != texts[1], "two answers", texts)

    def stop(self):
        stop, before = stop_in(self.chat().choices[0].message.content)
        require_equal(self.chat(stop=[stop]).choices[0].message.content, before, "what comes before the stop")

    def cached_tokens(self):
        system = f"{SYSTEM} (asked by {self.name})"
        first, second = (self.chat(system=system) for _ in range(2))
        texts = [found.choices[0].message.content for found in (first, second)]
        require_cached(*texts, second.usage.prompt_tokens, second.usage.prompt_tokens_details.cached_tokens)

    def errors(self):
        refused(litellm.AuthenticationError, lambda: self.chat(api_key="wrong"))
        refused(litellm.NotFoundError, lambda: self.chat(model="openai/absent"))
        error = refused(litellm.BadRequestError, lambda: self.chat(extra_body={"no_such_field": 1}))
        require("no_such_field" in str(error), "the field that is refused", error)

    def embeddings(self):
        base = {"model": f"openai/{self.served.model}", "api_base": f"{self.served.url}/v1", "api_key": self.served.key}
        found = litellm.embedding(input=["a cat", "a cat", "the theory of sets"], encoding_format="float", **base)
        require_embeddings([item["embedding"] for item in found.data], found.usage.total_tokens)
