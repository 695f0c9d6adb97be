"""Models are shared by what is really loaded, and unloading one gives its memory back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import llms
from llms import ChatLocal, LocalLLM
from llms.errors import LLMError
from llms.sharing import find_shared

QUESTION = "What is the capital of France?"

MEMORY = """
import gc, sys
import torch, transformers
import llms.runtime
from llms import ChatLocal, unload_all

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

torch.ones(512, 512).matmul(torch.ones(512, 512))
before, grown = resident(), []
for turn in range(20):
    chat = ChatLocal(model="smollm2-135m", temperature=0, max_tokens=4, notify=lambda line: None)
    assert "capital" in chat.invoke("What is the capital of France?").text
    chat.score("The capital of France is", [" Paris", " Rome"])
    chat.runtime().unload() if turn % 2 else unload_all()
    grown.append(round(resident() - before))
print(max(grown), grown)
assert max(grown) <= 60, grown
"""


def test_unloading_gives_the_memory_back_twenty_times(embedded_cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY],
        env=os.environ | {"AGENT_CACHE_DIR": str(embedded_cache)},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def small(embedded_cache: Path) -> dict[str, Any]:
    return {"temperature": 0, "max_tokens": 4, "cache_dir": embedded_cache, "notify": lambda line: None}


def test_settings_that_load_the_same_model_share_it(small: dict[str, Any]) -> None:
    runtime = ChatLocal(model="smollm2-135m", device="cpu", **small).runtime()
    same: list[dict[str, Any]] = [
        {},
        {"model": "smollm2-135m"},
        {"model": "embedded"},
        {"device": "cpu", "quantization": "none"},
        {"model": "smollm2-135m", "dtype": "bfloat16", "window": runtime.loaded.window},
        {"model": "smollm2-135m", "decoder": runtime.loaded.decoder},
    ]
    for settings in same:
        assert ChatLocal(**settings, **small).runtime() is runtime, settings
    assert LocalLLM(model="smollm2-135m", **small).runtime() is runtime
    other = ChatLocal(model="smollm2-135m", max_slots=8, **small)
    assert find_shared(other.load_settings(), max_slots=8) is None
    assert ChatLocal(model="smollm2-135m", window=512, **small).loaded_runtime() is None


def test_an_unloaded_model_loads_itself_again(small: dict[str, Any]) -> None:
    chat = ChatLocal(model="smollm2-135m", window=1024, **small)
    first = chat.invoke(QUESTION).text
    runtime = chat.runtime()
    stream = chat.stream("Tell me a long story.", max_tokens=900)
    next(stream)
    runtime.unload()
    assert chat.loaded_runtime() is None and not runtime.resident
    with pytest.raises(LLMError, match="unloaded"):
        list(stream)
    assert chat.invoke(QUESTION).text == first and chat.loaded_runtime() is runtime
    llms.unload_all()
    assert runtime.score_many([(QUESTION, [" Paris"])])[0][0] < 0
    runtime.unload()


def test_a_model_that_was_handed_over_keeps_its_weights(embedded: Any) -> None:
    chat = ChatLocal.from_model(embedded.model, embedded.tokenizer, temperature=0, max_tokens=3)
    first = chat.invoke(QUESTION).text
    chat.runtime().unload()
    assert chat.invoke(QUESTION).text == first


def test_the_size_of_the_prefix_cache_can_be_set(small: dict[str, Any]) -> None:
    chat = ChatLocal(model="smollm2-135m", window=768, **small)
    engine = chat.runtime().engine
    for i in range(3):
        chat.invoke(f"Number {i}. {QUESTION}")
    assert engine.table.idle_bytes > 0
    ChatLocal(model="smollm2-135m", window=768, cache_bytes=0, **small).invoke(QUESTION)
    assert engine.table.idle_bytes == 0
    chat.runtime().unload()


def test_one_refused_prompt_of_a_batch_leaves_nothing_running(small: dict[str, Any]) -> None:
    llm = LocalLLM(model="smollm2-135m", window=640, **{**small, "max_tokens": 500})
    engine = llm.runtime().engine
    for _ in range(3):
        with pytest.raises(LLMError, match="shorter than the window"):
            llm.generate(["Once upon a time", "word " * 900])
    assert not engine.scheduler.waiting and not engine.scheduler.active and engine.steps == 0
    llm.runtime().unload()
