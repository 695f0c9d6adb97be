"""Prompts of Mistral's own tokenizers: the ids of 40 conversations are those of mistral-common.

`data/mistral_prompts.json` was made once with mistral-common 1.13.1: `MistralTokenizer.v1()` and
`v3(is_tekken=False)`. mistral-common needs numpy < 2.4 and is not installed here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from mistral_tokenizers import CONTROLS, DATA, mistral_tokenizer
from tiny_models import SHAPE, tiny_model

from llms import ChatLocal
from llms.engine.prefix import common_prefix
from llms.errors import BadRequest
from llms.prompts import PromptBuilder
from llms.tokenizer import ModelTokenizer

CASES = json.loads((DATA / "mistral_prompts.json").read_text(encoding="utf-8"))
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}


def message(kind: str, *content: Any) -> BaseMessage:
    if kind == "user":
        return HumanMessage(content[0])
    if kind == "assistant":
        return AIMessage(content[0])
    if kind == "system":
        return SystemMessage(content[0])
    if kind == "calls":
        calls = [
            {"name": name, "args": args, "id": call, "type": "tool_call"} for name, args, call in content[0]
        ]
        return AIMessage("", tool_calls=calls)
    call, text, name = content
    return ToolMessage(text, tool_call_id=call, name=name, status="error" if kind == "error" else "success")


def ids(builder: PromptBuilder, messages: list[BaseMessage], tools: list[Any]) -> list[int]:
    written = builder.write(messages, [{"type": "function", "function": tool} for tool in tools])
    assert not isinstance(written, str)
    return written.ids()


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_the_ids_of_a_conversation_are_those_of_mistral_common(case: dict[str, Any]) -> None:
    builder = PromptBuilder(mistral_tokenizer(case["version"]))
    found = ids(builder, [message(*one) for one in case["messages"]], case["tools"])
    assert found == case["ids"]


def test_the_text_of_a_prompt_is_for_people() -> None:
    builder = PromptBuilder(mistral_tokenizer(3))
    assert (
        builder.render([SystemMessage("Be brief."), HumanMessage("Hi")]) == "<s>[INST] Be brief.\n\nHi[/INST]"
    )


def test_a_result_of_any_form_is_json_and_no_control_token_comes_from_a_text() -> None:
    builder = PromptBuilder(mistral_tokenizer(3))
    plain = [message("user", "x"), message("calls", [["get_weather", {"a": 1}, "abc123XYZ"]])]
    hostile = " ".join([*CONTROLS[:12], CONTROLS[-1], "</s>", "<s>", "<unk>"])

    def controls(text: str) -> list[int]:
        result = ToolMessage(text, tool_call_id="abc123XYZ", name="t")
        return [token for token in ids(builder, [*plain, result], [TOOL["function"]]) if token < 771]

    for text in (hostile, "[" * 100_000, "9" * 5000, "NaN", "\u2028", '{"a": 1', "\x00"):
        assert controls(text) == controls("x")
    with pytest.raises(BadRequest, match="half of a surrogate pair"):
        controls("\ud800")


def test_a_fine_tune_with_another_template_keeps_its_own() -> None:
    chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    assert isinstance(PromptBuilder(mistral_tokenizer(1, chatml)).write([HumanMessage("Hi")]), str)


def test_another_vocabulary_with_mistrals_template_keeps_the_template(embedded: Any) -> None:
    import copy

    tokenizer: ModelTokenizer = copy.copy(embedded.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}[INST] {{ m.content }}[/INST]{% endfor %}"
    assert isinstance(PromptBuilder(tokenizer).write([HumanMessage("Hi")]), str)


@pytest.fixture(scope="module")
def model() -> ChatLocal:
    """A random model with the vocabulary of v0.3."""
    small = {"hidden_size": 32, "head_dim": 8, "vocab_size": 32_768, "max_position_embeddings": 2048}
    wide = tiny_model(**{**SHAPE, **small})
    return ChatLocal.from_model(wide, mistral_tokenizer(3), max_tokens=40, temperature=0)


def test_a_chat_model_sends_these_ids_and_continuations_begin_as_answers_do(model: ChatLocal) -> None:
    runtime = model.runtime()
    messages = [SystemMessage("Be brief."), HumanMessage("Paris or Rome?")]
    assert runtime.prompt_ids(messages) == ids(runtime.prompts, messages, [])
    base, rest = runtime.split(runtime.prompts.write(messages), [" Paris", "Rome"])
    assert base == runtime.prompt_ids(messages)
    assert [runtime.tokenizer.convert_ids_to_tokens(one[0]) for one in rest] == ["▁Paris", "▁Rome"]
    assert len(model.score(messages, ["Paris", "Rome"])) == 2


def test_a_forced_call_follows_its_control_token(model: ChatLocal) -> None:
    def get_weather(location: str) -> str:
        """Get the weather."""
        return location

    [call] = model.bind_tools([get_weather], tool_choice="get_weather").invoke("Weather?").tool_calls
    assert call["name"] == "get_weather" and "location" in call["args"]


def test_what_the_placement_of_system_text_and_tools_costs_the_prefix_cache() -> None:
    """The figures of docs/MODELS.md: the tokens of ten turns that the prompt before does not have."""
    builder = PromptBuilder(mistral_tokenizer(3))
    case = next(case for case in CASES if case["name"] == "ten turns with a system text and tools")
    messages = [message(*one) for one in case["messages"]]

    def new_tokens(messages: list[BaseMessage], tools: list[Any]) -> list[int]:
        found, before = [], list[int]()
        for end in range(2 - len(messages) % 2, len(messages) + 1, 2):
            now = ids(builder, messages[:end], tools)
            reused = common_prefix(before, now)
            found.append(len(now) - reused)
            before = now
        return found

    with_both, without = new_tokens(messages, case["tools"]), new_tokens(messages[1:], [])
    assert len(with_both) == len(without) == 10
    moved = [a - b for a, b in zip(with_both, without, strict=True)]
    assert moved[0] == 105, "the system text and two tools"
    assert set(moved[1:]) <= {119, 120}, "these again, and the turn before"
    assert max(without) == 23
