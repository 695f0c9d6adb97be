"""`--verbose` reports the model that is really loaded, its decoder, tokens and speed."""

from __future__ import annotations

from argparse import Namespace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.cli.printing import report_run
from llms import ChatLocal

QUIET = Namespace(trace=False, verbose=True)


def _trace(*steps: Any) -> Any:
    return SimpleNamespace(steps=steps, rows=list)


def test_verbose_names_model_decoder_and_speed(chat: ChatLocal, capsys: pytest.CaptureFixture[str]) -> None:
    chat.runtime()
    step = SimpleNamespace(kind="model", input_tokens=12, output_tokens=30, seconds=1.5)
    report_run(cast("Any", SimpleNamespace(local_model=chat)), _trace(step), QUIET)
    said = capsys.readouterr().err
    assert "model smollm2-135m, quantization none, bfloat16, on cpu" in said
    assert f"decoder {chat.runtime().engine.decoder.describe()}" in said
    assert "prompt 12 tokens, decoded 30 tokens, 20.0 tokens/s" in said


def test_verbose_holds_the_speed_against_what_the_memory_allows(
    chat: ChatLocal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat.runtime().engine.decoder, "ceiling", 40.0, raising=False)
    step = SimpleNamespace(kind="model", input_tokens=12, output_tokens=30, seconds=1.5)
    report_run(cast("Any", SimpleNamespace(local_model=chat)), _trace(step), QUIET)
    assert "20.0 tokens/s, 50% of what the memory's bandwidth allows" in capsys.readouterr().err


def test_verbose_loads_no_model_to_talk_about_it(capsys: pytest.CaptureFixture[str]) -> None:
    unused = ChatLocal(model="smollm2-135m", dtype="float32", window=512)
    report_run(cast("Any", SimpleNamespace(local_model=unused)), _trace(), QUIET)
    assert "model not loaded" in capsys.readouterr().err
    assert unused.loaded_runtime() is None
