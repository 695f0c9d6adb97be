"""ChatLocal inside LangChain: saved settings, caches, limits, fallbacks, events, callbacks, tracing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableBinding

from llms import ChatLocal, ChatMistralNF4, LocalLLM, MistralNF4
from llms.errors import BadRequest

FRANCE = "What is the capital of France?"


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
@pytest.mark.parametrize("kind", [ChatLocal, ChatMistralNF4, LocalLLM, MistralNF4])
def test_settings_are_saved_and_loaded(kind: Any) -> None:
    model = kind(temperature=0, stop=["x"], seed=3, window=512)
    found = loads(dumps(model), allowed_objects=[kind], valid_namespaces=["llms"])
    assert type(found) is kind and found == model
    with pytest.raises(ValueError, match="not allowed"):
        loads(dumps(model), allowed_objects="core")


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
def test_a_bound_model_is_saved_with_what_is_bound() -> None:
    bound = ChatLocal(model="smollm2-135m").bind(stop=["a"], max_tokens=3)
    found = loads(dumps(bound), allowed_objects=[ChatLocal, RunnableBinding], valid_namespaces=["llms"])
    assert found.bound == bound.bound and found.kwargs == bound.kwargs


def test_a_rate_limiter_slows_calls_down(chat: ChatLocal) -> None:
    limiter = InMemoryRateLimiter(requests_per_second=4, check_every_n_seconds=0.01, max_bucket_size=1)
    limited = chat.model_copy(update={"rate_limiter": limiter})
    began = time.monotonic()
    for _ in range(3):
        limited.invoke("Hi", max_tokens=1)
    assert time.monotonic() - began >= 0.5


async def test_events_of_both_versions(chat: ChatLocal) -> None:
    whole = chat.invoke(FRANCE).text
    chunks, last = "", None
    async for event in chat.astream_events(FRANCE, version="v2"):
        if event["event"] == "on_chat_model_stream":
            chunks += event["data"]["chunk"].text
        last = event
    assert chunks == whole and last is not None and last["event"] == "on_chat_model_end"
    assert last["data"]["output"].usage_metadata["output_tokens"] > 0


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_events_of_version_three(chat: ChatLocal) -> None:
    stream = await chat.astream_events(FRANCE, version="v3")
    pieces = [piece async for piece in stream.text]
    message = await stream.output
    assert "".join(pieces) == message.text == chat.invoke(FRANCE).text
    assert len(pieces) > 2 and message.usage_metadata["output_tokens"] > 2


class Tokens(BaseCallbackHandler):
    """Records the calls that callbacks receive."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.results: list[LLMResult] = []
        self.params: list[dict[str, Any]] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        self.params.append(kwargs["invocation_params"] | kwargs["metadata"])

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.tokens.append(token)

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.results.append(response)


def test_callbacks_hear_tokens_and_results_and_tracing_metadata(chat: ChatLocal) -> None:
    handler = Tokens()
    config: Any = {"callbacks": [handler], "metadata": {"request": "r-1"}, "tags": ["t"]}
    text = "".join(chunk.text for chunk in chat.stream(FRANCE, config))
    assert "".join(handler.tokens) == text
    message = handler.results[0].generations[0][0].message  # type: ignore[union-attr]
    assert message.usage_metadata["output_tokens"] > 0
    told = handler.params[0]
    assert (told["ls_model_type"], told["ls_model_name"], told["ls_provider"]) == (
        "chat",
        "smollm2-135m",
        "local",
    )
    assert told["ls_temperature"] == 0 and told["request"] == "r-1"


def test_several_answers_come_whole_whoever_listens(chat: ChatLocal) -> None:
    streaming = ChatLocal(**{**chat.model_dump(exclude={"notify"}, exclude_none=True), "streaming": True})
    asked = [[HumanMessage("Write something odd.")]]
    found = streaming.generate(asked, n=3, seed=1, temperature=1.2, max_tokens=5).generations[0]
    assert len(found) == 3 and len({g.text for g in found}) > 1
    (chunk,) = list(streaming.stream("Write something odd.", n=2, seed=1, temperature=1.2, max_tokens=5))
    assert chunk.text == found[0].text


