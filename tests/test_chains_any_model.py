"""Every chain with LangChain's own chat models, plain and wrapped by `.bind()` and `.with_config()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fakes import RawModel, StaticRetriever
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage

from chains import Classification, Summary, classify_chain, complete_chain, rag_chain, summarize_chain

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
    retriever = StaticRetriever(documents=[Document(TEXT, metadata={"source": "ferry.md", "cosine": 0.8})])
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


class Starts(BaseCallbackHandler):
    """Records each run that starts, with its tags."""

    def __init__(self) -> None:
        self.chains: list[str] = []
        self.models: list[list[str]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, *, name: str = "", **rest: Any) -> None:
        self.chains.append(name)

    def on_chat_model_start(self, *args: Any, tags: Any = None, **rest: Any) -> None:
        self.models.append(tags or [])

    def on_llm_start(self, *args: Any, tags: Any = None, **rest: Any) -> None:
        self.models.append(tags or [])


CHAINS: list[tuple[str, Callable[[Any], Any], str, str]] = [
    ("summarize_chain", summarize_chain, TEXT, "The ferry carries forty cars."),
    ("classify_chain", lambda model: classify_chain(model, ["ships", "cows"]), TEXT, "ships"),
    ("complete_chain", complete_chain, "The ferry leaves at ", "eight."),
]
EACH = pytest.mark.parametrize(("name", "make", "text", "reply"), CHAINS, ids=[one[0] for one in CHAINS])


def _text(found: Any) -> str:
    return found.text if isinstance(found, Summary) else getattr(found, "label", found)


@MODELS
@EACH
async def test_batches_and_streams_over_any_model(
    model: Callable[[str], Any], name: str, make: Callable[[Any], Any], text: str, reply: str
) -> None:
    chain = make(model(reply))
    assert [_text(one) for one in chain.batch([text, text])] == [reply, reply]
    assert [_text(one) for one in await make(model(reply)).abatch([text, text])] == [reply, reply]
    for pieces in (
        list(make(model(reply)).stream(text)),
        [p async for p in make(model(reply)).astream(text)],
    ):
        whole = isinstance(pieces[-1], Summary | Classification)
        assert (_text(pieces[-1]) if whole else "".join(pieces)) == reply


@MODELS
@EACH
def test_callbacks_and_tags_reach_the_model(
    model: Callable[[str], Any], name: str, make: Callable[[Any], Any], text: str, reply: str
) -> None:
    seen = Starts()
    make(model(reply)).with_config(tags=["mine"]).invoke(text, {"callbacks": [seen]})
    assert name in seen.chains and len(seen.models) == 1 and "mine" in seen.models[0]


async def test_a_completion_model_keeps_what_was_bound() -> None:
    inner = RawModel(texts=["eight; and nine"])
    model = inner.bind(top_k=3).with_config(tags=["outer"]).bind(top_k=5)
    seen = Starts()
    chain = complete_chain(model, kind="code", language="text", samples=1)
    assert chain.invoke("The ferry leaves at ", {"callbacks": [seen]}) == "eight; and nine"
    assert inner.seen[-1][1]["top_k"] == 5 and "outer" in seen.models[0]
    plain = complete_chain(FakeListLLM(responses=["eight."]))
    assert await plain.abatch(["It leaves at ", "It leaves at "]) == ["eight.", "eight."]
    assert [one async for one in plain.astream("It leaves at ")]
