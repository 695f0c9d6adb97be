"""classify_table: CSV files that are classified, stopped and resumed, or refused."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from fakes import ScoringChat, WordEmbeddings

from chains.classify import classify_chain, classify_table, read_examples_table
from chains.errors import TableError

LABELS = ["sports", "cooking"]
MATCH = "The sports team won every sports match this season."
SOUP = "This cooking class shows cooking a soup."


def _table(path: Path, rows: int) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["id", "text"])
        writer.writerows([n, f'{MATCH if n % 2 else SOUP} "quoted"\r\n, {n}'] for n in range(rows))
    return path


def test_a_table_resumes_where_it_was_stopped(tmp_path: Path) -> None:
    source, target = _table(tmp_path / "in.csv", 25), tmp_path / "out.csv"
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    seen: list[tuple[int, int]] = []

    class Stop(Exception): ...

    def stop_after_two(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == 2:
            raise Stop

    with pytest.raises(Stop):
        classify_table(chain, source, target, column="text", batch_size=5, progress=stop_after_two)
    target.write_bytes(target.read_bytes()[:-9])  # what a crash in the middle of a row leaves
    report = classify_table(chain, source, target, column="text", batch_size=5)
    assert (report.rows, report.resumed) == (25, 9) and seen == [(5, 25), (10, 25)]
    fresh = tmp_path / "fresh.csv"
    classify_table(chain, source, fresh, column="text", batch_size=7)
    assert target.read_bytes() == fresh.read_bytes()
    with target.open(newline="") as lines:
        found = list(csv.DictReader(lines))
    assert [row["id"] for row in found] == [str(n) for n in range(25)]
    assert [row["label"] for row in found] == ["sports" if n % 2 else "cooking" for n in range(25)]


def test_a_table_keeps_rows_without_text_unlabelled_and_takes_long_ones(tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text(f'text\n"{MATCH}"\n" "\nbinary\x00\n"{SOUP * 5000}"\n', encoding="utf-8")
    report = classify_table(
        classify_chain(None, LABELS, embeddings=WordEmbeddings()), source, target, column="text"
    )
    assert report.skipped == 2
    with target.open(newline="") as lines:
        assert [row["label"] for row in csv.DictReader(lines)] == ["sports", "", "", "cooking"]


@pytest.mark.parametrize(
    ("content", "column"),
    [(b"text\nx\n", "body"), (b"text\n", "text"), (b"", "text"), (b"text\n\xff\xfe\n", "text")],
)
def test_bad_tables_are_refused_and_nothing_is_written(tmp_path: Path, content: bytes, column: str) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(content)
    with pytest.raises(TableError, match="found"):
        classify_table(classify_chain(ScoringChat(), LABELS), source, target, column=column)
    assert not target.exists()


def test_an_output_of_another_input_is_left_alone(tmp_path: Path) -> None:
    source, target = _table(tmp_path / "in.csv", 3), tmp_path / "out.csv"
    target.write_text("something,else\r\n1,2\r\n")
    chain = classify_chain(ScoringChat(), LABELS)
    with pytest.raises(TableError, match="another target"):
        classify_table(chain, source, target, column="text")
    with pytest.raises(TableError, match="another target"):
        classify_table(chain, source, source, column="text")
    assert target.read_text() == "something,else\n1,2\n"
    with pytest.raises(TableError, match="No such"):
        classify_table(chain, tmp_path / "absent.csv", target, column="text")
    with pytest.raises(TableError, match="can be written"):
        classify_table(chain, source, tmp_path / "absent" / "out.csv", column="text")


def test_examples_come_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "examples.csv"
    path.write_text("text,label\nmatch,sports\n,cooking\n")
    assert read_examples_table(path) == [("match", "sports")]
    path.write_text("text,label\n")
    with pytest.raises(TableError, match="labelled rows"):
        read_examples_table(path)
