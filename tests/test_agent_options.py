"""Options of `ask` and what a turn leaves on disk, through the command line over a scripted model."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_command import Done, Run, command_line
from agent_stage import staged

import agent.build


@pytest.fixture
def run(
    tmp_path: Path,
    embedded_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Run]:
    """The command line in this process, in a home folder of this test."""
    monkeypatch.setenv("AGENT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AGENT_CACHE_DIR", str(embedded_cache))
    monkeypatch.setattr(agent.build, "Parts", staged(tmp_path))
    with command_line(tmp_path, monkeypatch, capsys) as command:
        yield command


def ask(run: Run, *args: str, stdin: bytes = b"") -> Done:
    return run("ask", "--no-tools", *args, stdin=stdin)


def test_extract_prints_the_first_code_block_alone(run: Run) -> None:
    assert ask(run, "-x", "code").out == "print(1)\n"
    assert ask(run, "-x", "hello").out == "answer to hello (1 lines)\n"


def test_no_codes_where_stdout_is_no_terminal(run: Run) -> None:
    done = ask(run, "markdown")
    assert done.out.startswith("# Title\n\nSome **bold** words") and "\x1b" not in done.out + done.err


def test_system_prompt_by_option_and_setting(run: Run) -> None:
    assert ask(run, "-s", "Be a poet.", "system").out.strip() == "Be a poet."
    assert run("config", "set", "system", "Be a judge.").code == 0
    assert ask(run, "system").out.strip() == "Be a judge."
    assert ask(run, "-o", "system", "Be a cook.", "system").out.strip() == "Be a cook."


def test_files_stand_before_the_question(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    (tmp_path / "b.txt").write_text("three\n")
    done = ask(run, "-f", str(tmp_path / "a.txt"), "-f", str(tmp_path / "b.txt"), "what is it?")
    assert done.out.startswith("answer to one two three what is it?"), done


def test_a_template_with_values(run: Run) -> None:
    assert run("templates", "save", "say", "Say $input in $language").code == 0
    assert ask(run, "-t", "say", "-p", "language", "German", "hello").out.startswith(
        "answer to Say hello in German"
    )
    done = ask(run, "-t", "say", "hello")
    assert done.code == 74 and "-p language VALUE" in done.err
    done = ask(run, "-t", "sya", "hello")
    assert done.code == 74 and "among say" in done.err and "agent templates save sya" in done.err


def test_continuing_the_last_thread_and_a_named_one(run: Run) -> None:
    ask(run, "first")
    ask(run, "second")
    ask(run, "-c", "third")
    first, second = sorted(
        json.loads(run("threads", "--json").out)["threads"], key=lambda thread: thread["created"]
    )
    said = json.loads(run("threads", "show", second["id"], "--json").out)["messages"]
    assert [m["text"] for m in said if m["role"] == "human"] == ["second", "third"]
    assert ask(run, "--thread", first["title"], "fourth").code == 0
    said = json.loads(run("threads", "show", first["id"], "--json").out)["messages"]
    assert [m["text"] for m in said if m["role"] == "human"] == ["first", "fourth"]
    assert ask(run, "--thread", "nope", "x").code == 73


def test_json_lines_end_with_the_answer(run: Run, tmp_path: Path) -> None:
    done = run("ask", "--json", "--approve", "never-ask", "act now")
    events = [json.loads(line) for line in done.out.splitlines()]
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "answer" and {"notice", "tool_call", "tool_result", "delta"} <= set(kinds)
    assert events[-1]["text"] == "the tool said: marked" and (tmp_path / "marks").read_text() == "now\n"


def test_tool_debug_and_trace_show_the_steps(run: Run) -> None:
    done = run("ask", "--td", "--trace", "--approve", "never-ask", "act now")
    assert "route " in done.err and 'tool mark({"line": "now"})' in done.err
    assert "tool mark success: marked" in done.err and "first ms" in done.err
    assert done.out.strip() == "the tool said: marked"


def test_without_a_terminal_acting_is_refused_with_the_option_named(run: Run, tmp_path: Path) -> None:
    done = run("ask", "act now")
    assert "--approve ask" in done.err and "needs a person's approval" in done.out
    assert not (tmp_path / "marks").exists()


def test_quiet_says_nothing_but_the_answer(run: Run) -> None:
    assert ask(run, "--quiet", "hello").err == ""


def test_ten_thousand_lines_and_broken_utf8_on_standard_input(run: Run) -> None:
    pasted = (
        b"\n".join(b"row %d" % n for n in range(9_998)) + b"\nGr\xfc\xdfe aus K\xf6ln"
    )  # Windows' encoding
    done = ask(run, "how many?", stdin=pasted)
    assert done.code == 0 and "(10001 lines)" in done.out, done
    assert ask(run, stdin=b"Gr\xfc\xdfe aus K\xf6ln").out.startswith(
        "answer to Gr\u00fc\u00dfe aus K\u00f6ln"
    )
    assert ask(run, stdin=b"hello from a pipe").out.startswith("answer to hello from a pipe")


def test_an_error_of_the_model_is_said_and_the_thread_goes_on(run: Run) -> None:
    ask(run, "hello")
    done = ask(run, "-c", "fail")
    assert done.code == 1 and "the weights are on fire" in done.err and "Traceback" not in done.err
    done = ask(run, "-c", "still there?")
    assert done.code == 0 and "not finished" not in done.err
    (thread,) = json.loads(run("threads", "--json").out)["threads"]
    said = json.loads(run("threads", "show", thread["id"], "--json").out)["messages"]
    assert [m["text"] for m in said if m["role"] == "human"] == ["hello", "still there?"]


def test_logs_are_announced_once_searched_shown_aged_and_switched_off(run: Run, tmp_path: Path) -> None:
    assert "agent logs off" in ask(run, "tell me of wool").err
    assert "agent logs off" not in ask(run, "tell me of silk").err
    assert "wool" in run("logs").out and "wool" not in run("logs", "search", "silk").out
    assert "answer to tell me of wool" in run("logs", "show", "1").out
    assert run("logs", "show", "77").code == 70 and run("logs", "rm", "1").out == "removed #1\n"
    with sqlite3.connect(tmp_path / "home" / "logs.sqlite") as db:
        db.execute("UPDATE logs SET time = ?", (time.time() - 10 * 86400,))
    db.close()
    run("config", "set", "log_days", "7")
    ask(run, "tell me of linen")
    entries = json.loads(run("logs", "--json").out)["logs"]
    assert [entry["question"] for entry in entries] == ["tell me of linen"]
    assert run("logs", "rm", "all").out == "removed 1\n" and "nothing in the log" in run("logs").err
    assert run("logs", "off").code == 0
    ask(run, "secret")
    assert json.loads(run("logs", "--json").out)["logs"] == []
    assert ask(run, "-c", "x").code == 73
    assert run("logs", "on").code == 0 and ask(run, "heard").code == 0
    assert "heard" in run("logs").out
    ask(run, "--no-log", "unheard")
    assert "unheard" not in run("logs").out


def test_config_on_the_command_line(run: Run) -> None:
    assert run("config", "set", "k", "6").out == "k = 6\n"
    assert json.loads(run("config", "show", "k", "--json").out) == {"k": "6"}
    assert run("config", "unset", "k").code == 0
    assert json.loads(run("config", "show", "k", "--json").out) == {"k": "4"}
    for words, hint in (
        (("show", "kk"), "did you mean 'k'?"),
        (("set", "temprature", "1"), "did you mean 'temperature'?"),
        (("set", "k"), "agent config set k 6"),
        (("set", "k", "999"), "nothing was changed"),
    ):
        done = run("config", *words)
        assert done.code in (70, 71) and hint in done.err, done


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('modle = "x"\n', "found 'modle'; did you mean 'model'?"),
        ('[mcp.a]\ncomand = ["x"]\n', "found 'mcp.a.comand'; did you mean 'command'?"),
        ("k = 999\n", "'k'"),
        ("k = \n", "expected a TOML file"),
    ],
)
def test_a_settings_file_with_mistakes_is_named(run: Run, tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").write_text(text)
    done = ask(run, "hello")
    assert done.code == 71 and hint in done.err and "Traceback" not in done.err, done
    found = run("config", "path")  # the file that has to be repaired is named
    assert found.code == 0 and found.out == f"{tmp_path / 'home' / 'config.toml'}\n", found


def test_a_disk_that_fills_up_within_a_turn_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from agent.storage.threads import Threads

    begin = Threads.__init__

    def small(self: Threads, connection: Any, *more: Any) -> None:
        begin(self, connection, *more)
        connection.execute("PRAGMA max_page_count = 30")  # it makes SQLite report a full disk

    monkeypatch.setattr(Threads, "__init__", small)
    done = ask(run, "--no-docs", "hello", stdin=b"word " * 40_000)
    assert done.code == 73 and "disk is full" in done.err and "internal error" not in done.err, done
    done = run("chat", "--no-tools", "--no-docs", stdin=b"word " * 40_000 + b"\nhello\n")
    assert done.code == 0 and "internal error" not in done.err, done


def test_words_that_are_no_utf8_are_read_as_far_as_they_can_be(run: Run) -> None:
    # Python's own form of the bytes \xe9 and \xff in an argument.
    done = run("ask", "--no-tools", "say caf\udce9", "-s", "be\udcff brief")
    assert done.code == 0 and "caf\ufffd" in done.out and "Traceback" not in done.err, done
    done = run("chat", "--no-tools", "--no-docs", stdin=b"say caf\xe9\nhello\n")
    assert done.code == 0 and "answer to hello" in done.out and "error" not in done.err, done


def test_documents_with_a_filter_and_their_passages_shown(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "pump.md").write_text("# Pump\n\nThe pump in the cellar is painted green.\n")
    (folder / "roof.txt").write_text("The roof was painted red in spring.\n")
    question = "What colour is the pump in the cellar?"
    done = run("ask", "--no-tools", "--docs", str(folder), "--show-context", question)
    assert done.code == 0 and "passage 1: " in done.err and "painted green" in done.err, done
    done = run("ask", "--no-tools", "--show-context", "--filter", "type", "text", question)
    assert "roof.txt" in done.err and "painted green" not in done.err, done
    done = run("ask", "--no-tools", "--show-context", "--filter", "colour", "green", question)
    assert done.code == 0 and "no passages were found" in done.err, done
    elsewhere = ("--store", str(tmp_path / "none"))
    assert "no documents to show" in run("ask", "--no-tools", "--show-context", *elsewhere, "x").err


def test_notes_on_the_command_line(run: Run) -> None:
    assert run("notes", "add", "I like tea").out == "noted: I like tea\n"
    assert run("notes", "add", "I like dogs").code == 0
    assert "I like tea" in ask(run, "system").out
    assert run("notes").out == "1. I like tea\n2. I like dogs\n"
    assert json.loads(run("notes", "--json").out) == {"notes": ["I like tea", "I like dogs"]}
    for words in ((), ("x",), ("3",), ("0",)):
        assert run("notes", "rm", *words).code == 70
    assert run("notes", "rm", "1", "2").out == "forgot: I like tea\nforgot: I like dogs\n"
    assert "no notes yet" in run("notes").err and run("notes", "add").code == 70
