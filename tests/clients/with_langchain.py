"""The langchain-openai package."""

import openai
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from cases import (
    BOOK_QUESTION, BOOK_SCHEMA, JSON_TOKENS, MAX_TOKENS, QUESTION, SYSTEM, WEATHER, WEATHER_PARAMETERS, WEATHER_QUESTION,
    refused, require, require_cached, require_embeddings, require_equal, require_json, require_logprobs, stop_in,
)


class LangChain:
    name = "langchain-openai"

    def __init__(self, served):
        self.served = served

    def model(self, **settings):
        base = {"model": self.served.model, "base_url": f"{self.served.url}/v1", "api_key": self.served.key}
        return ChatOpenAI(**(base | {"temperature": 0, "max_tokens": MAX_TOKENS, "max_retries": 0, "timeout": 120} | settings))

    def answer(self):
        found = self.model().invoke(QUESTION)
        require(found.content, "some text", found)
        usage = found.usage_metadata
        require_equal(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"], "all tokens")

    def stream(self):
        whole = self.model().invoke(QUESTION)
        pieces = list(self.model(stream_usage=True).stream(QUESTION))
        text = "".join(piece.content for piece in pieces)
        require_equal(text, whole.content, "the streamed text")
        usage = sum(pieces[1:], pieces[0]).usage_metadata
        require_equal(usage["output_tokens"], whole.usage_metadata["output_tokens"], "the streamed usage")

    def tools(self):
        model = self.model(max_tokens=JSON_TOKENS)
        found = model.bind_tools([WEATHER], tool_choice="any").invoke(WEATHER_QUESTION)
        require_equal(found.tool_calls[0]["name"], "get_weather", "the function")
        require_json(found.tool_calls[0]["args"], WEATHER_PARAMETERS)
        results = [ToolMessage("17 degrees", tool_call_id=call["id"]) for call in found.tool_calls]
        after = self.model().bind_tools([WEATHER], tool_choice="none").invoke([HumanMessage(WEATHER_QUESTION), found, *results])
        require(after.content, "an answer to the tool's result", after)

    def tools_streamed(self):
        model = self.model(max_tokens=JSON_TOKENS).bind_tools([WEATHER], tool_choice="get_weather", parallel_tool_calls=False)
        pieces = list(model.stream(WEATHER_QUESTION))
        streamed, whole = sum(pieces[1:], pieces[0]), model.invoke(WEATHER_QUESTION)
        require_equal(streamed.tool_calls[0]["args"], whole.tool_calls[0]["args"], "the streamed call")

    def json_schema(self):
        model = self.model(max_tokens=JSON_TOKENS).with_structured_output(BOOK_SCHEMA, method="json_schema")
        require_json(model.invoke(BOOK_QUESTION), BOOK_SCHEMA)

    def logprobs(self):
        found = self.model(logprobs=True, top_logprobs=2).invoke(QUESTION)
        require_logprobs(found.content, found.response_metadata["logprobs"]["content"], 2)

    def n_2(self):
        found = self.model(n=2, temperature=1, seed=3).generate([[HumanMessage(QUESTION)]]).generations[0]
        require(len(found) == 2 and found[0].text != found[1].text, "two answers", found)

    def stop(self):
        stop, before = stop_in(self.model().invoke(QUESTION).content)
        require_equal(self.model(stop=[stop]).invoke(QUESTION).content, before, "what comes before the stop")

    def cached_tokens(self):
        messages = [SystemMessage(f"{SYSTEM} (asked by {self.name})"), HumanMessage(QUESTION)]
        first, second = (self.model().invoke(messages) for _ in range(2))
        usage = second.usage_metadata
        require_cached(first.content, second.content, usage["input_tokens"], usage["input_token_details"]["cache_read"])

    def errors(self):
        refused(openai.AuthenticationError, lambda: self.model(api_key="wrong").invoke(QUESTION))
        refused(openai.NotFoundError, lambda: self.model(model="absent").invoke(QUESTION))
        error = refused(openai.BadRequestError, lambda: self.model(extra_body={"no_such_field": 1}).invoke(QUESTION))
        require_equal(error.param, "no_such_field", "the field that is refused")

    def responses(self):
        model = self.model(use_responses_api=True)
        whole = model.invoke(QUESTION)
        pieces = list(model.stream(QUESTION))
        require(whole.text, "some text", whole)
        require_equal(sum(pieces[1:], pieces[0]).text, whole.text, "the streamed text")

    def embeddings(self):
        # The server makes the tokens: the package would with those of OpenAI's models.
        base = {"base_url": f"{self.served.url}/v1", "api_key": self.served.key, "check_embedding_ctx_length": False}
        model = OpenAIEmbeddings(model=self.served.model, **base)
        require_embeddings(model.embed_documents(["a cat", "a cat", "the theory of sets"]))
