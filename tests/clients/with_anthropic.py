"""The anthropic package. Its interface has no log-probabilities and one answer a request."""

import anthropic

from cases import (
    BOOK_QUESTION, BOOK_SCHEMA, JSON_TOKENS, MAX_TOKENS, QUESTION, SYSTEM, WEATHER_PARAMETERS, WEATHER_QUESTION,
    refused, require, require_cached, require_equal, require_json, stop_in, user,
)

TOOL = {"name": "get_weather", "description": "The weather of a city now", "input_schema": WEATHER_PARAMETERS}


class Anthropic:
    name = "anthropic"

    def __init__(self, served):
        self.served = served
        self.client = anthropic.Anthropic(base_url=served.url, api_key=served.key, max_retries=0, timeout=120)

    def settings(self, question=QUESTION, **more):
        # A temperature of 0 is what makes two answers comparable; newer models of this interface take no other.
        body = {"model": self.served.model, "messages": user(question), "max_tokens": MAX_TOKENS}
        return body | {"extra_body": {"temperature": 0}} | more

    def message(self, *args, **more):
        return self.client.messages.create(**self.settings(*args, **more))

    def streamed(self, *args, **more):
        with self.client.messages.stream(**self.settings(*args, **more)) as stream:
            pieces = "".join(stream.text_stream)
            return pieces, stream.get_final_message()

    def answer(self):
        found = self.message()
        require_equal((found.role, found.type, found.model), ("assistant", "message", self.served.model), "the message")
        require(found.content[0].text and found.stop_reason in ("end_turn", "max_tokens"), "text and its end", found)
        counted = self.client.messages.count_tokens(model=self.served.model, messages=user(QUESTION))
        usage = found.usage
        read = usage.cache_read_input_tokens + usage.cache_creation_input_tokens + usage.input_tokens
        require_equal(read, counted.input_tokens, "the prompt's tokens")

    def stream(self):
        pieces, final = self.streamed()
        whole = self.message()
        require_equal(pieces, whole.content[0].text, "the streamed text")
        require_equal(final.content[0].text, pieces, "the final message")
        require_equal(final.usage.output_tokens, whole.usage.output_tokens, "the streamed usage")

    def tools(self):
        settings = {"tools": [TOOL], "max_tokens": JSON_TOKENS}
        found = self.message(WEATHER_QUESTION, tool_choice={"type": "any", "disable_parallel_tool_use": True}, **settings)
        require_equal(found.stop_reason, "tool_use", "how it ends")
        calls = [block for block in found.content if block.type == "tool_use"]
        require_json(calls[0].input, WEATHER_PARAMETERS)
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "17 degrees"} for call in calls]
        said = [block.model_dump(include={"type", "id", "name", "input", "text"}, exclude_none=True) for block in found.content]
        messages = user(WEATHER_QUESTION) + [{"role": "assistant", "content": said}, {"role": "user", "content": results}]
        after = self.message(messages=messages, tools=[TOOL], tool_choice={"type": "none"})
        require(after.content[0].text, "an answer to the tool's result", after)

    def tools_streamed(self):
        choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
        settings = {"tools": [TOOL], "tool_choice": choice, "max_tokens": JSON_TOKENS}
        whole = self.message(WEATHER_QUESTION, **settings)
        _, final = self.streamed(WEATHER_QUESTION, **settings)
        require_equal(final.content[0].input, whole.content[0].input, "the streamed call")

    def json_schema(self):
        wanted = {"format": {"type": "json_schema", "schema": BOOK_SCHEMA}}
        found = self.message(BOOK_QUESTION, output_config=wanted, max_tokens=JSON_TOKENS)
        require_json(found.content[0].text, BOOK_SCHEMA)

    def stop(self):
        stop, before = stop_in(self.message().content[0].text)
        found = self.message(stop_sequences=[stop])
        ended = (found.content[0].text, found.stop_reason, found.stop_sequence)
        require_equal(ended, (before, "stop_sequence", stop), "what comes before the stop")

    def cached_tokens(self):
        system = [{"type": "text", "text": f"{SYSTEM} (asked by {self.name})", "cache_control": {"type": "ephemeral"}}]
        first, second = (self.message(system=system) for _ in range(2))
        usage = second.usage
        prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
        require_cached(first.content[0].text, second.content[0].text, prompt, usage.cache_read_input_tokens)

    def errors(self):
        stranger = self.client.with_options(api_key="wrong")
        error = refused(anthropic.AuthenticationError, lambda: stranger.messages.create(**self.settings()))
        require_equal(error.body["error"]["type"], "authentication_error", "the refusal of a wrong key")
        error = refused(anthropic.NotFoundError, lambda: self.message(model="absent"))
        require_equal(error.body["error"]["type"], "not_found_error", "the refusal of a model")
        for more, field in [({"extra_body": {"no_such_field": 1}}, "no_such_field"), ({"max_tokens": 0}, "max_tokens")]:
            error = refused(anthropic.BadRequestError, lambda: self.message(**more))
            require_equal((error.body["type"], error.body["error"]["type"]), ("error", "invalid_request_error"), "the refusal")
            require(field in error.body["error"]["message"], f"{field} in the message", error.body)

    def models(self):
        require(self.served.model in [model.id for model in self.client.models.list()], "the model in the list", None)
