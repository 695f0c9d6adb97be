"""A conversation under fire: faults in model, tools, documents, files; kills; many on one model at once."""

from __future__ import annotations

import gc
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from agent_fakes import calls, scripted
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver

from agent.build import Parts
from agent.cli.session import Session
from agent.errors import AgentError
from agent.settings import Settings
from agent.storage.logs import Logs
from agent.storage.threads import config_of, open_threads
from agent.turn.context import RunContext
from agent.turn.events import Event, Final, stream_events
from agent.turn.graph import build_graph
from chains.rag import Answer, AnswerDelta
from chains.runnable import generator_chain
from llms import ChatLocal
from llms.errors import LLMError

FAULTS: tuple[type[Exception], ...] = (
    ValueError, OSError, MemoryError, TimeoutError, ConnectionError, RecursionError, UnicodeError,
    sqlite3.OperationalError, LLMError, AgentError,
)  # fmt: skip
PLACES = ("model", "model midway", "tool", "documents", "documents midway", "threads", "log")


class Faults:
    """Raises one seeded kind of error at one seeded place, while it is armed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.where = self.random.choice(PLACES)
        self.error = self.random.choice(FAULTS)
        self.after = self.random.randrange(3)
        self.armed = True

    def maybe(self, where: str) -> None:
        if self.armed and where == self.where:
            self.after -= 1
            if self.after < 0:
                raise self.error(f"fault in {where}")


class Silent:
    """A printer that keeps the last answer."""

    final: Final | None = None

    def show(self, event: Event) -> None:
        self.final = event if isinstance(event, Final) else self.final


class FaultyParts(Parts):
    """Parts whose model, tool and documents fail when they are told to."""

    def __init__(self, settings: Settings, faults: Faults) -> None:
        super().__init__(settings)
        self.faults = faults

    @cached_property
    def model(self) -> Any:
        def answer(messages: list[Any]) -> Any:
            self.faults.maybe("model")
            if isinstance(messages[-1], HumanMessage):
                return calls("look", f"c{len(messages):04}", where=str(len(messages)))
            return "it is there"

        model = scripted(answer)
        stream = type(model)._stream

        class Midway(type(model)):  # type: ignore[misc]
            def _stream(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
                for piece in stream(self, *args, **kwargs):
                    yield piece
                    faults.maybe("model midway")

        faults = self.faults
        return Midway(script=model.script)

    @cached_property
    def tools(self) -> Any:
        @tool
        def look(where: str) -> str:
            """Looks."""
            self.faults.maybe("tool")
            return "seen"

        look.metadata = {"kind": "read", "reaches": "machine"}
        return [look]

    @cached_property
    def answerer(self) -> Any:
        def documents(request: Any, config: Any) -> Iterator[Any]:
            self.faults.maybe("documents")
            yield AnswerDelta("Not in your documents.")
            self.faults.maybe("documents midway")
            yield Answer("Not in your documents.")

        return generator_chain(documents, name="documents", result=Answer)

    def has_documents(self) -> bool:
        return True

    @cached_property
    def planner(self) -> Any:
        return None


@pytest.mark.parametrize(
    "seed", [*range(30), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(30, 100))]
)
def test_a_fault_is_said_and_the_next_turn_works(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(seed)
    put, add = SqliteSaver.put, Logs.add

    def faulty_put(self: Any, *args: Any, **kwargs: Any) -> Any:
        faults.maybe("threads")
        return put(self, *args, **kwargs)

    def faulty_add(self: Any, *args: Any, **kwargs: Any) -> Any:
        faults.maybe("log")
        return add(self, *args, **kwargs)

    monkeypatch.setattr(SqliteSaver, "put", faulty_put)
    monkeypatch.setattr("agent.storage.logs.Logs.add", faulty_add)
    settings = Settings(home=tmp_path)
    with Session(FaultyParts(settings, faults), RunContext(), keep=True) as session:
        answered = []
        for n in range(4):
            printer = Silent()
            question = f"question {n}"
            if n == 3:
                faults.armed = False
            try:
                session.turn([HumanMessage(question)], printer)
            except Exception as error:
                assert "fault in" in str(error), repr(error)  # said, with its cause
            if printer.final is not None:
                answered.append(question)
                assert printer.final.text
        assert answered[-1] == "question 3"
        assert session.thread is not None
        messages = session.threads.messages(session.thread)
        asked = [m.text for m in messages if isinstance(m, HumanMessage)]
        assert asked == sorted(set(asked)) and set(answered) <= set(asked)
        open_calls = {c["id"] for m in messages if m.type == "ai" for c in m.tool_calls}
        assert open_calls == {m.tool_call_id for m in messages if isinstance(m, ToolMessage)}


def speak_at_once(agent: Any, talks: list[Any], turns: int) -> list[list[str]]:
    """Hold as many conversations as there are threads at the same time; what was answered in each."""
    answered: list[list[str]] = [[] for _ in talks]
    failures: list[BaseException] = []

    def speak(number: int) -> None:
        try:
            for turn in range(turns):
                asked = f"{number}.{turn}"
                final = list(stream_events(agent, asked, config=config_of(talks[number])))[-1]
                assert isinstance(final, Final)
                answered[number].append(final.text)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=speak, args=(n,)) for n in range(len(talks))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert failures == []
    return answered


def test_many_conversations_at_once_on_one_model(tmp_path: Path) -> None:
    def answer(messages: list[Any]) -> str:
        time.sleep(0.01)
        return f"answer to {messages[-1].text}"

    with open_threads(tmp_path / "t.sqlite") as threads:
        agent = build_graph(scripted(answer), checkpointer=threads.saver)
        talks = [threads.new(f"talk {n}") for n in range(8)]
        speak_at_once(agent, talks, 5)
        for number, talk in enumerate(talks):
            said = [m.text for m in threads.messages(talk)]
            assert said == [x for t in range(5) for x in (f"{number}.{t}", f"answer to {number}.{t}")]


def test_two_hundred_turns_leave_nothing_behind(tmp_path: Path) -> None:
    model = scripted(lambda messages: "an answer of some words")
    counts = []
    with open_threads(tmp_path / "t.sqlite") as threads:
        agent = build_graph(model, checkpointer=threads.saver)
        for turn in range(200):
            if turn % 10 == 0:
                talk = threads.new("talk")
            model.seen.clear()
            list(stream_events(agent, f"question {turn}", config=config_of(talk)))
            threads.settle(talk)
            if turn % 50 == 49:
                gc.collect()
                counts.append(len(gc.get_objects()))
    assert counts[-1] - counts[0] < 100, counts  # not one object a turn


def test_many_conversations_at_once_say_what_each_says_alone(embedded: Any, tmp_path: Path) -> None:
    """On the real engine, in fp32: conversations that share a batch do not meet in it."""
    model = ChatLocal.from_model(embedded.model, embedded.tokenizer, temperature=0, max_tokens=8)
    with open_threads(tmp_path / "t.sqlite") as threads:
        agent = build_graph(model, checkpointer=threads.saver)
        together = speak_at_once(agent, [threads.new(f"talk {n}") for n in range(8)], 2)
        alone = [
            [list(stream_events(agent, f"{n}.{t}", config=config_of(talk)))[-1].text for t in range(2)]
            for n, talk in ((n, threads.new("alone")) for n in (0, 7))
        ]
    assert [together[0], together[7]] == alone and all(text for talk in together for text in talk)


@pytest.mark.parametrize("kills", [3, pytest.param(15, marks=pytest.mark.slow)])
def test_kills_at_any_moment_lose_and_double_no_turn(
    tmp_path: Path, embedded_cache: Path, kills: int
) -> None:
    """`ask -c`, killed at random: each question stands in the thread at most once, with its answer."""
    stage = Path(__file__).parent / "agent_stage.py"
    environment = os.environ | {
        "AGENT_HOME": str(tmp_path / "home"),
        "AGENT_CACHE_DIR": str(embedded_cache),
        "PYTHONPATH": os.pathsep.join([str(stage.parent.parent), os.environ.get("PYTHONPATH", "")]),
    }

    def command(question: str, *more: str) -> list[str]:
        return [sys.executable, str(stage), str(tmp_path), "ask", "--no-tools", *more, question]

    def ask(question: str, *more: str) -> int:
        return subprocess.run(
            command(question, *more), env=environment, stdin=subprocess.DEVNULL, capture_output=True
        ).returncode

    assert ask("question 0") == 0
    chance = random.Random(kills)
    done = ["question 0"]
    for n in range(1, kills + 1):
        child = subprocess.Popen(
            command(f"question {n}", "-c"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert child.stdout is not None
        if chance.random() < 0.7:
            child.stdout.read(1)  # it answers
        time.sleep(chance.random() * 0.4)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        if child.returncode == 0:
            done.append(f"question {n}")
    assert ask("last question", "-c") == 0
    with open_threads(tmp_path / "home" / "threads.sqlite") as threads:
        (thread,) = threads.all()
        messages = threads.messages(thread)
    assert [m.type for m in messages] == ["human", "ai"] * (len(messages) // 2)
    asked = [m.text for m in messages if m.type == "human"]
    assert len(set(asked)) == len(asked) and set(done) <= set(asked) and asked[-1] == "last question"
    answers = [m.text for m in messages if m.type == "ai"]
    assert answers == [f"answer to {question} (1 lines)" for question in asked]
