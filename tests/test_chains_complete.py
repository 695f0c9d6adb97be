"""complete_chain: text and code, prefixes and gaps, cutting, parsing, ranking, chat models."""

from __future__ import annotations

import ast
from typing import Any

import pytest
from fakes import RawModel, ScoringChat, ScriptedChat
from langchain_core.language_models import FakeListLLM

from chains.complete import complete_chain
from chains.complete.fixups import open_try
from chains.complete.model import continuation_of, fim_marks
from chains.complete.python import (
    block_end,
    closings,
    fitting,
    next_indent,
    parses,
    says_something,
)
from chains.errors import EmptyInputError, InputError, NotTextError, OptionError

GAP = {"prefix": "def area(r):\n    pi = 3.14\n    return ", "suffix": "\n\nprint(area(2))\n"}


def test_text_is_continued_as_it_stands_and_streamed() -> None:
    model = RawModel(texts=[" there was a fox who liked rain."])
    chain = complete_chain(model)
    pieces = list(chain.stream("Once upon a time"))
    assert len(pieces) > 3 and "".join(pieces) == " there was a fox who liked rain."
    assert model.seen[0][0] == "Once upon a time"


def test_a_space_at_the_prompts_end_is_not_doubled() -> None:
    model = RawModel(texts=[" a fox."])
    assert complete_chain(model).invoke("Once there was ") == "a fox."
    assert model.seen[0][0] == "Once there was"


async def test_async_batch_and_config() -> None:
    chain = complete_chain(FakeListLLM(responses=["and on", "and on"]))
    assert await chain.ainvoke("So it went ") == "and on"
    assert chain.with_config(tags=["x"]).batch(["So it went "]) == ["and on"]
    assert [piece async for piece in chain.astream("So it went ")]


def test_a_single_line_ends_at_the_line() -> None:
    chain = complete_chain(RawModel(texts=["one line\nand another"]), single_line=True)
    assert "".join(chain.stream("Here is ")) == "one line"
    by_letter = complete_chain(RawModel(texts=["\n\none\n\ntwo"], pieces=1), single_line=True)
    assert "".join(by_letter.stream("Here is ")) == "one"


def test_code_stops_at_the_end_of_the_block() -> None:
    raw = " a + b\n\nclass Next:\n    pass\n"
    chain = complete_chain(RawModel(texts=[raw]), kind="code")
    assert chain.invoke("def add(a, b):\n    return") == " a + b"
    body = "total = 0\n    for x in xs:\n        total += x\n    return total\n\ndef other():\n"
    chain = complete_chain(RawModel(texts=[body]), kind="code")
    assert chain.invoke("def add(xs):\n") == "    " + body[: body.index("\n\ndef")]


def test_a_gap_is_filled_so_that_the_whole_parses() -> None:
    chain = complete_chain(RawModel(texts=["pi * r ** 2) and ("]), kind="code")
    filled = chain.invoke(GAP)
    assert filled == "pi * r ** 2"
    ast.parse(GAP["prefix"] + filled + GAP["suffix"])


def test_samples_that_parse_come_first_and_empty_ones_never() -> None:
    model = RawModel(texts=["(((", "pass", "pi * r * r", ""])
    found = complete_chain(model, kind="code", n=4).candidates(GAP)
    assert found[0].text == "pi * r * r" and found[0].parses
    assert all(says_something(one.text) for one in found)
    assert [options.get("temperature") for _, options in model.seen] == [0.0, 0.9, 0.9, 0.9]


def test_where_no_sample_fits_names_of_the_code_are_tried() -> None:
    filled = complete_chain(RawModel(texts=["]]]"]), kind="code").invoke(GAP)
    assert filled in ("pi", " pi", "(pi)", "r", " r", "area")
    ast.parse(GAP["prefix"] + filled + GAP["suffix"])


