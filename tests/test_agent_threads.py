"""Threads, logs, templates and config on disk: contents, privacy, survival of a kill, and bad files."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from agent_fakes import calls, scripted
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.base import empty_checkpoint

from agent.errors import ConfigError, TemplateError, ThreadError
from agent.guard.labels import both, labels_of
from agent.settings import read_config, set_value
from agent.storage import templates
from agent.storage.logs import open_logs
from agent.storage.threads import VERSION, close_turn, config_of, is_stranded, is_unfinished, open_threads
from agent.turn.context import Stopped
from agent.turn.events import stream_events
from agent.turn.graph import build_graph


def test_a_thread_is_kept_listed_exported_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "home" / "threads.sqlite"
    with open_threads(file) as threads:
        thread = threads.new("  hello\n world ")
        agent = build_graph(scripted("hi", "again"), checkpointer=threads.saver)
        list(stream_events(agent, "hello", config=config_of(thread)))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    with open_threads(file) as threads:
        assert threads.last() == thread == threads.find(thread.id[:4]) and thread.title == "hello world"
        assert [m.text for m in threads.messages(thread)] == ["hello", "hi"]
        agent = build_graph(scripted("more"), checkpointer=threads.saver)
        list(stream_events(agent, "and?", config=config_of(thread)))
        assert [m.text for m in threads.messages(thread)] == ["hello", "hi", "and?", "more"]
        assert threads.export(threads.rename(thread, "New")).startswith("# New\n\n**You:** hello\n\nhi")
        threads.remove(thread)
        assert threads.all() == [] and threads.messages(thread) == []
        for name in ("", "nope"):
            with pytest.raises(ThreadError, match="agent threads list"):
                threads.find(name)


def test_a_long_thread_keeps_what_was_said_and_none_of_the_steps_to_it(tmp_path: Path) -> None:
    file = tmp_path / "threads.sqlite"
    with open_threads(file) as threads:
        other, thread = threads.new("other"), threads.new("long")
        agent = build_graph(scripted(lambda messages: f"answer {len(messages)}"), checkpointer=threads.saver)
        list(stream_events(agent, "hello", config=config_of(other)))
        rows = []
        for n in range(40):
            list(stream_events(agent, f"question {n}", config=config_of(thread)))
            threads.settle(thread)
            counts = [threads._db.execute(f"SELECT count(*) FROM {t}") for t in ("checkpoints", "writes")]
            rows.append([cursor.fetchone()[0] for cursor in counts])
        assert rows[0] == rows[-1]
        said = [m.text for m in threads.messages(thread)]
        assert said == [x for n in range(40) for x in (f"question {n}", f"answer {2 * n + 1}")]
        assert [m.text for m in threads.messages(other)] == ["hello", "answer 1"]
    assert file.stat().st_size < 200_000  # 2 MB with every step


def test_steps_of_a_graph_inside_the_graph_take_none_of_the_outer_one_s(tmp_path: Path) -> None:
    with open_threads(tmp_path / "threads.sqlite") as threads:
        thread = threads.new("x")
        agent = build_graph(scripted("a"), checkpointer=threads.saver)
        list(stream_events(agent, "q", config=config_of(thread)))
        inner = {"configurable": {"thread_id": thread.id, "checkpoint_ns": "inner"}}
        for _ in range(2):  # both newer than all of the outer graph's
            threads.saver.put(inner, empty_checkpoint(), {}, {})
        threads.settle(thread)
        assert [m.text for m in threads.messages(thread)] == ["q", "a"]
        assert len(list(threads.saver.list(inner))) == 1


def test_what_is_removed_is_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "threads.sqlite"
    with open_threads(file) as threads:
        thread = threads.new("a title that is secret")
        agent = build_graph(scripted("an answer that is secret"), checkpointer=threads.saver)
        list(stream_events(agent, "a question that is secret", config=config_of(thread)))
        threads.settle(thread)
        threads.remove(thread)
    assert all(b"secret" not in path.read_bytes() for path in tmp_path.iterdir())


def test_threads_in_memory_touch_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_threads(None) as threads:
        thread = threads.new("x")
        agent = build_graph(scripted("a"), checkpointer=threads.saver)
        list(stream_events(agent, "q", config=config_of(thread)))
        assert [m.text for m in threads.messages(thread)] == ["q", "a"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_newer_version_is_refused_untouched(tmp_path: Path) -> None:
    file = tmp_path / "threads.sqlite"
    with sqlite3.connect(file) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = file.read_bytes()
    with pytest.raises(ThreadError, match="update this program"), open_threads(file):
        pass
    assert file.read_bytes() == before


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "threads.sqlite"
    file.write_bytes(b"not a database, not at all" * 100)
    with pytest.raises(ThreadError, match="damaged"), open_threads(file):
        pass


def test_a_locked_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "threads.sqlite"
    with open_threads(file):
        pass
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: connect(*a, **{**k, "timeout": 0.1}))
    holder = connect(file)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(ThreadError, match="another process"), open_threads(file) as threads:
        threads.new("x")
    holder.close()


TALK = """
import sys, time
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from agent_fakes import calls, scripted
from agent.turn.graph import build_graph
from agent.turn.events import stream_events
from agent.storage.threads import open_threads, config_of, is_unfinished

