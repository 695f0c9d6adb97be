"""Calls are written and read back in Mistral's format and in the generic one, and grammars allow both."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from llms import ChatLocal
from llms.engine.request import Piece
from llms.errors import UnsupportedSchema
from llms.grammar.grammar import GrammarConstraint
from llms.output import AnswerInfo
from llms.prompts import PromptBuilder
from llms.tool_calls.format import GENERIC, MISTRAL, detect, parse_calls, short_id
from llms.tool_calls.output import CallsTranslator
from llms.tool_calls.plan import calls_grammar

# A template like Mistral's: it has no system role, and requires alternating roles and ids of nine characters.
MISTRAL_LIKE = """{%- set ns = namespace(n=0) -%}
{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{{ raise_exception('no system role') }}{%- endif -%}
{%- if m.role == 'user' or (m.role == 'assistant' and m.tool_calls is not defined) -%}
{%- if (m.role == 'user') != (ns.n % 2 == 0) -%}{{ raise_exception('must alternate') }}{%- endif -%}
{%- set ns.n = ns.n + 1 -%}{%- endif -%}
{%- if m.role == 'user' -%}
{%- if tools is not none and loop.last -%}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{%- endif -%}
[INST]{{ m.content }}[/INST]
{%- elif m.tool_calls is defined -%}
[TOOL_CALLS][{% for c in m.tool_calls %}{{ c.function | tojson }}{{ c.id }}{% endfor %}]
{%- if m.tool_calls[0].id | length != 9 -%}{{ raise_exception('id') }}{%- endif -%}
{%- elif m.role == 'tool' -%}[TOOL_RESULTS]{{ m.content }}{{ m.tool_call_id }}[/TOOL_RESULTS]
{%- else -%}{{ m.content }}{{ eos_token }}{%- endif -%}
{%- endfor -%}"""


@pytest.fixture
def mistral_prompts(embedded: Any) -> PromptBuilder:
    import copy

    tokenizer = copy.copy(embedded.tokenizer)
    tokenizer.chat_template = MISTRAL_LIKE
    return PromptBuilder(tokenizer)


def test_mistrals_format_through_its_kind_of_template(mistral_prompts: PromptBuilder) -> None:
    assert mistral_prompts.tool_format is MISTRAL
    call = {
        "name": "get_weather",
        "args": {"location": "Oslo"},
        "id": "call_very_long_id",
        "type": "tool_call",
    }
    text = mistral_prompts.render(
        [
            SystemMessage("Be brief."),
            HumanMessage("a"),
            HumanMessage("b"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("sunny", tool_call_id="call_very_long_id"),
        ],
        [],
    )
    assert "Be brief.\n\na\n\nb" in text and text.count(short_id("call_very_long_id")) == 2
    assert "[AVAILABLE_TOOLS]" in mistral_prompts.render([HumanMessage("x")], [{"function": {"name": "t"}}])
    assert short_id("abcdefghi") == "abcdefghi" and len(short_id("x")) == 9


def answer_info() -> AnswerInfo:
    return AnswerInfo(model_name="m", input_tokens=1, cached_tokens=0, token_text=str)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_written_calls_stream_in_any_pieces(size: int) -> None:
    text = 'Sure. [TOOL_CALLS][{"name": "a", "arguments": {"x": "}]\\""}}, {"name": "b", "arguments": {}}]'
    pieces = [Piece(text[i : i + size], (1,)) for i in range(0, len(text), size)]
    pieces.append(Piece("", (2,), (), "stop"))
    message = CallsTranslator(MISTRAL, opened=False).collect(answer_info(), pieces).message
    assert isinstance(message, AIMessage) and message.text.strip() == "Sure."
    assert [(c["name"], c["args"]) for c in message.tool_calls] == [("a", {"x": '}]"'}), ("b", {})]
    parsed = parse_calls(MISTRAL, text)
    assert parsed is not None and [c["name"] for c in parsed[1]] == ["a", "b"]


def test_a_call_cut_by_the_limit_is_reported_not_dropped() -> None:
    pieces = [Piece('[{"name": "a", "arguments": {"x": "hal', (1,), (), "length")]
    message = CallsTranslator(MISTRAL, opened=True).collect(answer_info(), pieces).message
    assert isinstance(message, AIMessage) and not message.tool_calls
    assert message.invalid_tool_calls[0]["name"] == "a"


@pytest.mark.parametrize("form", [MISTRAL, GENERIC])
def test_the_grammar_of_written_calls_takes_what_the_format_writes(chat: ChatLocal, form: Any) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": {"$ref": "#/$defs/N"}},
        "required": ["x"],
        "$defs": {"N": {"type": "integer"}},
    }
    tools: list[Any] = [{"function": {"name": "a", "parameters": parameters}}, {"function": {"name": "b"}}]
    runtime = chat.runtime()
    one, two = '{"name": "a", "arguments": {"x": 3}}', '{"name": "b", "arguments": {}}'
    texts = {
        "mistral": f"[{one}, {two}]",
        "generic": f"\n{one}\n</tool_call>\n<tool_call>\n{two}\n</tool_call>",
    }
    constraint: GrammarConstraint = runtime.grammars.lark(calls_grammar(form, tools, parallel=True))
    for token in runtime.encode(texts[form.name], special=False):
        assert constraint.mask(100)[token]
        done = constraint.accept(token)
    assert done or bool(constraint.mask(100)[sorted(runtime.end_ids)[0]])
    wrong = runtime.grammars.lark(calls_grammar(form, tools, parallel=True))
    ids = runtime.encode(texts[form.name].replace('"a"', '"c"'), special=False)
    with pytest.raises(UnsupportedSchema):
        for token in ids:
            wrong.accept(token)


def test_detecting_the_format() -> None:
    assert detect("... [TOOL_CALLS] ...") is MISTRAL and detect("plain") is GENERIC