def test_indentation_is_kept_and_deeper_blocks_are_whole() -> None:
    prefix = "class A:\n    def f(self, x):\n        if x:\n"
    raw = "            self.x = x\n            return 1\n        return 2\n\n    def g(self):\n"
    assert block_end(prefix, raw) == "            self.x = x\n            return 1"
    assert block_end("def f(x):\n    ", "y = x\n    return y\n\n\ndef g():") == "y = x\n    return y"
    assert block_end("total = ", "1 + 2\nprint(total)") == "1 + 2"
    assert block_end("total = sum(", "\n    xs,\n)\nprint(1)") == "\n    xs,\n)"
    assert block_end("for x in xs", ":\n    print(x)\nprint(1)") == ":\n    print(x)"


def test_the_next_line_is_held_in_its_block() -> None:
    assert next_indent("def f(x):\n    y = x\n") == "    " and next_indent("if x:\n") == "    "
    assert next_indent("x = 1\n") == "" and next_indent("x = ") == ""
    model = RawModel(texts=["return s"])
    filled = complete_chain(model, kind="code").invoke({"prefix": "def f(s):\n    s = 1\n", "suffix": "\n"})
    assert filled == "    return s" and model.seen[0][0] == "def f(s):\n    s = 1\n   "
    assert not parses("return 1\n")


def test_open_brackets_and_quotes_are_closed() -> None:
    assert fitting("print(", "'hello", ")\n", single_line=True) == "'hello'"
    assert "f(a, [1])" in list(closings("f(a, [1"))
    assert fitting("x = ", "", "\n", single_line=True) is None


@pytest.mark.parametrize("text", ["", "  \n", "pass", "...", "# only a comment", "\n    pass\n"])
def test_what_says_nothing(text: str) -> None:
    assert not says_something(text)


def test_a_chat_model_is_asked_and_its_wrapping_taken_off() -> None:
    fenced = (
        "Here is the code:\n```python\ndef area(r):\n    pi = 3.14\n    return pi * r * r\n```\nIt helps!"
    )
    chain = complete_chain(ScriptedChat(replies=[fenced]), kind="code", samples=1)
    assert chain.invoke(GAP) == "pi * r * r"
    chat = ScriptedChat(replies=["Sure, here is the continuation:\n\nthere lived a fox."])
    assert complete_chain(chat).invoke("Once upon a time, ") == "there lived a fox."
    assert "Once upon a time" in str(chat.seen[0][-1].text)
    assert continuation_of("The end is near.", "The end", "") == " is near."
    assert continuation_of("b + c)", "a = (", ")") == "b + c"


def test_scores_rank_candidates() -> None:
    class RawScorer(RawModel):
        def score(self, prompt: Any, continuations: Any) -> list[float]:
            return [0.0 if "quick" in f"{prompt}{one}" else -50.0 for one in continuations]

        def score_many(self, requests: Any) -> list[list[float]]:
            return [self.score(prompt, texts) for prompt, texts in requests]

    model = RawScorer(texts=["a slow fox", "a quick fox", "a lazy fox"])
    found = complete_chain(model, n=3, samples=3).candidates("I saw ")
    assert found[0].text == "a quick fox" and found[0].score > found[1].score
    wrapped = model.with_config(tags=["t"])
    assert complete_chain(wrapped, n=1, samples=2).candidates("I saw ")[0].text


def test_marks_for_filling_in_are_used_where_the_tokenizer_has_them() -> None:
    class Filling(RawModel):
        def get_vocab(self) -> dict[str, int]:
            return {"<fim_prefix>": 1, "<fim_suffix>": 2, "<fim_middle>": 3}

    model = Filling(texts=["pi * r ** 2"])
    assert complete_chain(model, kind="code").invoke(GAP) == "pi * r ** 2"
    assert model.seen[0][0] == f"<fim_prefix>{GAP['prefix']}<fim_suffix>{GAP['suffix']}<fim_middle>"
    assert fim_marks(RawModel(texts=[""])) is None


def test_a_long_prefix_is_shown_from_a_line_on_but_the_whole_must_parse() -> None:
    prefix = "x = 1\n" * 3000 + "def f(a):\n    return "
    model = RawModel(texts=["a + x"])
    assert complete_chain(model, kind="code").invoke({"prefix": prefix, "suffix": "\n"}) == "a + x"
    assert len(model.seen[0][0]) <= 6000 and model.seen[0][0].startswith("x = 1\n")


