"""The command line's own work: words and options, standard input, signals, pipes, errors; no model here."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from agent.cli import console
from agent.cli.main import VERBS, main, program

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


def parse(verb: str, *argv: str) -> Any:
    command = program.get_command(click.Context(program), verb)
    assert command is not None
    context = command.make_context(verb, list(argv), parent=click.Context(program, info_name="agent"))
    return SimpleNamespace(**context.params)


@pytest.mark.parametrize(
    "argv",
    [
        ("ask", "--docs-only", "-m", "x", "what", "is", "it"),
        ("ask", "what", "is", "it", "--docs-only", "-m", "x"),
        ("ask", "what", "--docs-only", "is", "-m", "x", "it"),
        ("ask", "--docs-only", "--model=x", "--", "what", "is", "it"),
    ],
)
def test_options_stand_anywhere(argv: tuple[str, ...]) -> None:
    args = parse(*argv)
    assert (args.question, args.docs_only, args.model) == (("what", "is", "it"), True, "x")


@pytest.mark.parametrize(
    "argv",
    [
        ("--docs-only", "-m", "x", "ask", "what", "is", "it"),
        ("--thread", "docs", "ask", "hello"),  # `docs` is the thread's name here, not the verb
        ("--quiet", "docs", "remove", "all"),
        ("-5", "docs"),
    ],
)
def test_an_option_before_the_verb_runs_nothing_and_says_where_it_goes(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    done = capsys.readouterr()
    assert done.out == "" and f"options go after the verb: `agent VERB {argv[0]} …`" in done.err
    assert len(done.err.splitlines()) == 1


def test_words_after_two_dashes_may_look_like_options() -> None:
    assert parse("ask", "-k", "3", "--", "--docs-only", "-x").question == ("--docs-only", "-x")


def test_words_that_cannot_be_options_may_begin_with_a_dash() -> None:
    args = parse("ask", "what is", "-5", "+", "-.5", "-k3", "--system=be brief", "-s", "-1", "- and this?")
    assert args.question == ("what is", "-5", "+", "-.5", "- and this?")
    assert (args.k, args.system) == (3, "-1")
    assert parse("ask", "-s be brief").system == " be brief"
    assert parse("ask", "--json is what?").question == ("--json is what?",)
    with pytest.raises(click.NoSuchOption):
        parse("ask", "-5x")


def test_values_with_an_equals_sign() -> None:
    args = parse("ask", "-k=3", "--system=--json", "-m=a=b", "-t=", "hello")
    assert (args.k, args.system, args.model, args.template) == (3, "--json", "a=b", "")
    assert args.question == ("hello",) and not args.json


@pytest.mark.parametrize(
    "argv",
    [
        ("code", "f", "--out", "--force"),
        ("ask", "-f", "--json", "x"),
        ("ask", "-o", "k", "-x"),
        ("ask", "-s", "--", "x"),
    ],
)
def test_an_option_is_never_the_value_of_another_one(argv: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(click.BadOptionUsage):
        parse(*argv)
    assert main(argv) == 2


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_every_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(click.exceptions.Exit) as stop:
        parse(verb, "--help")
    assert stop.value.exit_code == 0
    assert capsys.readouterr().out.startswith(f"usage: agent {verb}")


OPTIONS = {
    "ask":
        "--adapter --approve --chroma --continue --device --docs --docs-only --extract "
        "--fail-ungrounded --file --files --filter --json --max-tokens --merge-adapter --model "
        "--no-docs --no-log --no-stream --no-tools --planner --quantization --require-gpu --seed "
        "--show-context --store --system --td --temperature --template --thread --tools --trace "
        "--verbose -c -f -k -m -o -p -s -t -x",
    "chat":
        "--adapter --approve --chroma --continue --device --docs --docs-only --files --filter "
        "--max-tokens --merge-adapter --model --no-docs --no-log --no-tools --planner --quantization "
        "--require-gpu --seed --show-context --store --system --td --temperature --thread --tokens "
        "--tools -c -k -m -o -s",
    "ingest": "--chroma --dry-run --json --max-bytes --precision --reembed --store --watch",
    "docs": "--chroma --json --repair --store",
    "summarize":
        "--adapter --audience --chroma --cite --device --focus --json --language --length "
        "--max-tokens --merge-adapter --model --quantization --refine --require-gpu --seed --store "
        "--stored --style --system --temperature -m -o -s",
    "classify":
        "--abstain-below --adapter --column --csv --device --examples --explain --json --labels "
        "--max-tokens --merge-adapter --model --multi-label --out --quantization --require-gpu --seed "
        "--system --temperature -m -o -s",
    "complete":
        "--adapter --code --device --json --lang --max-tokens --merge-adapter --model --quantization "
        "--require-gpu --seed --single-line --suffix --system --temperature -m -n -o -s",
    "code":
        "--adapter --candidates --device --force --json --lang --max-tokens --merge-adapter --model "
        "--out --quantization --repairs --require-gpu --run --seed --system --temperature --test -m "
        "-o -s",
    "models": "--delete --json --revision",
    "threads": "--json --out",
    "logs": "--json -n",
    "notes": "--json",
    "templates": "--json",
    "config": "--json",
    "mcp":
        "--adapter --allow --chroma --device --files --host --http --max-tokens --merge-adapter "
        "--model --port --quantization --require-gpu --seed --store --system --temperature -m -o -s",
    "completion": "",
    "doctor": "--chroma --json --store",
}  # fmt: skip
"""Every verb's own options in version 0.1.0, on which scripts rely."""
COMMON = "--debug --help --home --quiet -h"


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_option_of_an_earlier_version_is_lost(verb: str) -> None:
    command = program.get_command(click.Context(program), verb)
    assert command is not None
    context = click.Context(command, info_name=verb)
    names = {name for param in command.get_params(context) for name in (*param.opts, *param.secondary_opts)}
    assert {*OPTIONS[verb].split(), *COMMON.split()} <= names
    shown = command.get_help(context)
    assert all((param.get_help_record(context) or ("", ""))[0] in shown for param in command.params)


