"""The Qwen Coder models of the catalog: files load by name, and gaps in code are filled by their marks."""

from __future__ import annotations

from pathlib import Path

import pytest

from chains.complete import complete_chain
from chains.complete.model import fim_marks
from chains.complete.python import parses
from llms import ChatLocal

MODELS = ("qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
GAPS = [
    ("def add(a, b):\n    return ", "\n\n\nprint(add(1, 2))\n", "a + b"),
    ("names = ['a', 'b']\nfor name in ", ":\n    print(name)\n", "names"),
]


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.model(name)) for name in MODELS])
def coder(request: pytest.FixtureRequest, model_cache: Path) -> ChatLocal:
    return ChatLocal(
        model=request.param, temperature=0, max_tokens=24, window=1024, cache_dir=model_cache, device="cpu"
    )


def test_a_chat_model_fills_gaps_by_the_marks_of_its_vocabulary(coder: ChatLocal) -> None:
    assert fim_marks(coder.as_completion_model()) == ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    fill = complete_chain(coder, kind="code", single_line=True, max_tokens=24)
    for prefix, suffix, wanted in GAPS:
        made = fill.invoke({"prefix": prefix, "suffix": suffix})
        assert made == wanted and parses(prefix + made + suffix)
    assert coder.as_completion_model().runtime() is coder.runtime()
