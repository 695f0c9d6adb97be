"""The real program at a terminal: commands, approvals, Ctrl-C, pastes, narrow windows, kills."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_terminal import PROMPT, Terminal

STAGE = Path(__file__).parent / "agent_stage.py"
ROOT = STAGE.parent.parent

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path, embedded_cache: Path) -> Iterator[Start]:
    """Yield a function that starts the program in a new home folder; kill what still runs at the end."""
    running: list[Terminal] = []

    def begin(*words: str, columns: int = 80, **env: str) -> Terminal:
        given = {**os.environ, "AGENT_HOME": str(tmp_path / "home"), "TERM": "xterm-256color", **env}
        given["AGENT_CACHE_DIR"] = str(embedded_cache)  # the router's weights are learned once
        given["PYTHONPATH"] = os.pathsep.join([str(ROOT), given.get("PYTHONPATH", "")])
        command = [sys.executable, str(STAGE), str(tmp_path), *words]
        running.append(Terminal(command, given, columns=columns))
        return running[-1]

    yield begin
    for terminal in running:
        try:
            os.kill(terminal.pid, signal.SIGKILL)
            os.waitpid(terminal.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def marks(folder: Path) -> list[str]:
    file = folder / "marks"
    return file.read_text().splitlines() if file.exists() else []


def test_every_command_of_the_chat(start: Start, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The pump is green.")
    chat = start("chat", "--no-tools", "--no-docs")
    for typed, expected in (
        ("/help", "/load NAME"),
        ("hello there", "answer to hello there"),
        ("/model", "model auto"),
        ("/model other", "model other"),
        ("/model missing", "error: unknown model 'missing'"),
        ("/model", "model other"),  # the chat goes on with the one it has
        ("/system Talk like a pirate", "system prompt: Talk like a pirate"),
        ("system please", "Talk like a pirate"),
        ("/tokens", "token counts: on"),
        ("hello again", "tokens: 0 in, 0 out"),
        ("/tokens", "token counts: off"),
        ("/retry", "answer to hello again"),
        ("/save First Talk", "First Talk"),
        ("/clear", "a new thread"),
        ("/retry", "answer to hello again"),
        ("/load first talk", "human: hello again"),
        ("/load nothing", "agent threads list"),
        ("/remember I like tea", "noted: I like tea"),
        ("/notes", "1. I like tea"),
        ("system now", "• I like tea"),
        ("/forget 1", "forgot: I like tea"),
        ("/tools on", "tools: on (calculator, "),
        ("/tools off", "tools: off"),
        (f"/docs {tmp_path / 'a.md'}", "documents: auto"),
        ("/docs off", "documents: off"),
        ("/nope", "expected a command, found '/nope'"),
        ("/save", "for example: /save my talk"),
        ("/Model", "model other"),
        ("fail now", "the weights are on fire"),
        ("still there?", "answer to still there?"),
    ):
        chat.line(typed)
        chat.expect(expected)
    chat.line("/bye")
    chat.expect("to go on: agent chat --thread ")
    assert chat.wait() == 0 and "Traceback" not in chat.text
    history = tmp_path / "home" / "chat_history"
    assert "hello there" in history.read_text() and stat.S_IMODE(history.stat().st_mode) == 0o600
    again = start("chat", "--thread", "first talk", "--no-tools")
    again.expect("First Talk")
    again.expect(PROMPT)
    again.type("\x1b[A\x1b[A\r")  # up, up: the line before /bye
    again.expect("answer to still there?")
    again.line("/bye")
    assert again.wait() == 0


def test_a_chat_that_is_not_kept_remembers_until_it_ends_or_is_cleared(start: Start, tmp_path: Path) -> None:
    chat = start("chat", "--no-log", "--no-tools", "--no-docs")
    for typed, expected in (
        ("first words", "answer to first words"),
        ("/system Talk like a pirate", "system prompt: Talk like a pirate"),
        ("count", "3 messages"),  # another system prompt forgets nothing
        ("/clear", "a new thread"),
        ("count", "1 messages"),
        ("/save title", "agent logs on"),
        ("/load last", "agent logs on"),
    ):
        chat.line(typed)
        chat.expect(expected)
    chat.line("/bye")
    assert chat.wait() == 0 and "to go on" not in chat.text
    assert not (tmp_path / "home" / "threads.sqlite").exists()


def test_approval_by_yes_no_edit_and_always(start: Start, tmp_path: Path) -> None:
    chat = start("chat")
    chat.line("act alpha")
    chat.expect("line: alpha")
    chat.expect("allow? [y]es, [n]o, [e]dit, [a]lways in this thread while no other text is in it: ")
    assert marks(tmp_path) == []
    chat.type("perhaps\r")
    chat.expect("allow?")
    chat.type("y\r")
    chat.expect("the tool said: marked")
    assert marks(tmp_path) == ["alpha"]
    chat.line("act beta")
    chat.expect("allow?")
    chat.type("n\r")
    chat.expect("rejected the tool call")
    chat.line("act gamma")
    chat.expect("tool mark is in the conversation")  # the result of the first call is the reason why it asks
    chat.expect("allow? [y]es, [n]o, [e]dit: ")  # it reaches outside, so no "always" would cover it now
    chat.type("e\r")
    chat.expect("(JSON or text, empty keeps it): ")
    chat.type("delta\r")
    chat.expect("marked")
    assert marks(tmp_path) == ["alpha", "delta"]
    chat.line("/clear")
    chat.line("act epsilon")
    chat.expect("allow?")
    chat.type("a\r")
    chat.expect("the tool said: marked")
    chat.line("act zeta")
    chat.expect("allow?")  # "always" holds until a tool's own text is in the conversation
    chat.type("\x03")
    chat.expect("(Ctrl-C again, or /bye, ends the chat)")
    chat.line("hello")
    chat.expect("answer to hello")
    chat.line("/bye")
    assert chat.wait() == 0 and marks(tmp_path) == ["alpha", "delta", "epsilon"]


def test_an_approval_waits_through_a_kill(start: Start, tmp_path: Path) -> None:
    chat = start("chat")
    chat.line("act once")
    chat.expect("allow?")
    os.kill(chat.pid, signal.SIGKILL)
    assert chat.wait() == -9 and marks(tmp_path) == []
    again = start("chat", "-c")
    again.line("and now?")
    again.expect("the last turn of this thread was not finished")
    again.expect("line: once")
    again.expect("allow?")
    again.type("y\r")
    again.expect("the tool said: marked")
    again.expect("answer to and now?")
    again.line("/bye")
    assert again.wait() == 0 and marks(tmp_path) == ["once"]


def test_ctrl_c_ends_the_answer_and_a_second_one_the_program(start: Start) -> None:
    chat = start("chat", "--no-tools")
    chat.line("slow please")
    chat.expect("word5")
    before = time.monotonic()
    chat.type("\x03")
    chat.expect("(Ctrl-C again, or /bye, ends the chat)")
    assert time.monotonic() - before < 3  # the whole answer takes eight seconds
    chat.line("hello")
    chat.expect("answer to hello")
    assert "not finished" not in chat.text
    chat.expect(PROMPT)
    chat.type("\x03")
    chat.expect("ends the chat)")
    chat.expect(PROMPT)
    chat.type("\x03")
    assert chat.wait() == 130 and "Traceback" not in chat.text


def test_ctrl_c_empties_a_line_that_has_begun_and_does_not_count(start: Start) -> None:
    chat = start("chat", "--no-tools")
    chat.expect(PROMPT)
    chat.type("\x03")
    chat.expect("ends the chat)")
    for words in ("half a line", "another half"):
        chat.expect(PROMPT)
        chat.type(words)
        chat.expect(words)
        chat.type("\x03")
    chat.line("hello")
    chat.expect("answer to hello")
    chat.line("/bye")
    assert chat.wait() == 0


def test_what_is_noted_within_an_answer_stands_on_its_own_line(start: Start) -> None:
    chat = start("chat", "--no-tools")
    chat.line("again and")
    chat.expect("the model repeated itself, so its answer was ended here")
    chat.line("/bye")
    assert chat.wait() == 0
    lines = chat.text.splitlines()
    place = next(n for n, line in enumerate(lines) if "repeated itself" in line)
    assert lines[place] == "the model repeated itself, so its answer was ended here"
    assert "goes" in lines[place - 1] and "goes" not in lines[place + 1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_an_answer_at_once_and_the_turn_goes_on_later(
    start: Start, number: signal.Signals, code: int
) -> None:
    chat = start("chat", "--no-tools")
    chat.line("slow please")
    chat.expect("word5")
    os.kill(chat.pid, number)
    before = time.monotonic()
    assert chat.wait() == code and time.monotonic() - before < 4 and "Traceback" not in chat.text
    if number == signal.SIGTERM:
        again = start("ask", "-c", "--no-tools", "hello")
        assert again.wait() == 0
        assert "word399" in again.text and "answer to hello" in again.text


def test_pastes_of_many_lines(start: Start) -> None:
    chat = start("chat", "--no-tools")
    chat.line('"""')
    chat.line("first")
    chat.line('last"""')
    chat.expect("(2 lines)")
    chat.expect(PROMPT)
    chat.type("\x1b[200~" + "\n".join(f"row {n}" for n in range(10_000)) + "\x1b[201~")
    chat.type("\r")
    chat.expect("(10000", timeout=120)
    chat.line("/bye")
    assert chat.wait() == 0


@pytest.mark.parametrize("columns", [20, 80])
def test_markdown_is_styled_and_wrapped_to_the_terminal(start: Start, columns: int) -> None:
    asked = start("ask", "--no-tools", "--quiet", "markdown", columns=columns)
    assert asked.wait() == 0
    assert "\x1b[1mTitle\x1b[0m" in asked.seen and "**" not in asked.seen and "• one" in asked.text
    rows = asked.text.split("\n")
    assert max(map(len, rows)) <= columns and "Some bold words" in " ".join(rows)


def test_no_colour_where_it_is_not_wanted(start: Start) -> None:
    asked = start("ask", "--no-tools", "markdown", NO_COLOR="1")
    assert asked.wait() == 0 and "\x1b" not in asked.seen and "**bold**" in asked.seen


def test_a_narrow_terminal_can_approve(start: Start, tmp_path: Path) -> None:
    chat = start("chat", columns=20)
    chat.line("act " + "x" * 50)
    chat.expect("allow?")
    chat.type("y\r")
    chat.expect("marked")
    chat.line("/bye")
    assert chat.wait() == 0 and marks(tmp_path) == ["x" * 50]
