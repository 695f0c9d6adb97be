"""The first use of the toolkit with every part real: weights, embeddings, Chroma and graph."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_command import Run, command_line

from sandbox import Sandbox

ROOT = Path(__file__).parent.parent
HANDBOOK = ROOT / "examples" / "docs"
QUESTION = "What does double quantization save?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def agent(
    home: Path,
    embedded_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Run]:
    """The command line in this process, so that the model is loaded once for all tests."""
    monkeypatch.setenv("AGENT_HOME", str(home))
    monkeypatch.setenv("AGENT_CACHE_DIR", str(embedded_cache))
    with command_line(tmp_path, monkeypatch, capsys) as run:
        if not (home / "store").exists():
            done = run("ingest", str(HANDBOOK))
            assert done.code == 0 and "11 added" in done.err, done
        yield run


def test_a_child_process_answers_from_the_documents_with_sources(
    agent: Run, home: Path, embedded_cache: Path
) -> None:
    environment = os.environ | {"AGENT_HOME": str(home), "AGENT_CACHE_DIR": str(embedded_cache)}
    # These make dependencies send something. None may, or the guard against sockets fails the test.
    environment |= {name: "true" for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2")}
    environment |= {"LANGSMITH_API_KEY": "key", "ANONYMIZED_TELEMETRY": "True", "OTEL_SDK_DISABLED": "false"}
    command = [sys.executable, "-m", "agent", "ask", "--docs", str(HANDBOOK), QUESTION]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, input="", timeout=170
    )
    assert done.returncode == 0, done
    answer, sources = done.stdout.split("\nSources\n")
    assert "0.37 bits per weight" in answer and "[1]" in answer
    first = sources.splitlines()[0]
    assert first.startswith("[1] ") and "quantization.md" in first
    quote = first.split(': "', 1)[1].rstrip('"')
    assert quote in " ".join((HANDBOOK / "quantization.md").read_text().split())
    assert "11 unchanged, nothing to ingest" in done.stderr
    assert "\x1b" not in done.stdout and "smollm2-135m" in done.stderr


def test_what_the_documents_do_not_answer_is_labelled_as_the_models_own(agent: Run) -> None:
    done = agent("ask", "--json", "--no-docs", "--fail-ungrounded", "What is the capital of France?")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[-1]["type"] == "answer" and "Paris" in events[-1]["text"]
    assert events[-1]["usage"]["output_tokens"] > 0 and done.code == 3
    done = agent("ask", "What is the capital of France?")
    label, rest = done.out.split("\n", 1)
    assert label == "Not from your documents; the model's own answer:" and "Paris" in rest
    assert done.code == 0 and "nearest passages" in done.err


def test_docs_only_stops_honestly(agent: Run) -> None:
    done = agent("ask", "--docs-only", "--no-stream", "What is the capital of France?")
    assert (done.code, done.out.strip()) == (0, "Not in your documents.")


def test_standard_input_stands_before_the_question(agent: Run) -> None:
    log = b"10:00 start\n10:01 ERROR disk full on /dev/sda1\n\xff\n"
    done = agent("ask", "--max-tokens", "24", "what went wrong?", stdin=log)
    assert done.code == 0 and "disk full on /dev/sda1 [1]" in done.out, done


def test_files_are_private(agent: Run, home: Path) -> None:
    for path in home.rglob("*"):
        if path.suffix in (".sqlite", ".db") or path == home / "store":
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_prompt_over_the_window_says_both_lengths(agent: Run) -> None:
    done = agent("ask", "--no-docs", "--max-tokens", "8", "why?", stdin=b"word " * 20000)
    assert done.code == 12 and "8192" in done.err.replace(",", ""), done


def test_an_unknown_model(agent: Run) -> None:
    done = agent("ask", "--no-docs", "-m", "smolm2", "hi")
    assert done.code == 16 and "agent models list" in done.err, done


def test_documents_are_listed_and_removed(agent: Run) -> None:
    listed = json.loads(agent("docs", "--json").out)
    assert len(listed["documents"]) == 11
    done = agent("docs", "remove", str(HANDBOOK / "agents.md"))
    assert done.code == 0 and "agents.md" in done.out
    assert len(json.loads(agent("docs", "list", "--json").out)["documents"]) == 10


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda folder: None, 31),
        (lambda folder: folder.mkdir(), 33),
        (
            lambda folder: folder.write_bytes(b""),
            36,
        ),  # it is named, because a hidden file in a folder would be skipped
        (lambda folder: (folder.mkdir(), (folder / "a.md").write_bytes(bytes(range(256)) * 9)), 35),
    ],
)
def test_folders_that_cannot_be_ingested(agent: Run, tmp_path: Path, make: Any, code: int) -> None:
    make(tmp_path / "docs.md")
    done = agent("ingest", str(tmp_path / "docs.md"))
    assert done.code == code and "Traceback" not in done.err, done


def test_a_folder_of_empty_files_has_nothing_and_says_so(agent: Run, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_bytes(b"")
    done = agent("ingest", str(tmp_path / "docs"))
    assert done.code == 0 and "nothing to ingest (1 skipped: empty)" in done.err, done


def test_doctor_finds_this_machine_in_order(agent: Run) -> None:
    done = agent("doctor", "--json")
    findings = {finding["name"]: finding for finding in json.loads(done.out)["findings"]}
    assert {"python", "torch", "gpu", "nf4", "memory", "model", "embedder", "store", "sandbox"} <= set(
        findings
    )
    assert findings["store"]["state"] == "ok" and findings["model"]["state"] == "ok", done


def test_chat_keeps_a_thread_and_survives_wrong_commands(agent: Run) -> None:
    lines = b'/nope\n"""\nWhat is the capital\nof France?\n"""\n/tools\n/docs\n/retry\n/save Capitals\n/bye\n'
    done = agent("chat", "--no-docs", "--no-tools", "--max-tokens", "12", "--tokens", stdin=lines)
    assert done.code == 0 and done.out.count("Paris") == 2, done
    assert "expected a command, found '/nope'" in done.err and "tokens: " in done.err
    (thread,) = json.loads(agent("threads", "--json").out)["threads"][:1]
    assert thread["title"] == "Capitals"
    said = json.loads(agent("threads", "show", thread["id"], "--json").out)["messages"]
    assert [message["role"] for message in said] == ["human", "ai"]
    done = agent("ask", "-c", "--no-docs", "--no-tools", "--max-tokens", "4", "Thanks")
    assert done.code == 0, done
    said = json.loads(agent("threads", "show", thread["id"], "--json").out)["messages"]
    assert [message["role"] for message in said] == ["human", "ai"] * 2
    assert "capital" in agent("logs", "search", "capital France").out
    exported = agent("threads", "export", thread["id"]).out
    assert exported.startswith("# Capitals") and "**You:** Thanks" in exported


def test_a_sum_takes_the_calculator_and_the_trace_shows_it(agent: Run) -> None:
    done = agent("ask", "--td", "--trace", "1234 * 5678")
    assert (
        done.out.strip() == "7006652" and "route calculator" in done.err and "tool  calculator" in done.err
    ), done


def test_code_runs_unasked_in_the_sandbox_and_asks_where_it_could_reach_files(agent: Run) -> None:
    """Nothing can leave the sandbox's first tier. On the second, a program can look at the machine."""
    done = agent("ask", "Run this code: print(40 + 2)")
    if Sandbox.tier().number == 1:
        assert "42" in done.out, done
    else:
        assert "needs a person's approval" in done.out and "print(40 + 2)" in done.err, done
    done = agent("ask", "--approve", "never-ask", "--no-log", "Run this code: print(40 + 2)")
    assert "42" in done.out, done