@pytest.mark.parametrize(
    ("gap", "error"),
    [
        ("", EmptyInputError),
        ("  ", EmptyInputError),
        (b"x", NotTextError),
        ({"suffix": "a"}, InputError),
        ("a\x00", NotTextError),
        ("half \ud83d", NotTextError),
        ({"prefix": "a", "suffix": "\udcff"}, NotTextError),
    ],
)
def test_bad_gaps_are_refused(gap: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="found"):
        complete_chain(RawModel(texts=["x"])).invoke(gap)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "poem"},
        {"n": 0},
        {"n": "1"},
        {"n": 2.5},
        {"samples": 99},
        {"max_tokens": 0},
        {"max_tokens": None},
        {"language": None},
    ],
)
def test_bad_completion_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        complete_chain(ScoringChat(), **options)
    with pytest.raises(OptionError, match="found 'mistral-7b': pass ChatLocal"):
        complete_chain("mistral-7b")  # type: ignore[arg-type]


async def test_where_the_model_adds_nothing_the_completion_is_empty_text() -> None:
    for kind in ("text", "code"):
        chain = complete_chain(FakeListLLM(responses=[""]), kind=kind)  # type: ignore[arg-type]
        assert (chain.invoke("x"), await chain.ainvoke("x"), list(chain.stream("x"))) == ("", "", [""])
    assert repr(complete_chain(RawModel(texts=[""]))) == "complete_chain(RawModel, kind='text', n=1)"


def test_a_try_without_a_handler_gets_one() -> None:
    assert open_try("try:\n    a = 1\n") == "" and open_try("def f():\n    try:\n        a\n") == "    "
    assert open_try("try:\n    a\nexcept X:\n    b\n") is None and open_try("a = 1\n") is None
    gap = {"prefix": "def f():\n    try:\n        a = g()\n", "suffix": "\n"}
    model = RawModel(texts=["a += 1", "a += 2", " OSError:\n        return None\n"])
    filled = complete_chain(model, kind="code", samples=2).invoke(gap)
    assert filled == "    except OSError:\n        return None" and model.seen[-1][0].endswith("    except")
    assert "raise" in complete_chain(RawModel(texts=["a += 1"]), kind="code").invoke(gap)


class Chatting(ScriptedChat):
    """A chat model with a completion model on its weights."""

    raw: Any = None

    def as_completion_model(self) -> Any:
        return self.raw


def test_a_chat_model_with_a_raw_one_completes_with_that_and_its_bindings_hold() -> None:
    raw = RawModel(texts=["r * r\nmore"])
    chat = Chatting(replies=["The"], raw=raw)
    assert complete_chain(chat, kind="code", single_line=True).invoke("def area(r): return ") == "r * r"
    bound = chat.bind(stop=["#"], tools=[1]).with_config(tags=["mine"])
    assert complete_chain(bound, kind="code", single_line=True).invoke("def area(r): return ") == "r * r"
    assert not chat.seen and len(raw.seen) >= 2
    assert "RawModel" in repr(complete_chain(chat))


def test_marks_in_the_user_s_code_stay_text() -> None:
    class FimModel(RawModel):
        def get_vocab(self) -> dict[str, int]:
            return {"<|fim_prefix|>": 1, "<|fim_suffix|>": 2, "<|fim_middle|>": 3}

    model = FimModel(texts=["1"])
    gap = {"prefix": 'a = "<|fim_suffix|>"\nb = ', "suffix": '\nc = "<|fim_middle|>"\n'}
    assert complete_chain(model, kind="code").invoke(gap) == "1"
    [(prompt, _), *_] = model.seen
    assert [prompt.count(mark) for mark in model.get_vocab()] == [1, 1, 1]


def test_a_local_chat_model_continues_code_as_its_raw_model_does(chat: Any) -> None:
    from llms import LocalLLM

    prefix = "def add(a, b):\n    return "
    raw = LocalLLM(model="smollm2-135m", temperature=0, max_tokens=64, cache_dir=chat.cache_dir)
    filled = [complete_chain(one, kind="code", single_line=True, n=1).invoke(prefix) for one in (chat, raw)]
    assert filled[0] == filled[1] == "a + b"
    assert chat.as_completion_model().runtime() is chat.runtime()
