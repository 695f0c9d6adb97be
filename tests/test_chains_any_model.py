"""Each chain over chat models of LangChain's own, plain and wrapped by `.bind()` and `.with_config()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes import StaticRetriever
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage

from chains import classify_chain, complete_chain, rag_chain, summarize_chain

TEXT = "The ferry to Holm leaves at eight. It carries forty cars. Dogs travel free."
REPLY = "The ferry to Holm leaves at eight [1]."


def _listed(reply: str) -> Any:
    return FakeListChatModel(responses=[reply])


def _generic(reply: str) -> Any:
    return GenericFakeChatModel(messages=iter([AIMessage(reply)] * 8))


def _wrapped(reply: str) -> Any:
    return FakeListChatModel(responses=[reply]).bind(stop=["\n\n\n"]).with_config(tags=["test"])


MODELS = pytest.mark.parametrize("model", [_listed, _generic, _wrapped], ids=["listed", "generic", "wrapped"])


@MODELS
async def test_rag_over_any_model(model: Callable[[str], Any]) -> None:
    retriever = StaticRetriever(documents=[Document(TEXT, metadata={"source": "ferry.md", "score": 0.8})])
    chain = rag_chain(model(REPLY), retriever)
    answer = chain.invoke("When does the ferry leave?")
    assert answer.method == "generative" and answer.text == "The ferry to Holm leaves at eight. [1]"
    assert (await chain.ainvoke("When does the ferry leave?")).text == answer.text


@MODELS
async def test_summaries_from_any_model(model: Callable[[str], Any]) -> None:
    chain = summarize_chain(model("The ferry carries forty cars."))
    assert chain.invoke(TEXT).text == "The ferry carries forty cars."
    assert (await chain.ainvoke(TEXT)).method == "written"


@MODELS
async def test_labels_from_any_model(model: Callable[[str], Any]) -> None:
    chain = classify_chain(model("ships"), ["ships", "cows"])
    assert chain.invoke(TEXT).label == "ships" and chain.batch([TEXT])[0].method == "reply"
    assert (await chain.ainvoke(TEXT)).label == "ships"


@MODELS
async def test_completions_from_any_model(model: Callable[[str], Any]) -> None:
    chain = complete_chain(model("eight."))
    assert chain.invoke("The ferry leaves at ") == "eight." == await chain.ainvoke("The ferry leaves at ")
