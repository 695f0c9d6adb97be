"""classify_table: CSV files that are classified, stopped and resumed, or refused."""

from __future__ import annotations

import csv
import re
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


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (  # a column of that name, two of one name, cells beyond the header, quotes, a bank's preamble
            'Account;7\r\n\r\nlabel;text;text\r\n"a";"SOUP";x\r\nb;SOUP;"y;z";more\r\n'.replace("SOUP", SOUP),
            'Account;7\r\n\r\nlabel;text;text;;label_2;confidence;labels\r\n"a";"SOUP";x;;cooking;C;cooking\r\n'
            'b;SOUP;"y;z";more;cooking;C;cooking\r\n'.replace("SOUP", SOUP),
        ),
        (f"text\tß\n{SOUP}\tü\n", f"text\tß\tlabel\tconfidence\tlabels\n{SOUP}\tü\tcooking\tC\tcooking\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_nothing_in_a_table_changes_but_the_columns_that_are_added(
    tmp_path: Path, data: str, expected: str, encoding: str
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(data.encode(encoding))
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    report = classify_table(chain, source, target, column="text")
    found = re.sub(r"(cooking[;\t])[\d.]+", r"\1C", target.read_bytes().decode(encoding))
    assert found == expected
    assert report.columns[0] == ("label_2" if data.startswith("Account") else "label")
    again = classify_table(chain, source, target, column="text")
    assert again.resumed == again.rows - 1
    assert re.sub(r"(cooking[;\t])[\d.]+", r"\1C", target.read_bytes().decode(encoding)) == expected


def test_a_workbook_is_classified_into_csv(tmp_path: Path) -> None:
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Mails")
    for row in (["Mails of May"], ["id", "text"], [7, SOUP], [8, MATCH]):
        sheet.append(row)
    book.save(tmp_path / "in.xlsx")
    chain = classify_chain(None, LABELS, embeddings=WordEmbeddings())
    classify_table(chain, tmp_path / "in.xlsx", tmp_path / "out.csv", column="text")
    with (tmp_path / "out.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    assert rows[1][:3] == ["id", "text", "label"]
    assert [row[2] for row in rows[2:]] == ["cooking", "sports"]