def answer(messages):
    print("thinking", flush=True)
    time.sleep({pause})
    return f"answer {{sum(m.type == 'human' for m in messages)}}"

with open_threads(Path({file!r})) as threads:
    thread = threads.last() or threads.new("talk")
    agent = build_graph(scripted(answer), checkpointer=threads.saver)
    config = config_of(thread)
    if is_unfinished(agent.get_state(config)):
        list(stream_events(agent, None, config=config))
    while True:
        said = [m.text for m in threads.messages(thread) if m.type == "human"]
        if len(said) >= 5:
            break
        list(stream_events(agent, f"question {{len(said) + 1}}", config=config))
"""


def test_a_conversation_killed_at_any_moment_loses_and_doubles_no_turn(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    file = tmp_path / "threads.sqlite"
    code = TALK.format(root=str(root), tests=str(root / "tests"), file=str(file), pause=0.02)
    for delay in (0.0, 0.01, 0.03, 0.05):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        if child.stdout.readline():  # a turn has begun
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
    with open_threads(file) as threads:
        (thread,) = threads.all()
        said = [(m.type, m.text) for m in threads.messages(thread)]
    assert said == [x for n in range(1, 6) for x in (("human", f"question {n}"), ("ai", f"answer {n}"))]


def test_logs_are_kept_searched_aged_and_private(tmp_path: Path) -> None:
    file = tmp_path / "logs.sqlite"
    keep: dict[str, Any] = {"grounded": True, "model": "m", "thread": None, "facts": {"a": 1}}
    with open_logs(file) as logs:
        assert logs.first
        logs.add("what is 100% wool?", "a fibre", **keep)
        logs.add("what is silk?", "another fibre", **keep)
        assert [e.question for e in logs.newest()] == ["what is silk?", "what is 100% wool?"]
        assert [e.id for e in logs.newest(words="100% fibre")] == [1]
        assert logs.newest(words="1_0") == []
        assert logs.get(1) is not None and logs.get(9) is None
        logs._db.execute("UPDATE logs SET time = ? WHERE id = 1", (time.time() - 3 * 86400,))
        assert logs.expire(0) == 0 and logs.expire(2) == 1
        assert logs.remove(2) == 1 and logs.remove() == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with open_logs(file) as logs:
        assert not logs.first


@pytest.mark.parametrize(
    ("text", "question", "filled"),
    [
        ("TL;DR: $input", "long text", "TL;DR: long text"),
        ("Be ${how}.", "why?", "Be kind.\n\nwhy?"),
        ("It costs $$5", "", "It costs $5"),
    ],
)
def test_templates_fill(tmp_path: Path, text: str, question: str, filled: str) -> None:
    templates.save_template(tmp_path, "t", text)
    kept = templates.read_template(tmp_path, "t")
    assert templates.fill(kept, question=question, values={"how": "kind"}) == filled
    assert templates.list_templates(tmp_path) == ["t"]


def test_templates_that_cannot_be(tmp_path: Path) -> None:
    for name in ("../x", "", "a/b", ".hidden"):
        with pytest.raises(TemplateError, match="name"):
            templates.save_template(tmp_path, name, "x")
    with pytest.raises(TemplateError, match="dollar"):
        templates.save_template(tmp_path, "t", "costs $5")
    with pytest.raises(TemplateError, match="none yet"):
        templates.read_template(tmp_path, "t")
    with pytest.raises(TemplateError, match="-p how VALUE"):
        templates.fill("$how", question="", values={})


def test_config_is_set_unset_and_keeps_comments(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("# mine\nk = 3\n\n[mcp.a]\ncommand = ['x']\n")
    set_value(file, "temperature", "0.5")
    set_value(file, "k", "7")
    set_value(file, "system", 'say "hi"')
    found = read_config(file)
    assert (found["k"], found["temperature"], found["system"]) == (7, 0.5, 'say "hi"')
    assert file.read_text().startswith("# mine") and found["mcp"]["a"]["command"] == ["x"]
    set_value(file, "k", "")
    assert "k" not in read_config(file)
    assert os.listdir(tmp_path) == ["config.toml"]


@pytest.mark.parametrize(("name", "value"), [("kk", "1"), ("k", "many"), ("k", "0"), ("temperature", "99")])
def test_config_refuses_and_changes_nothing(tmp_path: Path, name: str, value: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text("k = 3\n")
    with pytest.raises(ConfigError):
        set_value(file, name, value)
    assert file.read_text() == "k = 3\n" and os.listdir(tmp_path) == ["config.toml"]


def test_messages_come_back_as_messages(tmp_path: Path) -> None:
    with open_threads(tmp_path / "t.sqlite") as threads:
        thread = threads.new("x")
        agent = build_graph(scripted("hi"), checkpointer=threads.saver)
        list(stream_events(agent, "hello", config=config_of(thread)))
        first, second = threads.messages(thread)
        assert isinstance(first, HumanMessage) and isinstance(second, AIMessage)


def test_a_turn_that_a_tool_answers_is_finished_and_exported(tmp_path: Path) -> None:
    @tool(return_direct=True)
    def price(of: str) -> str:
        """Looks up a price."""
        return f"{of}: 3 EUR"

    price.metadata = {"kind": "read", "reaches": "machine"}
    with open_threads(tmp_path / "t.sqlite") as threads:
        thread = threads.new("tea")
        model = scripted(calls("price", of="tea"), "I said 3 EUR")
        agent = build_graph(model, tools=[price], checkpointer=threads.saver)
        list(stream_events(agent, "what does tea cost?", config=config_of(thread)))
        threads.settle(thread)
        state = agent.get_state(config_of(thread))
        assert not is_unfinished(state) and not is_stranded(agent, state)
        assert threads.export(thread) == "# tea\n\n**You:** what does tea cost?\n\ntea: 3 EUR\n"
        list(stream_events(agent, "sure?", config=config_of(thread)))
        assert threads.export(thread).endswith("tea: 3 EUR\n\n**You:** sure?\n\nI said 3 EUR\n")


def test_a_thread_with_an_unknown_type_is_refused_by_name(tmp_path: Path) -> None:
    """X1: a row that was tampered with runs nothing, and the error says which thread it is."""
    made = tmp_path / "made"
    harm = ormsgpack.Ext(0, ormsgpack.packb(("os", "mkdir", str(made))))
    with open_threads(tmp_path / "threads.sqlite") as threads:
        thread = threads.new("hello")
        graph = build_graph(scripted("hi"), checkpointer=threads.saver)
        graph.invoke({"messages": [("user", "hello")]}, config_of(thread))
    with sqlite3.connect(tmp_path / "threads.sqlite") as file:
        (packed,) = file.execute("SELECT checkpoint FROM checkpoints ORDER BY checkpoint_id DESC").fetchone()
        value = ormsgpack.unpackb(packed, ext_hook=lambda code, data: ormsgpack.Ext(code, data))
        value["channel_values"]["harm"] = harm
        file.execute("UPDATE checkpoints SET checkpoint = ?", (ormsgpack.packb(value),))
    with open_threads(tmp_path / "threads.sqlite") as threads:
        with pytest.raises(ThreadError, match=rf"thread '{thread.id}' in checkpoints: .* found os\.mkdir"):
            threads.messages(thread)
    assert not made.exists()


def test_a_stopped_answer_keeps_the_labels_of_what_it_showed() -> None:
    """X15: the documents were being quoted when the turn was stopped."""

    def answer(_: Any) -> Any:
        raise Stopped

    with open_threads(None) as threads:
        thread = threads.new("sky")
        chain = RunnableLambda(answer)
        graph = build_graph(scripted("never said"), answerer=chain, checkpointer=threads.saver)
        with pytest.raises(Stopped):
            list(stream_events(graph, "What colour is the sky?", config=config_of(thread)))
        close_turn(graph, config_of(thread), "The sky is (stopped)")
        assert labels_of(threads.messages(thread)) == both("your documents")


def test_config_keeps_arrays_of_several_lines_and_keys_of_other_tables(tmp_path: Path) -> None:
    """C1: only the one setting changes."""
    file = tmp_path / "config.toml"
    kept = 'files = [\n  "~/a",  # work\n  "~/b",\n]\n\n[mcp.a]\ncommand = ["x"]\ntimeout_s = 5\n'
    kept += '[mcp.a.env]\nk = "v"\n'
    file.write_text(kept)
    set_value(file, "k", "7")
    set_value(file, "k", "")
    assert file.read_text() == kept
    set_value(file, "files", '["~/c"]')
    assert read_config(file)["files"] == ["~/c"] and read_config(file)["mcp"]["a"]["env"] == {"k": "v"}
