"""The examples in the docstrings run as they stand and print what they say.

Each room lists its own modules. An example needs no GPU, no network and no file of the user's; one that takes
longer than a second belongs in examples/.
"""

from __future__ import annotations

import doctest
import importlib

import pytest

MODULES = [
    "agent.cli.console",
    "agent.cli.markdown",
    "agent.cli.messages",
    "agent.cli.options",
    "agent.errors",
    "agent.folders",
    "agent.guard.labels",
    "agent.guard.policy",
    "agent.planner.arguments",
    "agent.planner.planner",
    "agent.planner.signals",
    "agent.settings",
    "agent.storage.notes",
    "agent.storage.templates",
    "agent.storage.threads",
    "agent.turn.bounds",
    "agent.turn.context",
    "agent.turn.events",
    "agent.turn.graph",
    "agent.turn.messages",
    "chains",
    "chains.classify.chain",
    "chains.classify.labels",
    "chains.classify.model",
    "chains.classify.result",
    "chains.classify.table",
    "chains.code.chain",
    "chains.code.fixups",
    "chains.code.request",
    "chains.code.result",
    "chains.code.source",
    "chains.complete.chain",
    "chains.complete.fixups",
    "chains.complete.model",
    "chains.complete.python",
    "chains.errors",
    "chains.prompts",
    "chains.rag.answer",
    "chains.rag.chain",
    "chains.rag.condense",
    "chains.rag.generate",
    "chains.retrieval.embedder",
    "chains.retrieval.ingest",
    "chains.retrieval.splitter",
    "chains.runnable",
    "chains.summarize.cache",
    "chains.summarize.chain",
    "chains.summarize.parts",
    "chains.summarize.result",
    "chains.summarize.sources",
    "chains.summarize.write",
    "chains.text.sentences",
    "chains.text.vectors",
    "chains.text.windows",
    "chains.text.words",
    "llms.chat",
    "llms.completion",
    "llms.decoders.cpu",
    "llms.decoders.cpu.native",
    "llms.decoders.cpu.weights",
    "llms.decoders.cuda",
    "llms.decoders.cuda.columns",
    "llms.decoders.pages",
    "llms.errors",
    "llms.grammar.close",
    "llms.grammar.schema",
    "llms.models",
    "llms.models.catalog",
    "llms.models.checkpoint",
    "llms.models.load",
    "llms.models.memory",
    "llms.models.pretrained",
    "llms.models.registry",
    "llms.models.weights",
    "llms.params",
    "llms.prompts",
    "llms.protocols",
    "llms.structured",
    "llms.threads",
    "llms.tokenizer",
    "llms.tool_calls.format",
    "sandbox.limits",
    "sandbox.pool",
    "sandbox.result",
    "sandbox.sandbox",
    "sandbox.tier",
    "tools.calculator",
    "tools.chain_tools",
    "tools.default",
    "tools.read_file",
    "tools.run_python",
]

WITH_MODEL = {"llms.chat", "llms.completion"}
"""Modules whose examples load the embedded model."""


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_of_a_module_run(
    module: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("COLUMNS", "110")  # an example prints the same on every terminal
    if module in WITH_MODEL:
        monkeypatch.setenv("AGENT_CACHE_DIR", str(request.getfixturevalue("embedded_cache")))
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testmod(importlib.import_module(module), optionflags=flags)
    assert result.attempted > 0, f"{module} shows no example"
    assert result.failed == 0, f"{result.failed} examples of {module} failed; see the captured output"
