"""A first answer loads nothing that it does not use."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import startup

ROOT = Path(__file__).parent.parent
HEAVY = (
    "accelerate", "bitsandbytes", "huggingface_hub", "mcp", "pandas", "scipy", "sentence_transformers",
    "sklearn", "sympy", "torch._dynamo", "transformers",
)  # fmt: skip
ASK = f"""
import sys
from agent.__main__ import main
code = main(sys.argv[1:])
print("imported:", [name for name in {HEAVY!r} if name in sys.modules])
sys.exit(code)
"""


@pytest.mark.parametrize(
    "words",
    [
        ("ask", "--docs", "examples/docs", "--docs-only", "What does double quantization save?"),
        ("ask", "--no-docs", "--no-tools", "--max-tokens", "4", "Say hello."),
        ("chat", "--no-docs", "--max-tokens", "4", "Say hello."),
        ("summarize", "README.md"),
        ("classify", "--labels", "good,bad", "A fine day."),
        ("complete", "--max-tokens", "4", "Once upon a time"),
    ],
    ids=lambda words: words[0] + words[1],
)
def test_an_answer_of_the_embedded_model_imports_nothing_heavy(
    embedded_cache: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    environment = os.environ | {"AGENT_HOME": str(tmp_path), "AGENT_CACHE_DIR": str(embedded_cache)}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported: []", done


def test_the_collector_waits_while_the_program_starts_and_then_leaves_what_is_there() -> None:
    usual = gc.get_threshold()
    try:
        with startup.patient_collector():
            assert gc.get_threshold()[0] > usual[0]
            assert gc.isenabled()
            startup.started()
            assert gc.get_threshold() == usual
            frozen = gc.get_freeze_count()
            assert frozen > 0
            startup.started()
            assert gc.get_freeze_count() == frozen, "once only: what comes later is collected"
        assert gc.get_threshold() == usual
    finally:
        gc.unfreeze()


def test_the_collector_is_as_it_was_after_a_program_that_never_started() -> None:
    usual = gc.get_threshold()
    with pytest.raises(RuntimeError), startup.patient_collector():
        raise RuntimeError
    assert gc.get_threshold() == usual
    startup.started()
    assert gc.get_freeze_count() == 0, "an app of somebody else's keeps its collector"
