"""A hundred faults in model, tools and documents: the agent answers or says why, the next turn works."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import calls, scripted
from langchain_core.tools import tool

from agent.errors import AgentError
from agent.events import Final, stream_events
from agent.graph import build_graph
from agent.threads import config_of, open_threads
from chains.rag import Answer
from chains.runnable import generator_chain
from llms.errors import LLMError

FAULTS: tuple[type[BaseException], ...] = (
    ValueError, OSError, MemoryError, TimeoutError, ConnectionError, RecursionError, UnicodeError,
    LLMError, AgentError,
)  # fmt: skip


class Faults:
    """Raises at a seeded moment, while it is armed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.armed = True
        self.where = self.random.choice(["model", "tool", "documents"])

    def maybe(self, where: str) -> None:
        if self.armed and where == self.where:
            raise self.random.choice(FAULTS)(f"fault in {where}")


@pytest.mark.parametrize(
    "seed", [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 100))]
)
def test_a_fault_ends_no_conversation(seed: int, tmp_path: Path) -> None:
    faults = Faults(seed)

    @tool
    def look(where: str) -> str:
        """Looks."""
        faults.maybe("tool")
        return "seen"

    look.metadata = {"kind": "read"}

    def model(messages: list[Any]) -> Any:
        faults.maybe("model")
        return calls("look", f"c{len(messages)}", where="there") if messages[-1].type == "human" else "done"

    def documents(request: Any, config: Any) -> Iterator[Any]:
        faults.maybe("documents")
        yield Answer("Not in your documents.")

    with open_threads(tmp_path / "t.sqlite") as threads:
        answerer = generator_chain(documents, name="documents", result=Answer)
        agent = build_graph(scripted(model), tools=[look], answerer=answerer, checkpointer=threads.saver)
        config = config_of(threads.new("faults"))
        try:
            final = list(stream_events(agent, "look there", config=config))[-1]
        except FAULTS as error:
            assert "fault in" in str(error)  # said, with its cause
        else:
            assert isinstance(final, Final) and final.text
        faults.armed = False
        final = list(stream_events(agent, "look again", config=config))[-1]
        assert isinstance(final, Final) and final.text == "done"