def test_a_fallback_takes_over_in_a_stream_and_a_batch(chat: ChatLocal) -> None:
    broken = ChatLocal(model="./nowhere").with_fallbacks([chat])
    assert "Paris" in "".join(chunk.text for chunk in broken.stream(FRANCE))
    assert all("Paris" in answer.text for answer in broken.batch([FRANCE, FRANCE]))


def read_from_cache(message: AIMessage) -> int:
    assert message.usage_metadata is not None
    return message.usage_metadata["input_token_details"]["cache_read"]


def test_what_was_read_before_is_not_read_again(chat: ChatLocal) -> None:
    """The prefix cache serves the next turn, the other members of a batch, and the calls of a chain."""
    rules = SystemMessage(
        "You are a guide of a museum of lighthouses. " + "Answer in one short sentence. " * 8
    )
    first = chat.invoke([rules, HumanMessage("Who are you?")], max_tokens=8)
    shared = chat.get_num_tokens(rules.text)
    turn = [rules, HumanMessage("Who are you?"), first, HumanMessage("And where?")]
    assert read_from_cache(chat.invoke(turn, max_tokens=2)) > shared
    batch = chat.batch([[rules, HumanMessage(f"Question {i}?")] for i in range(4)], max_tokens=2)
    assert all(read_from_cache(answer) > shared for answer in batch)
    chain = ChatPromptTemplate.from_messages([rules, ("human", "{q}")]) | chat.bind(max_tokens=2)
    assert read_from_cache(chain.invoke({"q": "Is it open?"})) > shared


def test_a_retry_asks_again(chat: ChatLocal, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = chat.runtime().engine.decoder
    step, failures = decoder.step, [2]

    def flaky(*args: Any, **kwargs: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise RuntimeError("once")
        return step(*args, **kwargs)

    monkeypatch.setattr(decoder, "step", flaky)
    retrying = chat.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    answer = retrying.invoke("Name a colour of the sky.", max_tokens=4)
    assert isinstance(answer, AIMessage) and answer.text and failures == [0]


def test_a_cache_tells_a_changed_copy_from_the_model(chat: ChatLocal) -> None:
    """LangChain computes its key once per model, and `model_copy` copies the key with the model."""
    cached = chat.model_copy(update={"cache": InMemoryCache(), "max_tokens": 3})
    first = cached.invoke(FRANCE)
    assert cached.invoke(FRANCE).id == first.id
    for change in ({"max_tokens": 4}, {"temperature": 1.0, "seed": 1}, {"repetition_penalty": 1.3}):
        assert cached.model_copy(update=change).invoke(FRANCE).id != first.id, change


async def test_a_cache_tells_the_options_of_a_completion(embedded_cache: Path) -> None:
    """LangChain leaves call options out of a completion model's key."""
    settings: Any = {"model": "smollm2-135m", "temperature": 0, "cache_dir": embedded_cache}
    llm = LocalLLM(cache=InMemoryCache(), max_tokens=2, notify=lambda line: None, **settings)
    short, long = llm.invoke("One, two, three,"), llm.invoke("One, two, three,", max_tokens=8)
    assert long.startswith(short) and long != short
    assert await llm.ainvoke("One, two, three,", num_predict=8) == long
    assert llm.invoke("One, two, three,", num_predict=8, stop_sequences=[","]) == long.partition(",")[0]
    biased = await llm.ainvoke("One, two, three,", logit_bias={llm.get_token_ids(" four")[0]: -100})
    assert biased not in (short, long)
    with pytest.raises(BadRequest, match="top_p"):
        llm.invoke("One", top_p=7)
    with pytest.raises(BadRequest, match="echo"):
        llm.invoke("One", echo=True)


def test_names_that_other_chat_models_have_for_the_same_options(chat: ChatLocal) -> None:
    other = ChatLocal(
        model_name="smollm2-135m", num_predict=3, repeat_penalty=1.1, num_ctx=512, stop_sequences=["x"]
    )
    assert (other.model, other.max_tokens, other.repetition_penalty, other.window) == (
        "smollm2-135m",
        3,
        1.1,
        512,
    )
    assert other.params().stops == ("x",)
    assert chat.invoke(FRANCE, max_completion_tokens=2).usage_metadata["output_tokens"] == 2  # type: ignore[index]
    for given in ({"max_tokens": 3, "num_predict": 4}, {"model": "a", "model_name": "b"}):
        with pytest.raises(BadRequest, match="once"):
            ChatLocal(**given)