def test_templates_files_and_extraction(agent: Run, tmp_path: Path) -> None:
    assert agent("templates", "save", "short", "In one word: $input").code == 0
    (tmp_path / "a.txt").write_text("Paris is the capital of France.")
    done = agent(
        "ask",
        "-t",
        "short",
        "-f",
        str(tmp_path / "a.txt"),
        "-x",
        "--no-log",
        "--max-tokens",
        "12",
        "Which city?",
    )
    assert done.code == 0 and done.out.strip(), done
    assert agent("ask", "-t", "nope", "x").code == 74
    assert agent("ask", "-f", str(tmp_path / "nope"), "x").code == 70


def test_classify_and_summarize_on_the_command_line(agent: Run, tmp_path: Path) -> None:
    done = agent("classify", "--labels", "sports,politics", "The striker scored twice.", "--json")
    assert json.loads(done.out)["label"] == "sports", done
    (tmp_path / "in.csv").write_text("id,text\n1,The striker scored twice.\n2,Parliament voted.\n")
    table = ("--csv", str(tmp_path / "in.csv"), "--out", str(tmp_path / "out.csv"))
    assert agent("classify", "--labels", "sports,politics", *table).code == 0
    assert "sports" in (tmp_path / "out.csv").read_text()
    done = agent("summarize", str(HANDBOOK / "kv_cache.md"), "--length", "2s", "--json")
    assert done.code == 0 and json.loads(done.out)["text"], done


def test_code_never_writes_over_a_file(agent: Run, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("mine")
    done = agent("code", "add two numbers", "--out", str(tmp_path / "f.py"))
    assert done.code == 70 and "--force" in done.err and (tmp_path / "f.py").read_text() == "mine", done


@pytest.mark.parametrize("shell", ["bash", "fish", "zsh"])
def test_completion(agent: Run, shell: str) -> None:
    done = agent("completion", shell)
    assert done.code == 0 and "agent" in done.out
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=done.out, text=True).returncode == 0
    # The script runs the program with these variables, which then prints what may come next.
    words = {"bash": "agent ask --docs-", "zsh": "agent ask --docs-", "fish": "agent ask"}[shell]
    asked = {"COMP_WORDS": words, "COMP_CWORD": "--docs-" if shell == "fish" else "2"}
    offered = subprocess.run(
        [sys.executable, "-m", "agent"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | asked | {"_AGENT_COMPLETE": f"{shell}_complete"},
    )
    assert "--docs-only" in offered.stdout, offered
