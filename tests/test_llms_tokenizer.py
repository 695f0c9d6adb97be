"""The tokenizer read without transformers gives the same ids, texts and prompts, or is refused."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from test_llms_mistral_format import TEMPLATE_V1
from tiny_models import TEMPLATE, tiny_checkpoint, tiny_tokenizer

from llms.models.load import LoadedModel
from llms.tokenizer import ChatTemplate, ModelTokenizer, SlowTokenizer, read_pretrained_tokenizer

TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Answer <briefly> & well."},
    {"role": "user", "content": "Hi 'there'\n  é 漢 😀 {{ x }}", "name": None},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "abc", "function": {"arguments": {"a": 1.5}}}],
    },
    {"role": "user", "content": "  spaces  "},
]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"z": [1, None, True], "a": "<é>"}}}]
TEMPLATES = {
    "chatml": TEMPLATE,
    "mistral v1": TEMPLATE_V1,
    "whitespace": "{% for m in messages %}\n  {% if loop.first %}\n {{ m.role }}\n {% endif %}\n{% endfor %}",
    "tokens": "{{ bos_token }}{{ eos_token }}{{ unk_token }}{{ pad_token }}{{ mask_token }}",
    "tools": "{% if tools %}{{ tools | tojson }}{{ tools | tojson(indent=2) }}{% endif %}",
    "sorted tools": "{% if tools %}{{ tools[0] | tojson(sort_keys=True) }}{% endif %}",
    "absent": "{% for m in messages %}{{ 'name' in m }}{{ m.name is defined }}{% endfor %}{{ documents }}",
    "break": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "refusal": "{{ raise_exception('no system') }}",
    "syntax": "{% for %}",
    "sandbox": "{{ messages.__class__.__mro__ }}",
    "change": "{{ messages.append(1) }}",
    "range": "{% for i in range(3) %}{{ i }}{% endfor %}{{ strftime_now('%Y') }}",
    "prompt": "{% if add_generation_prompt %}go{% else %}stop{% endif %}",
    "escape": "{{ messages[0].content }}{{ messages[0].content | e }}",
}


@pytest.fixture(scope="module")
def plain(embedded: LoadedModel) -> ModelTokenizer:
    embedded.tokenizer.pretrained()  # loaded before hypothesis watches the clock
    return embedded.tokenizer


def outcome(render: Any) -> str:
    try:
        return str(render())
    except TemplateError as error:
        return f"{type(error).__name__}: {error}"


@given(text=st.text(), special=st.booleans())
def test_texts_become_the_same_ids_and_back(plain: ModelTokenizer, text: str, special: bool) -> None:
    whole = plain.pretrained()
    ids = plain(text, add_special_tokens=special, verbose=False)["input_ids"]
    assert ids == whole(text, add_special_tokens=special)["input_ids"]
    for skip in (False, True):
        again = whole.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
        assert plain.decode(ids, skip_special_tokens=skip) == again


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nHi<|im_end|>\n",
        " <|im_end|> ",
        "<|im_",
        "<repo_name>x",
        "a  b\t\tc\r\n",
        "12345",
        "don't",
    ],
)
def test_control_tokens_are_read_the_same(plain: ModelTokenizer, text: str) -> None:
    whole = plain.pretrained()
    ids = plain(text)["input_ids"]
    assert ids == whole(text)["input_ids"]
    assert plain.decode(ids, skip_special_tokens=True) == whole.decode(ids, skip_special_tokens=True)


def test_ids_decode_the_same_in_any_order(plain: ModelTokenizer) -> None:
    whole = plain.pretrained()
    ids = [(7919 * i) % 49_152 for i in range(2_000)]
    assert plain.decode(ids) == whole.decode(ids)
    assert plain.decode(ids, skip_special_tokens=True) == whole.decode(ids, skip_special_tokens=True)


def test_it_names_the_same_tokens(plain: ModelTokenizer) -> None:
    whole = plain.pretrained()
    for name in (
        "all_special_tokens", "all_special_ids", "bos_token_id", "eos_token_id", "unk_token_id",
        "special_tokens_map", "chat_template",
    ):  # fmt: skip
        assert getattr(plain, name) == getattr(whole, name), name
    assert plain.get_vocab() == whole.get_vocab()
    assert {i: str(t) for i, t in plain.added_tokens_decoder.items()} == {
        i: str(t) for i, t in whole.added_tokens_decoder.items()
    }
    for token in ("<|im_end|>", "Ġthe", "no such token", ""):
        assert plain.convert_tokens_to_ids(token) == whole.convert_tokens_to_ids(token)
    for token_id in (0, 1, 2, 17, 49_151, 49_152):
        assert plain.convert_ids_to_tokens(token_id) == whole.convert_ids_to_tokens(token_id)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS])
@pytest.mark.parametrize("prompt", [False, True])
def test_a_template_renders_the_same_text(name: str, tools: Any, prompt: bool) -> None:
    whole = tiny_tokenizer(TEMPLATES[name])
    ours = ChatTemplate(TEMPLATES[name], whole.special_tokens_map)
    assert ChatTemplate.serves(TEMPLATES[name])
    expected = outcome(
        lambda: whole.apply_chat_template(TURNS, tools=tools, tokenize=False, add_generation_prompt=prompt)
    )
    assert outcome(lambda: ours.render(TURNS, tools=tools, add_generation_prompt=prompt)) == expected
    assert "name" in TURNS[1], "the conversation itself stays as it was"


def test_the_embedded_model_s_prompts_are_the_same(plain: ModelTokenizer) -> None:
    whole = plain.pretrained()
    for turns in (TURNS, TURNS[1:2], TURNS[1:]):
        expected = whole.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        assert plain.apply_chat_template(turns, add_generation_prompt=True) == expected


@pytest.mark.parametrize("odd", [np.int64(3), datetime(2026, 1, 1), ("a",), np.str_("x")])
def test_objects_that_are_no_json_are_left_to_transformers(tmp_path: Path, odd: Any) -> None:
    whole = tiny_tokenizer()
    ours = ModelTokenizer.read_plain(tiny_checkpoint(tmp_path / "tiny"))
    assert ours is not None
    turns = [{"role": "user", "content": odd}]
    expected = whole.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ours.apply_chat_template(turns, add_generation_prompt=True) == expected


@pytest.mark.parametrize(
    "template",
    ["{% set x = namespace(a=1) %}", "{{ dict(a=1) }}", "{% generation %}{% endgeneration %}"],
)
def test_a_template_that_needs_more_is_left_to_transformers(tmp_path: Path, template: str) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    assert ModelTokenizer.read_plain(folder) is not None
    (folder / "chat_template.jinja").write_text(template)
    assert ModelTokenizer.read_plain(folder) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"chat_template": "{{ messages }}"},
        {"add_bos_token": True},
        {"extra_special_tokens": ["<x>"]},
        {"added_tokens_decoder": {"1": {"content": "<|im_start|>"}}},
        {"split_special_tokens": True},
        {"image_token": "<|im_start|>"},
        {"bos_token": {"content": "<|im_start|>", "__type": "AddedToken"}},
        {"bos_token": "<not there>"},
        {"eos_token": "a"},
    ],
)
def test_a_setting_that_may_matter_is_left_to_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert ModelTokenizer.read_plain(folder) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"post_processor": None},
        {"truncation": {"max_length": 8, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}},
        {"added_tokens": []},
        {"version": "9"},
    ],
)
def test_a_tokenizer_file_that_transformers_would_change_is_left_to_it(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert ModelTokenizer.read_plain(folder) is None


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_a_legacy_file_is_left_to_transformers(tmp_path: Path, name: str) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    (folder / name).write_text("{}")
    assert ModelTokenizer.read_plain(folder) is None


def test_a_plain_folder_gives_the_tokenizer_that_transformers_reads(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    ours, whole = ModelTokenizer.read_plain(folder), read_pretrained_tokenizer(folder)
    assert ours is not None
    assert ours("Hé <|im_end|> 漢")["input_ids"] == whole("Hé <|im_end|> 漢")["input_ids"]
    assert ours.special_tokens_map == whole.special_tokens_map


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_tokenizer_of_transformers_gives_the_same_when_it_is_wrapped(name: str) -> None:
    whole = tiny_tokenizer(TEMPLATES[name])
    whole.add_special_tokens({"additional_special_tokens": ["[TOOL]"]})
    whole.backend_tokenizer.enable_truncation(4)
    ours = ModelTokenizer.wrap(whole)
    assert ModelTokenizer.wrap(ours) is ours
    text = "Hé <|im_end|> [TOOL] 漢, and more than four tokens"
    ids = ours(text)["input_ids"]
    assert ids == whole(text)["input_ids"] and len(ids) > 4
    assert ours.decode(ids) == whole.decode(ids)
    assert (ours.all_special_tokens, ours.all_special_ids) == (
        whole.all_special_tokens,
        whole.all_special_ids,
    )
    assert ours.get_vocab() == whole.get_vocab()
    how: dict[str, Any] = {"tokenize": False, "add_generation_prompt": True}
    expected = outcome(lambda: whole.apply_chat_template(TURNS, tools=TOOLS, **how))
    assert outcome(lambda: ours.apply_chat_template(TURNS, tools=TOOLS, **how)) == expected


@pytest.mark.parametrize("template", ["{% set x = namespace(a=1) %}{{ x.a }}", "{{ dict(a=1) }}"])
def test_a_template_that_needs_more_is_rendered_by_transformers(template: str) -> None:
    whole = tiny_tokenizer(template)
    expected = whole.apply_chat_template(TURNS, tokenize=False)
    assert ModelTokenizer.wrap(whole).apply_chat_template(TURNS) == expected


def test_a_folder_that_is_not_plain_gives_the_same_tokenizer_by_way_of_transformers(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    (folder / "special_tokens_map.json").write_text("{}")
    ours, whole = ModelTokenizer.read(folder), read_pretrained_tokenizer(folder)
    assert ours("Hé <|im_end|> 漢")["input_ids"] == whole("Hé <|im_end|> 漢")["input_ids"]
    assert ours.eos_token_id == whole.eos_token_id


def test_a_tokenizer_written_in_python_is_wrapped_too_but_serves_no_grammar() -> None:
    from transformers import ByT5Tokenizer

    whole = ByT5Tokenizer()
    ours = ModelTokenizer.wrap(whole)
    assert isinstance(ours, SlowTokenizer)
    for special in (False, True):
        ids = ours("Hé 漢", add_special_tokens=special)["input_ids"]
        assert ids == whole("Hé 漢", add_special_tokens=special)["input_ids"]
        assert ours.decode(ids, skip_special_tokens=True) == whole.decode(ids, skip_special_tokens=True)
    assert ours.get_vocab() == whole.get_vocab()
    assert (ours.eos_token_id, ours.unk_token_id) == (whole.eos_token_id, whole.unk_token_id)
    assert ours.convert_tokens_to_ids("a") == whole.convert_tokens_to_ids("a")
    assert ours.convert_ids_to_tokens(100) == whole.convert_ids_to_tokens(100)
    assert ours.all_special_ids == whole.all_special_ids
    assert {i: str(token) for i, token in ours.added_tokens_decoder.items()}
    with pytest.raises(AttributeError):
        ours.backend_tokenizer.to_str()
