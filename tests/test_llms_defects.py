"""Defects of LangChain's own local chat model that this one does not have, one per test.

Each test names the reports about `ChatHuggingFace` on a local pipeline, by their issue numbers in
langchain-ai/langchain.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from llms import ChatLocal, LocalLLM
from llms.errors import LLMError

FRANCE = "What is the capital of France?"


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


class Review(BaseModel):
    """A film review."""

    film: str
    verdict: Literal["good", "bad"]


def seen_prompt(chat: ChatLocal, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the text of every prompt that reaches the tokenizer."""
    runtime, seen = chat.runtime(), list[str]()
    plain = runtime.encode

    def encode(text: str, *, special: bool = True) -> list[int]:
        seen.append(text)
        return plain(text, special=special)

    monkeypatch.setattr(runtime, "encode", encode)
    return seen


def test_tools_reach_the_prompt(chat: ChatLocal, monkeypatch: pytest.MonkeyPatch) -> None:
    """29033, 30453: bound tools are missing from the prompt."""
    seen = seen_prompt(chat, monkeypatch)
    chat.bind_tools([multiply], tool_choice="any").invoke("What is 6 times 7?", max_tokens=24)
    assert any("multiply" in text and "Multiply two numbers." in text for text in seen)


def test_a_tool_call_is_a_tool_call_and_not_text(chat: ChatLocal) -> None:
    """24430: the answer is the prompt followed by prose, and `tool_calls` is empty."""
    answer = chat.bind_tools([multiply]).invoke("Multiply 6 by 7.")
    assert answer.text == ""
    assert [(c["name"], c["args"]) for c in answer.tool_calls] == [("multiply", {"a": 6, "b": 7})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_structured_output_is_an_instance(chat: ChatLocal, method: Any) -> None:
    """29569: `with_structured_output` returns None or raises an error with any model."""
    found = chat.with_structured_output(Review, method=method).invoke("Jaws is a good film.")
    assert isinstance(found, Review)


async def test_async_runs_in_process_and_batches(chat: ChatLocal) -> None:
    """`ainvoke` and `astream` raise an error on a pipeline."""
    answers = await asyncio.gather(*(chat.ainvoke(FRANCE, max_tokens=8) for _ in range(3)))
    assert all("Paris" in answer.text for answer in answers)
    assert "Paris" in "".join([chunk.text async for chunk in chat.astream(FRANCE)])


def test_stop_strings_end_the_answer_and_are_no_part_of_it(chat: ChatLocal) -> None:
    """Stop strings are ignored, and generation runs to its limit."""
    answer = chat.invoke(FRANCE, stop=["Paris"])
    assert answer.text == "The capital of France is "
    assert answer.response_metadata["finish_reason"] == "stop"
    assert "".join(c.text for c in chat.stream(FRANCE, stop=["Paris"])) == answer.text


def test_the_prompt_is_not_echoed(chat: ChatLocal, embedded_cache: Path) -> None:
    """The answer begins with the whole rendered prompt."""
    messages = [SystemMessage("Answer in one word."), HumanMessage(FRANCE)]
    answer = chat.invoke(messages, max_tokens=16).text
    assert FRANCE not in answer and "one word" not in answer and "<|im_start|>" not in answer
    raw = LocalLLM(model="smollm2-135m", temperature=0, max_tokens=3, cache_dir=embedded_cache)
    assert "France" not in raw.invoke("The capital of France is")


class Failures(BaseCallbackHandler):
    """Records the errors that callbacks receive."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.errors.append(error)


@pytest.mark.parametrize("how", ["invoke", "stream", "ainvoke", "astream", "batch"])
def test_an_error_while_decoding_is_raised_and_not_an_empty_answer(
    embedded: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Errors in the generating thread end the stream as if the answer were empty."""
    chat = ChatLocal.from_model(embedded.model, embedded.tokenizer, temperature=0, max_tokens=12)
    decoder = chat.runtime().engine.decoder
    step, left = decoder.step, [3]

    def failing(slots: Sequence[int], tokens: Any, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            raise RuntimeError("the device went away")
        return step(slots, tokens, *args, **kwargs)

    monkeypatch.setattr(decoder, "step", failing)
    handler = Failures()
    with pytest.raises(RuntimeError, match="the device went away"):
        run(chat, how, handler)
    assert [str(error) for error in handler.errors] == ["the device went away"]
    assert chat.invoke(FRANCE).text  # The engine still works.


def run(chat: ChatLocal, how: str, handler: BaseCallbackHandler) -> None:
    """Call the model in one of LangChain's ways."""
    config: Any = {"callbacks": [handler]}

    async def astream() -> None:
        async for _ in chat.astream(FRANCE, config):
            pass

    ways: dict[str, Any] = {
        "invoke": lambda: chat.invoke(FRANCE, config),
        "stream": lambda: list(chat.stream(FRANCE, config)),
        "ainvoke": lambda: asyncio.run(chat.ainvoke(FRANCE, config)),
        "astream": lambda: asyncio.run(astream()),
        "batch": lambda: chat.batch([FRANCE], config),
    }
    ways[how]()


def test_a_model_that_cannot_load_says_so_on_every_way_in() -> None:
    for how in ("invoke", "stream", "ainvoke", "astream", "batch"):
        with pytest.raises(LLMError, match="no/such/model"):
            run(ChatLocal(model="./no/such/model"), how, Failures())
