"""Documents on the command line: ingest, watch, list, show, verify, stats, export, remove; cited answers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from retrieval_fakes import write
from retrieval_files import pdf

from agent.cli import console
from agent.cli.main import main
from chains.retrieval import DocumentStore, SearchOptions

NOTES = "# Garden\n\nA garden is kept.\n\n## Roses\n\nRoses like clay soil and six hours of sun a day.\n"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose store was filled through the command line."""
    root = tmp_path_factory.mktemp("docs-cli")
    docs = write(
        root / "docs", {"notes.md": NOTES, "tables/people.csv": "name,city\nAlice,Paris\nBob,Oslo\n"}
    )
    (docs / "river.pdf").write_bytes(pdf())
    (docs / "broken.docx").write_bytes(b"no archive")
    return root


Agent = Callable[..., tuple[int, str, str]]


@pytest.fixture
def agent(
    home: Path, embedded_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Agent:
    """The command line, run in this process: (exit code, stdout, stderr)."""
    monkeypatch.setenv("AGENT_HOME", str(home / "home"))
    monkeypatch.setenv("AGENT_CACHE_DIR", str(embedded_cache))
    monkeypatch.chdir(home)

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(argv))
        told = capsys.readouterr()
        return code, told.out, told.err

    if not (home / "home").exists():
        code, out, err = run("ingest", "docs", "--json")
        report = json.loads(out)
        assert code == 49 and len(report["added"]) == 3, err
        assert [os.path.basename(f["path"]) for f in report["failed"]] == ["broken.docx"]
        assert "broken.docx" in err
    return run


def test_a_second_ingest_has_nothing_to_do(agent: Agent) -> None:
    code, _, err = agent("ingest", "docs")
    assert code == 49 and "broken.docx" in err  # a file that was not read
    assert json.loads(agent("ingest", "docs", "--json")[1])["embedded"] == 0
    assert json.loads(agent("ingest", "docs", "--dry-run", "--json")[1])["dry_run"] is True


def test_the_precision_is_chosen_with_the_first_ingest(agent: Agent, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "half"))
    assert agent("ingest", "docs/notes.md", "--precision", "bfloat16", *store)[0] == 0
    assert json.loads(agent("docs", "stats", "--json", *store)[1])["precision"] == "bfloat16"
    assert agent("ingest", "docs/notes.md", *store)[0] == 0
    code, _, err = agent("ingest", "docs/notes.md", "--precision", "float32", *store)
    assert code != 0 and "bfloat16" in err and "--reembed" in err
    assert agent("ingest", "docs/notes.md", "--precision", "float32", "--reembed", *store)[0] == 0
    assert json.loads(agent("docs", "stats", "--json", *store)[1])["precision"] == "float32"


def test_list_show_stats_export_verify(agent: Agent, home: Path) -> None:
    listed = json.loads(agent("docs", "list", "--json")[1])["documents"]
    assert {(os.path.basename(d["path"]), d["kind"]) for d in listed} == {
        ("notes.md", "markdown"),
        ("people.csv", "csv"),
        ("river.pdf", "pdf"),
    }
    assert "notes.md" in agent("docs")[1] and "Garden" in agent("docs", "list")[1]
    code, out, _ = agent("docs", "show", "docs/notes.md")
    assert code == 0 and "clay soil" in out and "notes.md (markdown" in out
    assert json.loads(agent("docs", "show", "docs/notes.md", "--json")[1])["text"] == NOTES
    stats = json.loads(agent("docs", "stats", "--json")[1])
    assert stats["documents"] == 3 and stats["index"] == "clean" and stats["bytes_on_disk"] > 0
    assert "documents: 3" in agent("docs", "stats")[1]
    rows = [json.loads(line) for line in agent("docs", "export")[1].splitlines()]
    spans = [row["text"][c["start"] : c["end"]] for row in rows for c in row["chunks"]]
    assert len(rows) == 3 and any("herons" in span for span in spans)
    code, out, _ = agent("docs", "verify")
    assert code == 0 and out.startswith("ok: 3 documents")
    assert json.loads(agent("docs", "verify", "--repair", "--json")[1])["ok"] is True


