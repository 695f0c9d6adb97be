"""ChatLocal and LocalLLM on the embedded model: LangChain's methods, options and errors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_samples import until
from langchain_core.caches import InMemoryCache
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.rate_limiters import InMemoryRateLimiter

from llms import ChatLocal, ChatMistralNF4, LocalLLM, MistralNF4, find_scorer
from llms.errors import BadRequest, ContextOverflow, LLMError, TextOnly, UnknownModel

FRANCE = "What is the capital of France?"


@pytest.fixture
def llm(embedded_cache: Path) -> LocalLLM:
    return LocalLLM(
        model="smollm2-135m", temperature=0, max_tokens=4, cache_dir=embedded_cache, notify=lambda line: None
    )


def test_a_stream_is_what_invoke_gives(chat: ChatLocal) -> None:
    whole = chat.invoke(FRANCE)
    chunks = list(chat.stream(FRANCE))
    assert "Paris" in whole.text and "".join(c.text for c in chunks) == whole.text
    assert FRANCE not in whole.text  # The answer does not repeat the prompt.
    last = chunks[-1]
    assert last.chunk_position == "last" and last.usage_metadata is not None
    assert last.usage_metadata["output_tokens"] == whole.usage_metadata["output_tokens"]  # type: ignore[index]
    assert last.response_metadata["finish_reason"] == "stop"
    assert last.response_metadata["model_name"] == "smollm2-135m"
    assert all(c.usage_metadata is None for c in chunks[:-1])


def test_stop_and_limits_set_the_finish_reason(chat: ChatLocal) -> None:
    stopped = chat.invoke(FRANCE, stop=["France"])
    assert stopped.text == "The capital of " and stopped.response_metadata["finish_reason"] == "stop"
    cut = chat.invoke(FRANCE, max_tokens=3)
    assert cut.response_metadata["finish_reason"] == "length" and cut.usage_metadata["output_tokens"] == 3  # type: ignore[index]


def test_a_closed_stream_stops_decoding(chat: ChatLocal) -> None:
    engine = chat.runtime().engine
    stream = chat.stream("Tell me a long story.")
    for _ in range(3):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    before = engine.steps
    until(lambda: not engine.scheduler.active)
    assert engine.steps <= before + 1


def test_a_batch_runs_as_one_and_fails_one_by_one(chat: ChatLocal) -> None:
    engine = chat.runtime().engine
    questions: list[Any] = [f"Name a city in {c}." for c in ("Italy", "Spain", "Japan", "Peru")]
    before = engine.steps
    answers = chat.batch([*questions, []], max_tokens=8, return_exceptions=True)
    assert engine.steps - before <= 14
    assert isinstance(answers[-1], BadRequest)
    assert all(isinstance(a, AIMessage) and a.text for a in answers[:-1])


def test_a_batch_in_fp32_gives_the_tokens_of_single_runs(embedded: Any) -> None:
    chat = ChatLocal.from_model(embedded.model, embedded.tokenizer, temperature=0, max_tokens=8)
    questions = [FRANCE, "Hi", "What is 2+2? Explain in one short sentence, please."]
    assert [a.text for a in chat.batch(questions)] == [chat.invoke(q).text for q in questions]
    assert chat.invoke("Hi").response_metadata["model_name"] == chat.model


def test_seeds_repeat_and_n_differs(chat: ChatLocal) -> None:
    how: dict[str, Any] = {"temperature": 1.2, "max_tokens": 6}
    once, again = (chat.invoke("Write something odd.", seed=5, **how).text for _ in range(2))
    assert once == again != chat.invoke("Write something odd.", seed=6, **how).text
    result = chat.generate([[HumanMessage("Write something odd.")]], n=3, seed=5, **how)
    assert len({g.text for g in result.generations[0]}) > 1 and len(result.generations[0]) == 3


def test_logprobs_logit_bias_and_penalty(chat: ChatLocal) -> None:
    answer = chat.invoke(FRANCE, logprobs=True, top_logprobs=2, max_tokens=3)
    content = answer.response_metadata["logprobs"]["content"]
    assert [len(c["top_logprobs"]) for c in content] == [2, 2, 2]
    assert all(c["logprob"] == c["top_logprobs"][0]["logprob"] <= 0 for c in content)
    paris = chat.get_token_ids(" Paris")[0]
    assert "Paris" not in chat.invoke(FRANCE, logit_bias={paris: -100}).text
    loop = chat.invoke("Repeat: la la la la la la", max_tokens=12)
    assert chat.invoke("Repeat: la la la la la la", max_tokens=12, repetition_penalty=1.8).text != loop.text


def test_token_counts_are_those_of_the_template(chat: ChatLocal) -> None:
    messages = [SystemMessage("Be brief."), HumanMessage(FRANCE)]
    answer = chat.invoke(messages, max_tokens=1)
    assert answer.usage_metadata is not None
    assert chat.get_num_tokens_from_messages(messages) == answer.usage_metadata["input_tokens"]
    assert chat.get_num_tokens("hello world") == 2


def test_scores_rank_and_are_found_through_wrappers(chat: ChatLocal) -> None:
    paris, london = chat.score("The capital of France is", [" Paris", " London"])
    assert london < paris < 0
    assert chat.score([HumanMessage(FRANCE)], ["Paris"])[0] < 0
    assert find_scorer(chat.bind(stop=["x"]).with_config(tags=["t"])) is not None
    assert find_scorer(StrOutputParser()) is None
    with pytest.raises(BadRequest, match="continuations"):
        chat.score("x", [""])


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1},
        {"temperature": "hot"},
        {"max_tokens": 0},
        {"top_p": 0},
        {"top_k": -1},
        {"min_p": 2},
        {"n": 0},
        {"logit_bias": {1: 1000}},
        {"stop": [3]},
        {"no_such_option": 1},
    ],
)
def test_options_out_of_range_are_refused_by_name(chat: ChatLocal, bad: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=next(iter(bad))):
        chat.invoke("Hi", **bad)


def test_constructor_values_out_of_range_are_refused() -> None:
    for bad in ({"temperature": -1}, {"max_tokens": 0}, {"nonsense": 1}, {"top_p": 1.5}):
        with pytest.raises(BadRequest):
            ChatLocal(**bad)


def test_bad_messages_are_named(chat: ChatLocal) -> None:
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}])
    with pytest.raises(TextOnly, match="image_url"):
        chat.invoke([image])
    for messages in (
        [],
        [HumanMessage("")],
        [HumanMessage("  \n")],
        [ChatMessage(content="hi", role="wizard")],
    ):
        with pytest.raises(BadRequest):
            chat.invoke(messages)
    with pytest.raises(ContextOverflow, match="8192") as raised:
        chat.invoke("word " * 9000)
    assert isinstance(raised.value, ContextOverflowError) and isinstance(raised.value, LLMError)
    assert raised.value.prompt_tokens > 9000


def test_an_unknown_model_fails_on_first_use(embedded_cache: Path) -> None:
    chat = ChatLocal(model="./no/such/folder", cache_dir=embedded_cache)
    with pytest.raises(UnknownModel, match="no/such/folder"):
        chat.invoke("Hi")


def test_langchain_around_it(chat: ChatLocal) -> None:
    cached = chat.model_copy(update={"cache": InMemoryCache()})
    engine = chat.runtime().engine
    first = cached.invoke(FRANCE)
    before = engine.steps
    assert cached.invoke(FRANCE).text == first.text and engine.steps == before
    broken = ChatLocal(model="./nowhere")
    assert "Paris" in broken.with_fallbacks([chat]).invoke(FRANCE).text
    assert "Paris" in chat.with_retry().invoke(FRANCE).text
    limited = chat.model_copy(update={"rate_limiter": InMemoryRateLimiter(requests_per_second=100)})
    chain = ChatPromptTemplate.from_messages([("human", "{q}")]) | limited | StrOutputParser()
    assert "Paris" in chain.invoke({"q": FRANCE})
    assert chat._get_ls_params(stop=["a"])["ls_provider"] == "local"


async def test_fifty_calls_at_once_neither_mix_nor_lock(chat: ChatLocal) -> None:
    numbers = [str(1000 + 37 * i) for i in range(50)]
    answers = await asyncio.wait_for(
        chat.abatch([f"Repeat this number: {n}" for n in numbers], max_tokens=6), 120
    )
    right = sum(n in a.text for n, a in zip(numbers, answers, strict=True))
    wrong = sum(any(m in a.text for m in numbers if m != n) for n, a in zip(numbers, answers, strict=True))
    assert right >= 25 and wrong <= 2


async def test_cancelling_a_task_stops_within_a_token(chat: ChatLocal) -> None:
    engine = chat.runtime().engine
    task = asyncio.create_task(chat.ainvoke("Tell me a long story.", max_tokens=60))
    while not engine.scheduler.active:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    before = engine.steps
    await asyncio.sleep(0.4)
    assert engine.steps <= before + 2


async def test_events_stream(chat: ChatLocal) -> None:
    kinds = [e["event"] async for e in chat.astream_events("Hi", version="v2", max_tokens=3)]
    assert kinds[0] == "on_chat_model_start" and "on_chat_model_stream" in kinds
    assert kinds[-1] == "on_chat_model_end"


def test_raw_text_continues_with_its_space(llm: LocalLLM) -> None:
    assert llm.invoke("The capital of France is").startswith(" Paris")
    assert "".join(llm.stream("The capital of France is")).startswith(" Paris")
    result = llm.generate(["The capital of France is", "One, two, three,"])
    assert result.generations[1][0].text.startswith(" four") and result.llm_output is not None
    assert result.llm_output["token_usage"]["output_tokens"] == 8
    with pytest.raises(BadRequest):
        llm.invoke("")


async def test_raw_text_async(llm: LocalLLM) -> None:
    assert (await llm.ainvoke("The capital of France is")).startswith(" Paris")
    assert "".join([t async for t in llm.astream("The capital of France is")]).startswith(" Paris")


def test_the_articles_classes_are_the_same_with_other_defaults() -> None:
    assert issubclass(ChatMistralNF4, ChatLocal) and issubclass(MistralNF4, LocalLLM)
    for model in (ChatMistralNF4(), MistralNF4()):
        assert (model.model, model.quantization) == ("mistral-7b", "nf4")


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, llms; llms.ChatLocal(model='x'); llms.LocalLLM; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
