"""The command line's own work: words and options, standard input, signals, pipes, errors; no model here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.cli import console
from agent.cli.main import _parse, _split, main, verb_parser
from agent.cli.verbs import VERBS

ROOT = Path(__file__).parent.parent


def run(*args: str, home: Path, input: bytes | None = b"", **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *args],
        input=input,
        capture_output=True,
        cwd=ROOT,
        env=os.environ | {"AGENT_HOME": str(home)} | env,
        timeout=120,
    )


def parse(*argv: str) -> Any:
    verb, words = _split(list(argv))
    return _parse(verb_parser(verb), words)


@pytest.mark.parametrize(
    "argv",
    [
        ("ask", "--docs-only", "-m", "x", "what", "is", "it"),
        ("ask", "what", "is", "it", "--docs-only", "-m", "x"),
        ("ask", "what", "--docs-only", "is", "-m", "x", "it"),
        ("--docs-only", "-m", "x", "ask", "what", "is", "it"),
        ("ask", "--docs-only", "--model=x", "--", "what", "is", "it"),
    ],
)
def test_options_stand_anywhere(argv: tuple[str, ...]) -> None:
    args = parse(*argv)
    assert (args.question, args.docs_only, args.model) == (["what", "is", "it"], True, "x")


def test_words_after_two_dashes_may_look_like_options() -> None:
    assert parse("ask", "-k", "3", "--", "--docs-only", "-x").question == ["--docs-only", "-x"]


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(verb, "--help")
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: agent {verb}")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_command_runs_without_a_stream(closed: str, tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m agent config show k {closed}'
    env = {**os.environ, "AGENT_HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 0 and "Error" not in done.stderr, done


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full, which is not here")
def test_a_full_disk_under_the_output_is_said(tmp_path: Path) -> None:
    command = f'"{sys.executable}" -m agent config show k > /dev/full'
    env = {**os.environ, "AGENT_HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.returncode == 72 and "No space left" in done.stderr, done
    assert "internal error" not in done.stderr and "Exception ignored" not in done.stderr, done


def test_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "ask"]) == 0
    assert capsys.readouterr().out.startswith("usage: agent ask")
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: agent VERB")


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv=['agent']; from agent.__main__ import main; main(['--help']);"
        "heavy = ('torch', 'langchain', 'langchain_core', 'transformers', 'rich', 'pydantic');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.rstrip().endswith("[]"), done


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ((), 2, b"usage: agent VERB"),
        (("aks", "hello"), 2, b"did you mean `agent ask`"),
        (("hello there",), 2, b'agent ask "hello there"'),
        (("ask", "--temperature", "-1", "x"), 2, b"from 0 to 5"),
        (("ask", "--max-tokens", "0", "x"), 2, b"a whole number from 1"),
        (
            ("ask", "--no-such-option", "x"),
            2,
            b"found '--no-such-option'; `agent ask --help` lists the options\n",
        ),
        (("ask", "--aprove=ask", "x"), 2, b"did you mean --approve?\n"),
        (("logs", "lst"), 2, b"invalid choice: 'lst' (choose from 'list', 'off'"),
        (("ask", "-f"), 2, b"-f/--file: expected one argument; `agent ask --help`"),
        (("ask",), 70, b"expected a question, found an empty one"),
        (("ask", "  "), 70, b"expected a question"),
        (("ask", "--docs-only", "--no-docs", "x"), 70, b"drop one"),
        (("ask", "-o", "temprature", "1", "x"), 71, b"did you mean 'temperature'"),
        (("ask", "-o", "temperature", "99", "x"), 71, b"found '99'"),
    ],
)
def test_wrong_use_has_a_message_and_a_code(
    tmp_path: Path, argv: tuple[str, ...], code: int, said: bytes
) -> None:
    done = run(*argv, home=tmp_path)
    assert (done.returncode, said in done.stderr + done.stdout) == (code, True), done
    assert b"Traceback" not in done.stderr and (code != 2 or len(done.stderr.splitlines()) <= 1)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("ask", "--debug", home=tmp_path)
    assert (
        done.returncode == 70 and b"Traceback" in done.stderr and b"error: expected a question" in done.stderr
    )


def test_docs_only_needs_documents(tmp_path: Path) -> None:
    done = run("ask", "--docs-only", "x", home=tmp_path)
    assert done.returncode == 70 and b"agent ingest PATH" in done.stderr


def test_unwritable_home(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("ingest", "README.md", home=tmp_path / "file" / "x")
    assert done.returncode == 72 and b"AGENT_HOME" in done.stderr


def test_models_list(tmp_path: Path) -> None:
    done = run("models", home=tmp_path)
    assert done.returncode == 0 and b"mistral-7b" in done.stdout and b"smollm2-135m" in done.stdout


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m agent --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_with_their_codes(tmp_path: Path, number: signal.Signals, code: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "agent", "ask", "x"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"AGENT_HOME": str(tmp_path)},
        # A shell's background job ignores Ctrl-C, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert child.stderr is not None
    assert b"standard input" in child.stderr.readline()  # it waits for the pipe, which stays open
    time.sleep(0.1)
    child.send_signal(number)
    _, errors = child.communicate(timeout=30)
    assert (child.returncode, b"Traceback" in errors) == (code, False)


def test_a_users_own_tools_file_does_not_shadow_ours(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("raise SystemExit('shadowed')")
    (tmp_path / "chains.py").write_text("raise SystemExit('shadowed')")
    code = (
        f"import sys, runpy; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}];"
        "sys.argv = ['agent', 'models'];"
        "runpy.run_module('agent', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"AGENT_HOME": str(tmp_path)},
    )
    assert (done.returncode, "shadowed" in done.stderr) == (0, False), done


def test_escapes_are_neutralized() -> None:
    assert console.harmless("a\x1b[31mb\x9b2Jc\x07\r\nd\te\x7f") == "a[31mb2Jc\nd\te"


@pytest.mark.parametrize(
    ("text", "limit", "expected"), [("a  b\nc", 9, "a b c"), ("abcdef", 4, "abc…"), ("", 3, "")]
)
def test_shorten(text: str, limit: int, expected: str) -> None:
    assert console.shorten(text, limit) == expected