def test_what_is_not_there_is_said(agent: Agent) -> None:
    for argv in (
        ("docs", "show", "none.md"),
        ("docs", "show"),
        ("docs", "remove", "none.md"),
        ("docs", "remove"),
    ):
        code, out, err = agent(*argv)
        assert code != 0 and out == "" and "agent docs list" in err


def test_a_harmed_store_is_found_and_mended(agent: Agent, home: Path) -> None:
    graph = next((home / "home").rglob("data_level0.bin"))
    graph.write_bytes(graph.read_bytes()[:1000])  # within the first vectors; what follows the last is unused
    code, out, _ = agent("docs", "verify")
    assert code == 1 and "the exact index answers" in out and "not ok" in out
    code, out, _ = agent("docs", "verify", "--repair")
    assert code == 0 and "repaired: the Chroma index" in out
    assert agent("docs", "verify")[0] == 0


def test_an_answer_says_file_and_line_or_page(agent: Agent) -> None:
    code, out, err = agent("ask", "--docs-only", "--no-log", "--show-context", "What soil do roses like?")
    assert code == 0 and "clay soil" in out
    sources = out.partition("Sources")[2]
    assert '[1] docs/notes.md:7, Roses: "Roses like clay soil' in sources
    assert "passage 1: docs/notes.md:" in err
    out = agent("ask", "--docs-only", "--no-log", "--filter", "type", "pdf", "Which page speaks of otters?")[
        1
    ]
    assert "docs/river.pdf, page 2" in out and "notes.md" not in out
    code, out, _ = agent("ask", "--docs-only", "--no-log", "--fail-ungrounded", "Who won the 1998 world cup?")
    assert "Not in your documents" in out and code == 3


def test_a_terminal_gets_links(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.chdir(home)
    path = home / "docs" / "notes.md"
    fact = {
        "number": 1,
        "source": str(path),
        "line": 7,
        "page": None,
        "heading": "Garden\x1b[2J",
        "quote": "Roses",
    }
    console.show_sources([fact, fact | {"number": 2, "source": "mailto:gone"}])
    text = shown.getvalue()
    assert f"\x1b]8;;{path.resolve().as_uri()}\x1b\\docs/notes.md:7\x1b]8;;\x1b\\, Garden" in text
    assert (
        text.count("\x1b]8;;file:") == 1 and "\x1b[2J" not in text
    )  # a source that is not a file has no link


def test_watch_follows_changes_and_a_reader_sees_them_soon(tmp_path: Path) -> None:
    docs = write(tmp_path / "docs", {"first.txt": "The ferry leaves at six."})
    environment = os.environ | {"AGENT_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "agent", "ingest", "--watch", str(docs)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as watcher:
        assert watcher.stderr is not None
        try:
            while "1 added" not in (line := watcher.stderr.readline()):
                assert line, "the watcher ended"
            with DocumentStore(next((tmp_path / "home").rglob("manifest.sqlite3")).parent) as reader:
                find = SearchOptions(k=1, mode="keyword")
                assert reader.search("ferry", find) and not reader.search("herons", find)
                (docs / "second.txt").write_text("Herons stand in the river.")
                while "1 added" not in (line := watcher.stderr.readline()):
                    assert line, "the watcher ended"
                committed = time.monotonic()
                while not reader.search("herons", find):
                    assert time.monotonic() - committed < 1
                (docs / "first.txt").unlink()
                while "1 deleted" not in (line := watcher.stderr.readline()):
                    assert line, "the watcher ended"
                assert not reader.search("ferry", find)
        finally:
            watcher.terminate()  # not Ctrl-C, because a background job ignores it and so do its children
            with contextlib.suppress(subprocess.TimeoutExpired):
                watcher.wait(timeout=30)
            watcher.kill()
    assert watcher.returncode == 143


def test_an_interrupted_ingest_says_what_is_kept(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: DocumentStore, paths: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DocumentStore, "ingest", interrupted)
        code, out, err = agent("ingest", "docs", "--store", str(tmp_path / "s"))
    assert code == 130 and out == "" and "goes on from there" in err


def test_remove(agent: Agent) -> None:
    code, out, _ = agent("docs", "remove", "docs/tables")
    assert code == 0 and out.strip().endswith("people.csv")
    assert len(json.loads(agent("docs", "--json")[1])["documents"]) == 2