def test_the_table_of_verbs_is_what_the_modules_have() -> None:
    assert set(OPTIONS) == set(VERBS)
    for verb, (_, summary) in VERBS.items():
        command = program.get_command(click.Context(program), verb)
        assert command is not None and (command.name, command.help) == (verb, summary)


def complete(*words: str) -> list[str]:
    shell = ShellComplete(program, {}, "agent", "_AGENT_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


def test_the_shell_completes_verbs_options_choices_and_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_HOME", str(tmp_path))
    assert complete("c") == ["chat", "classify", "complete", "code", "config", "completion"]
    assert complete("ask", "--docs") == ["--docs", "--docs-only"]
    assert complete("ask", "what", "--no-t") == ["--no-tools"]
    assert complete("ask", "--approve", "") == ["ask", "deny", "never-ask"]
    assert complete("docs", "s") == ["show", "stats"] and complete("completion", "z") == ["zsh"]
    assert "mistral-7b" in complete("ask", "-m", "mistral") and "mistral-7b" in complete(
        "models", "pull", "m"
    )
    assert complete("config", "set", "max_t") == [
        "max_tokens",
        "max_tool_calls",
        "max_turn_tokens",
        "max_tool_chars",
    ]
    assert main(["templates", "save", "tldr", "TL;DR: $input"]) == 0
    assert complete("ask", "-t", "") == ["tldr"]
    (tmp_path / "config.toml").write_text("k = \n")
    assert complete("ask", "-t", "") == [], "settings that cannot be read break no line that is being typed"


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_a_completion_script_asks_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_AGENT_COMPLETE={shell}_complete" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash, which is not here")
def test_bash_completes_with_the_script(tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    agent.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m agent "$@"\n')
    agent.chmod(0o755)
    script = (
        'eval "$(agent completion bash)"; COMP_WORDS=(agent docs ver); COMP_CWORD=2;'
        ' _agent_completion agent; echo "${COMPREPLY[@]}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"AGENT_HOME": str(tmp_path), "PATH": path}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, env=env)
    assert done.stdout == "verify\n", done


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
    assert console.printable("a\x1b[31mb\x9b2Jc\x07\r\nd\te\x7f") == "a[31mb2Jc\nd\te"


@pytest.mark.parametrize(
    ("text", "limit", "expected"), [("a  b\nc", 9, "a b c"), ("abcdef", 4, "abc…"), ("", 3, "")]
)
def test_shorten(text: str, limit: int, expected: str) -> None:
    assert console.shorten(text, limit) == expected
