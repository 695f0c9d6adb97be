"""summarize, classify and complete as a user runs them: files, stdin, JSON, progress, a kill and a resume."""

from __future__ import annotations

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_command import Run, command_line

from agent.cli import console

ROOT = Path(__file__).parent.parent
HANDBOOK = ROOT / "examples" / "docs"
TEXT = "The striker scored twice in the final match. The crowd sang all night."


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
    """The command line in this process, so that the models are loaded once for all tests."""
    monkeypatch.setenv("AGENT_HOME", str(home))
    monkeypatch.setenv("AGENT_CACHE_DIR", str(embedded_cache))
    with command_line(tmp_path, monkeypatch, capsys) as run:
        yield run


# summarize -------------------------------------------------------------------------------------------------


def test_summaries_of_a_file_stdin_a_folder_and_the_store(agent: Run, tmp_path: Path) -> None:
    page = str(HANDBOOK / "kv_cache.md")
    shown = agent("summarize", page, "--length", "2s", "--cite")
    assert shown.code == 0 and "[1]" in shown.out.splitlines()[0] and "kv_cache.md, " in shown.out, shown
    piped = agent("summarize", "-", "--length", "2s", "--json", stdin=Path(page).read_bytes())
    found = json.loads(piped.out)
    assert len(found["sentences"]) == 2 and found["sources"] == ["text 1"], piped
    for name in ("kv_cache.md", "quantization.md"):
        shutil.copy(HANDBOOK / name, tmp_path / name)
    bullets = agent("summarize", str(tmp_path), "--style", "bullets", "--length", "4s", "--json")
    folder = json.loads(bullets.out)
    assert folder["text"].count("\n- ") == 3 and len(folder["sources"]) == 2, bullets
    assert agent("ingest", page).code == 0
    stored = json.loads(agent("summarize", "--stored", page, "--length", "2s", "--json").out)
    assert stored["text"] == found["text"] and stored["sources"] == [page]


def test_refining_standard_input_shows_each_state(agent: Run) -> None:
    text = "# One\n\nGeese fly south in autumn.\n\n# Two\n\nFerries carry cars across the sound.\n"
    done = agent("summarize", "--refine", "--json", stdin=text)
    assert done.code == 0 and len(json.loads(done.out)["parts"]) == 2, done
    assert "after 1 parts: Geese fly south in autumn." in done.err


@pytest.mark.parametrize(
    ("args", "stdin", "code", "said"),
    [
        (("-",), b" \n", 51, "some text"),
        (("-",), b"\x00\x01\x02", 34, "binary data in 'standard input'"),
        (("absent.txt",), b"", 31, "found nothing at 'absent.txt'"),
        (("--stored", "absent.txt"), b"", (31, 70), "agent"),
        (("-", "--language", "German"), b"A text.", 54, "larger model"),
        (("-", "--length", "9999 pages"), b"A text.", 2, "such as 200w or 5s"),
    ],
)
def test_summaries_that_cannot_be(
    agent: Run, args: tuple[str, ...], stdin: bytes, code: int | tuple[int, ...], said: str
) -> None:
    done = agent("summarize", *args, stdin=stdin)
    codes = code if isinstance(code, tuple) else (code,)
    assert done.code in codes and said in done.err and not done.out, done


# classify --------------------------------------------------------------------------------------------------


def test_labels_on_the_command_line_and_in_files(agent: Run, tmp_path: Path) -> None:
    done = agent("classify", "--labels", "sports,politics", "--explain", stdin=TEXT)
    assert done.out.startswith("sports  0.") and "because: The striker" in done.out, done
    lines, tree = tmp_path / "labels.txt", tmp_path / "labels.json"
    lines.write_text("sports\n\npolitics=laws, votes, parties\n")
    found = json.loads(agent("classify", "--labels", f"@{lines}", "--json", TEXT).out)
    assert found["label"] == "sports" and set(found["scores"]) == {"sports", "politics"}
    tree.write_text('{"sports": ["football", "rowing"], "politics": {"votes": "elections", "laws": ""}}')
    found = json.loads(agent("classify", "--labels", f"@{tree}", "--json", TEXT).out)
    assert found["label"] == "sports > football" and set(found["groups"]) == {"sports", "politics"}
    unsure = agent("classify", "--labels", f"@{tree}", "--abstain-below", "0.99", TEXT)
    assert unsure.code == 0 and unsure.out.startswith(("sports  ", "(none)")), unsure


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("--labels", "one", TEXT), 55, "at least two labels"),
        (("--labels", "a,a", TEXT), 55, "twice"),
        (("--labels", ",".join(f"n{n}" for n in range(10_000)), TEXT), 55, "at most 1000 labels"),
        (("--labels", "a,b", "-"), 51, "some text"),
        (("--labels", "a,b", "--csv", "x.csv"), 70, "--csv and --out together"),
        (("--labels", "a,b", "--csv", "absent.csv", "--out", "y.csv"), 53, "absent.csv"),
        (("--labels", "@absent.txt", TEXT), 70, "absent.txt"),
    ],
)
def test_labels_that_cannot_be(agent: Run, args: tuple[str, ...], code: int, said: str) -> None:
    done = agent("classify", *args)
    assert (done.code, said in done.err, done.out) == (code, True, ""), done


