"""Messages that speak Python become options and commands; those that speak the command line stay."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name as resolve

import click
import pytest
from agent_command import Run, command_line

from agent.build import Parts
from agent.cli import console
from agent.cli.main import program
from agent.cli.messages import COMMANDS, in_options, library_message
from agent.settings import load_settings
from llms.errors import LLMError

ROOT = Path(__file__).parent.parent


def running(verb: str) -> click.Context:
    root = click.Context(program, info_name="agent")
    found = program.get_command(root, verb)
    assert found is not None
    return click.Context(found, parent=root, info_name=verb)


@pytest.mark.parametrize(
    ("verb", "text", "expected"),
    [
        ("ask", 'fits with quantization="nf4"', "fits with --quantization nf4"),
        ("ask", "raise max_tokens=64, or more", "raise --max-tokens 64, or more"),
        ("ask", "lower `max_tokens=`.", "lower `--max-tokens`."),
        ("ask", "give that as model=.", "give that as --model."),
        ("ask", "merge it (merge_adapter=True)", "merge it (--merge-adapter)"),
        (
            "ask",
            "download this one (0.5 GB) with download=True",
            "download this one (0.5 GB) with --download",
        ),
        ("ask", "set window=4096; then", "set -o window 4096; then"),
        ("ask", "use model='my models/a b'", "use --model 'my models/a b'"),
        ("ask", "drop require_gpu=True or device='cuda'", "drop --require-gpu or --device cuda"),
        ("ask", "run with require_gpu=False", "run with no --require-gpu"),
        ("ask", "give adapter=FOLDER", "give --adapter FOLDER"),
        ("ask", "pass tools=False", "pass --no-tools"),
        ("ask", "take k=2 passages", "take -k 2 passages"),
        ("docs", "use store=FOLDER", "use --store FOLDER"),
        ("docs", "use window=512", "use `agent config set window 512`"),
        ("ingest", "raise max_file_bytes=1_000", "raise --max-bytes 1000"),
        ("ingest", 'with precision="float32", reembed=True', "with --precision float32, --reembed"),
    ],
)
def test_arguments_become_options(verb: str, text: str, expected: str) -> None:
    assert in_options(text, running(verb)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('run `llms.models.pull("mistral-7b")`', "run `agent models pull mistral-7b`"),
        (
            'llms.models.pull("a/b", revision="main") first',
            "agent models pull a/b --revision main first",
        ),
        ("llms.models.pull(NAME)", "agent models pull NAME"),
        ("see llms.models.ls()", "see agent models list"),
        ("store.ingest(paths, reembed=True)", "agent ingest PATHS --reembed"),
        ("store.verify(repair=True)", "agent docs verify --repair"),
        ("DocumentStore.repair(folder)", "agent docs verify --repair"),
        ("llms.diagnose() says more", "agent doctor says more"),
    ],
)
def test_calls_become_commands(text: str, expected: str) -> None:
    assert in_options(text, running("ask")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "use --quantization nf4, or `agent models pull mistral-7b`",
        'expected a value, found "k=3"; pass -p NAME VALUE',
        "see https://example.org/?model=x&k=3 and a/k=3",
        "x=1 and top_p == 2 and 'device=cuda'",
        'ChatLocal(quantization="nf4") and f(window=4096)',
        "print(max_tokens)=, self.k=3",
        "model=mistral names no Python value",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert in_options(text, running("ask")) == text


def test_options_that_a_message_names_already_stay_in_it() -> None:
    for room in ("llms", "chains", "tools", "sandbox"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and " --" in node.value:
                    options = re.findall(r"--[a-z-]+", node.value)
                    assert re.findall(r"--[a-z-]+", in_options(node.value, None))[: len(options)] == options


def test_a_hint_is_shown_as_a_command_once() -> None:
    error = LLMError("expected it here, found none", hint='llms.models.pull("mistral-7b")')
    assert library_message(error, running("ask")) == (
        "expected it here, found none; run `agent models pull mistral-7b`"
    )
    assert library_message(LLMError("no", hint="mine.repair()"), None) == "no; run `mine.repair()`"
    stranger = OSError("no")
    stranger.hint = "llms.diagnose()"  # type: ignore[attr-defined]
    assert library_message(stranger, None) == "no; run `agent doctor`"


def hints() -> Iterator[tuple[str, str]]:
    """Every `hint=` in the libraries, with a name in place of what an f-string fills in."""
    for room in ("llms", "chains", "tools", "sandbox"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "hint":
                    parts = node.value.values if isinstance(node.value, ast.JoinedStr) else [node.value]
                    texts = [str(part.value) if isinstance(part, ast.Constant) else "x" for part in parts]
                    if any(isinstance(part, ast.Constant) for part in parts):
                        yield f"{path.relative_to(ROOT)}:{node.value.lineno}", "".join(texts)


def test_every_hint_of_a_library_is_a_command() -> None:
    unknown = [(place, hint) for place, hint in hints() if not in_options(hint, None).startswith("agent ")]
    assert not unknown, "add these calls to COMMANDS of agent/cli/messages.py"


def test_every_call_of_the_table_exists() -> None:
    from chains.retrieval import DocumentStore

    for call in COMMANDS:
        owner, _, name = call.rpartition(".")
        assert hasattr(
            {"store": DocumentStore, "DocumentStore": DocumentStore}.get(owner) or resolve(owner), name
        )


@pytest.mark.parametrize("call", sorted(COMMANDS))
def test_every_command_of_the_table_is_one(call: str) -> None:
    verb, _, rest = COMMANDS[call].partition(" ")
    context = running(verb).command.make_context(verb, [*rest.split(), "x"], resilient_parsing=True)
    assert not rest or context.params["action"] == rest.split()[0]


def test_the_command_line_shows_errors_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise LLMError(
            'expected 9 GB, found 4 GB; use quantization="nf4" or window=4096', hint="llms.models.ls()"
        )

    monkeypatch.setenv("AGENT_HOME", str(tmp_path))
    monkeypatch.setattr("agent.build.Parts", fails)
    with command_line(tmp_path, monkeypatch, capsys) as run:
        done = _ask(run)
    assert done.endswith("use --quantization nf4 or -o window 4096; run `agent models list`\n")


def _ask(run: Run) -> str:
    done = run("ask", "hello")
    assert done.code == 10
    return done.err


def test_notices_of_a_model_are_ours_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Parts(load_settings(home=tmp_path), notify=console.notify) as parts:
        notify = parts.model.notify
    console.configure(quiet=False, context=running("ask"))
    notify('for better: `llms.models.pull("mistral-7b")`')
    assert capsys.readouterr().err == "for better: `agent models pull mistral-7b`\n"
    console.configure(quiet=True)
    notify("fetching")
    console.configure(quiet=False)
    assert capsys.readouterr().err == ""
