"""Mistral's prompt format: prompts equal those of mistral-common for the same conversations.

The expected texts were made once with mistral-common 1.13.1, `MistralTokenizer.v3(is_tekken=False)` (the
tokenizer of Mistral-7B-Instruct-v0.3) and `v1()` (v0.1 and v0.2), whose `text` shows a space as U+2581 and a
newline as <0x0A>. Through the vocabularies that it ships, read by `transformers`, the token ids of all these
conversations were equal to its own, too. mistral-common itself needs numpy < 2.4 and is not installed here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from tiny_models import tiny_tokenizer

from llms.prompts import PromptBuilder
from llms.tool_calls.format import MISTRAL, parse_calls

# The rules that a Mistral template states, in this project's words: tools before the last user turn, system
# text inside it, strict alternation, nine-character ids.
TEMPLATE = """{%- set found = namespace(system='', last=-1, turns=0) -%}
{%- for m in messages -%}
{%- if m.role == 'system' -%}{%- set found.system = m.content -%}{%- endif -%}
{%- if m.role == 'user' -%}{%- set found.last = loop.index0 -%}{%- endif -%}
{%- if m.role in ('user', 'assistant') and not m.tool_calls -%}
{%- if (m.role == 'user') != (found.turns % 2 == 0) -%}{{ raise_exception('must alternate') }}{%- endif -%}
{%- set found.turns = found.turns + 1 -%}
{%- endif -%}
{%- endfor -%}
{{- bos_token -}}
{%- for m in messages -%}
{%- if m.role == 'user' -%}
{%- if tools and loop.index0 == found.last -%}
[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]
{%- endif -%}
[INST]{{ ' ' }}
{%- if found.system and loop.index0 == found.last -%}{{ found.system + '\\n\\n' }}{%- endif -%}
{{ m.content }}[/INST]
{%- elif m.tool_calls -%}
[TOOL_CALLS] [
{%- for c in m.tool_calls -%}
{%- if c.id | length != 9 -%}{{ raise_exception('ids have nine characters') }}{%- endif -%}
{"name": {{ c.function.name | tojson }}, "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}
{%- if not loop.last -%}{{ ', ' }}{%- endif -%}
{%- endfor -%}]{{ eos_token }}
{%- elif m.role == 'assistant' -%}{{ ' ' + m.content + eos_token }}
{%- elif m.role == 'tool' -%}
[TOOL_RESULTS] {"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- endif -%}
{%- endfor -%}"""

# The rules of v0.1 and v0.2: no tools, no system role, instructions are plain text.
TEMPLATE_V1 = """{{- bos_token -}}
{%- for m in messages -%}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}{{ raise_exception('must alternate') }}{%- endif -%}
{%- if m.role == 'user' -%}{{ ' [INST] ' + m.content + ' [/INST]' }}
{%- elif m.role == 'assistant' -%}{{ ' ' + m.content + eos_token }}
{%- else -%}{{ raise_exception('user and assistant only') }}{%- endif -%}
{%- endfor -%}"""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}},
            "required": ["location"],
        },
    },
}
LISTED = f"[AVAILABLE_TOOLS]▁[{json.dumps(WEATHER)}][/AVAILABLE_TOOLS]".replace(" ", "▁")
ASKED = HumanMessage("Weather in Oslo?")
CALL = AIMessage(
    "",
    tool_calls=[
        {"name": "get_weather", "args": {"location": "Oslo"}, "id": "abc123XYZ", "type": "tool_call"}
    ],
)
CALLED = (
    '[TOOL_CALLS]▁[{"name":▁"get_weather",▁"arguments":▁{"location":▁"Oslo"},▁"id":▁"abc123XYZ"}]</s>'
    '[TOOL_RESULTS]▁{"content":▁"It▁is▁sunny.",▁"call_id":▁"abc123XYZ"}[/TOOL_RESULTS]'
)
TURNS: list[BaseMessage] = [HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
TABLE: dict[str, tuple[list[BaseMessage], bool, str]] = {
    "plain": ([HumanMessage("Hello, world!")], False, "<s>[INST]▁Hello,▁world![/INST]"),
    "system": (
        [SystemMessage("Be brief."), HumanMessage("Hi")],
        False,
        "<s>[INST]▁Be▁brief.<0x0A><0x0A>Hi[/INST]",
    ),
    "turns": (TURNS, False, "<s>[INST]▁a[/INST]▁b</s>[INST]▁c[/INST]"),
    "system before turns": (
        [SystemMessage("Be brief."), *TURNS],
        False,
        "<s>[INST]▁a[/INST]▁b</s>[INST]▁Be▁brief.<0x0A><0x0A>c[/INST]",
    ),
    "tools": ([ASKED], True, f"<s>{LISTED}[INST]▁Weather▁in▁Oslo?[/INST]"),
    "a call and its result": (
        [ASKED, CALL, ToolMessage("It is sunny.", name="get_weather", tool_call_id="abc123XYZ")],
        True,
        f"<s>{LISTED}[INST]▁Weather▁in▁Oslo?[/INST]{CALLED}",
    ),
}


TABLE_V1: dict[str, tuple[list[BaseMessage], str]] = {
    "plain": ([HumanMessage("Hello, world!")], "<s>▁[INST]▁Hello,▁world!▁[/INST]"),
    "system": (
        [SystemMessage("Be brief."), HumanMessage("Hi")],
        "<s>▁[INST]▁Be▁brief.<0x0A><0x0A>Hi▁[/INST]",
    ),
    "system before turns": (
        [SystemMessage("Be brief."), *TURNS],
        "<s>▁[INST]▁Be▁brief.<0x0A><0x0A>a▁[/INST]▁b</s>▁[INST]▁c▁[/INST]",
    ),
    "turns": (TURNS, "<s>▁[INST]▁a▁[/INST]▁b</s>▁[INST]▁c▁[/INST]"),
}


def builder(template: str) -> PromptBuilder:
    tokenizer = tiny_tokenizer(template)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    return PromptBuilder(tokenizer)


@pytest.fixture
def prompts() -> PromptBuilder:
    return builder(TEMPLATE)


@pytest.mark.parametrize("name", TABLE)
def test_prompts_are_what_mistral_common_writes(prompts: PromptBuilder, name: str) -> None:
    messages, tools, expected = TABLE[name]
    found = prompts.render(messages, [WEATHER] if tools else [])
    assert found == expected.replace("▁", " ").replace("<0x0A>", "\n")


@pytest.mark.parametrize("name", TABLE_V1)
def test_prompts_of_the_first_versions_are_what_mistral_common_writes(name: str) -> None:
    messages, expected = TABLE_V1[name]
    assert builder(TEMPLATE_V1).render(messages) == expected.replace("▁", " ").replace("<0x0A>", "\n")


def test_the_first_versions_are_told_of_tools_in_the_first_user_turn() -> None:
    text = builder(TEMPLATE_V1).render(
        [ASKED, CALL, ToolMessage("sunny", tool_call_id="abc123XYZ")], [WEATHER]
    )
    first, rest = text.split(" [/INST]", 1)
    assert "get_weather" in first and "Get the weather at a place." in first
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Oslo"}}' in rest
    assert rest.rstrip().endswith("[/INST]") and "sunny" in rest


def test_a_foreign_id_is_mapped_in_the_call_and_its_result(prompts: PromptBuilder) -> None:
    call = CALL.model_copy(update={"tool_calls": [{**CALL.tool_calls[0], "id": "call_0123456789abcdef"}]})
    text = prompts.render([ASKED, call, ToolMessage("x", tool_call_id="call_0123456789abcdef")], [WEATHER])
    called, answered = text.split('"id": "')[1][:9], text.split('"call_id": "')[1][:9]
    assert called == answered and called.isalnum()


def test_a_written_call_is_read_with_or_without_its_id() -> None:
    for extra in ("", ', "id": "abc123XYZ"'):
        found = parse_calls(MISTRAL, f'[TOOL_CALLS] [{{"name": "a", "arguments": {{"x": 1}}{extra}}}]')
        assert found is not None and [(c["name"], c["args"]) for c in found[1]] == [("a", {"x": 1})]