def test_examples_of_a_table(agent: Run, tmp_path: Path) -> None:
    (tmp_path / "shots.csv").write_text("text,label\nzint blorp,red\nfren dool,blue\n")
    options = ("classify", "--labels", "red,blue", "--examples", str(tmp_path / "shots.csv"), "--json")
    assert json.loads(agent(*options, "more zint blorp").out)["method"] == "examples"
    (tmp_path / "shots.csv").write_text("text,label\nzint,green\n")
    assert agent(*options, "zint").code == 56


def _table(path: Path, rows: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "body"])
        writer.writerows([n, f'{TEXT} Number {n}, said "she".'] for n in range(rows))


def test_a_table_killed_on_the_way_is_taken_up_again(agent: Run, home: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    _table(source, 2000)
    words = ["classify", "--labels", "sports,politics", "--csv", str(source), "--column", "body", "--out"]
    environment = os.environ | {"AGENT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "agent", *words, str(target)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        end = time.monotonic() + 150
        while not target.exists() or target.stat().st_size < 10_000:
            assert child.poll() is None and time.monotonic() < end
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    written = target.read_bytes()
    kept = len(written.splitlines()) - 2
    # The rest of the table would take minutes, so the input is cut after the rows that are done.
    _table(source, kept + 20)
    done = agent(*words, str(target))
    assert done.code == 0 and f"{kept + 20} rows" in done.out, done
    resumed = int(done.out.split(" rows in ")[1].split(", ")[1].split()[0])
    assert kept - 1 <= resumed <= kept + 1
    with target.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["id"] for row in rows] == [str(n) for n in range(kept + 20)]
    assert all(row["label"] == "sports" for row in rows)
    assert target.read_bytes().startswith(written[: len(written) // 2])


def test_a_table_shows_how_far_it_is(agent: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _table(tmp_path / "in.csv", 130)
    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(console, "_lines", lambda what: lambda step: seen.append((step.done, step.total)))
    done = agent(
        "classify", "--labels", "sports,politics", "--csv", str(tmp_path / "in.csv"), "--column", "body",
        "--out", str(tmp_path / "out.csv"), "--json",
    )  # fmt: skip
    columns = ["label", "confidence", "labels"]
    assert json.loads(done.out) == {"rows": 130, "resumed": 0, "skipped": 0, "columns": columns}
    assert [step for step in seen if step[1] == 130] == [(64, 130), (128, 130), (130, 130)]


# complete --------------------------------------------------------------------------------------------------


def test_a_text_goes_on_in_its_own_voice(agent: Run) -> None:
    done = agent("complete", "--max-tokens", "12", "The capital of France is")
    assert done.code == 0 and "Paris" in done.out and "Sure" not in done.out, done
    line = agent("complete", "--single-line", "--max-tokens", "24", "-", stdin="Dear Ms Rook,\nthe clock")
    assert line.code == 0 and line.out.strip() and line.out.count("\n") == 1, line


def test_code_is_filled_in_so_that_it_parses(agent: Run) -> None:
    prefix, suffix = "def area(width, height):\n    return ", "\n\n\nprint(area(2, 3))\n"
    done = agent("complete", "--code", "--suffix", suffix, "--max-tokens", "16", "-", stdin=prefix)
    ast.parse(prefix + done.out.removesuffix("\n") + suffix)
    assert done.code == 0 and "width" in done.out, done
    several = agent(
        "complete", "--code", "--suffix", suffix, "--max-tokens", "16", "-n", "2", "--json", stdin=prefix
    )
    candidates = json.loads(several.out)["candidates"]
    assert 1 <= len(candidates) <= 2 and all(one["parses"] for one in candidates)
    assert candidates == sorted(candidates, key=lambda one: -one["score"])


@pytest.mark.parametrize(
    ("args", "stdin", "code"), [((), b"", 70), (("-n", "99", "x"), b"", 2), (("-",), b"a\x00b", 35)]
)
def test_completions_that_cannot_be(agent: Run, args: tuple[str, ...], stdin: bytes, code: int) -> None:
    done = agent("complete", *args, stdin=stdin)
    assert done.code == code and "expected" in done.err and not done.out, done
