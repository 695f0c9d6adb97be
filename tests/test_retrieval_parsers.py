"""The text, title, headings, pages and metadata of every format."""

from __future__ import annotations

import random

import pytest
import retrieval_files as files
from hypothesis import given, settings
from hypothesis import strategies as st

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers import KINDS, kind_of, parse


def parsed(name: str, data: bytes) -> ParsedDocument:
    kind = kind_of(name)
    assert kind is not None
    answer = parse({"name": name, "data": data, "kind": kind})
    assert "error" not in answer, answer
    return ParsedDocument.from_payload(answer)


def failed(name: str, data: bytes) -> dict[str, str]:
    return parse({"name": name, "data": data, "kind": kind_of(name)})


def test_a_file_of_every_kind_is_there() -> None:
    assert {kind_of(name) for name in files.every_format()} == KINDS


@pytest.mark.parametrize("name", sorted(files.every_format()))
def test_blocks_cover_the_text_in_order(name: str) -> None:
    document = parsed(name, files.every_format()[name])
    assert document.blocks[0].start == 0 and document.blocks[-1].end == len(document.text)
    for before, after in zip(document.blocks, document.blocks[1:], strict=False):
        assert before.end == after.start
    assert document.title


def test_markdown_headings_and_front_matter() -> None:
    document = parsed("notes.md", files.MARKDOWN)
    assert document.title == "Garden notes"
    assert document.metadata == {"author": "Ada"}
    assert [b.heading for b in document.blocks][-2:] == ["Tomatoes", "Watering"]
    lines = files.MARKDOWN.decode().split("\n")
    lines[:4] = [""] * 4  # the front matter is metadata
    lines[lines.index("Watering") : lines.index("--------") + 1] = ["## Watering", ""]
    assert document.text.split("\n") == lines


def test_markdown_a_comment_in_a_fence_is_no_heading() -> None:
    headings = {b.heading for b in parsed("notes.md", files.MARKDOWN).blocks}
    assert "not a heading" not in headings


def test_rst_title_field_and_section_path() -> None:
    document = parsed("pep-9999.rst", files.RST)
    assert document.title.startswith("PEP 9999") and document.title.endswith("A test proposal")
    assert [b.heading for b in document.blocks] == ["", "Abstract", "Abstract > Details"]


def test_html_keeps_what_is_read_and_drops_what_is_not() -> None:
    document = parsed("page.html", files.HTML)
    assert document.title == "A page" and document.metadata["author"] == "Bob"
    assert "First bold words." in document.text and "Item: Apple; Cost: 3" in document.text
    assert "    as is" in document.text
    assert not any(word in document.text for word in ("skip me", "alert", "p {}"))
    assert "Welcome > Prices" in [b.heading for b in document.blocks]


def test_python_splits_at_definitions() -> None:
    headings = [b.heading for b in parsed("boat.py", files.SOURCE).blocks]
    assert headings == ["", "class Boat", "class Boat > def sail", "def main"]


def test_other_source_splits_at_definitions() -> None:
    code = b"package main\n\nfunc Add(a int) int {\n\treturn a\n}\n\ntype Shape interface {\n}\n"
    headings = [b.heading for b in parsed("a.go", code).blocks]
    assert any("func Add" in h for h in headings) and any("type Shape" in h for h in headings)


def test_csv_rows_keep_their_header() -> None:
    assert "name: Alice; city: Paris; age: 31" in parsed("people.csv", files.CSV).text


def test_xlsx_rows_keep_their_header_under_the_sheet() -> None:
    document = parsed("stock.xlsx", files.xlsx())
    assert "part: bolt; count: 12" in document.text
    assert document.blocks[0].heading == "Stock"


def test_pdf_pages_are_numbered() -> None:
    document = parsed("river.pdf", files.pdf())
    assert document.title == "River animals"
    assert [b.page for b in document.blocks] == [1, 2]
    second = document.blocks[1]
    assert "otters" in document.text[second.start : second.end]


def test_a_pdf_without_a_title_goes_by_its_name() -> None:
    assert parsed("river.pdf", files.pdf()).title == "River animals"
    assert parsed("river.pdf", files.pdf(title="untitled")).title == "river"


def test_a_scan_says_that_it_has_no_text_layer() -> None:
    answer = failed("scan.pdf", files.scanned_pdf())
    assert answer["error"] == "EmptyDocument" and "no text layer" in answer["message"]


def test_docx_headings_and_tables() -> None:
    document = parsed("policy.docx", files.docx())
    assert document.title == "Travel policy"
    assert document.blocks[-1].heading == "Trains"
    assert "Class: Second; Limit: 300 euros" in document.text


def test_pptx_slides_and_notes() -> None:
    document = parsed("results.pptx", files.pptx())
    assert document.blocks[0].heading == "Results" and document.blocks[0].page == 1
    assert "nine percent" in document.text and "Notes: Mention the weather." in document.text


def test_epub_follows_the_spine() -> None:
    document = parsed("lighthouse.epub", files.epub())
    assert document.title == "The Lighthouse" and document.metadata["author"] == "E. Keeper"
    assert document.text.index("went out") < document.text.index("was lit")


def test_json_values_keep_their_path() -> None:
    document = parsed("settings.json", files.JSON)
    assert "server.port: 8080" in document.text and "server.hosts: alpha, beta" in document.text


def test_jsonl_records_and_broken_lines() -> None:
    document = parsed("records.jsonl", files.JSONL + b"not json\n")
    assert "tags: a, b" in document.text and "not json" in document.text
    assert document.metadata["broken_lines"] == 1


def test_notebook_cells_and_outputs() -> None:
    document = parsed("analysis.ipynb", files.NOTEBOOK)
    assert document.title == "Analysis"
    assert "print(6 * 7)" in document.text and "42" in document.text


def test_mail_headers_body_and_attachments() -> None:
    document = parsed("lunch.eml", files.eml())
    assert document.title == "Lunch on Friday"
    assert document.metadata["date"].startswith("2026-01-02T10:00")
    assert "by the fountain" in document.text and "map.bin" in document.text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("utf-16", "Straße und Öl in einem Text, der lang genug ist."),
        ("utf-8-sig", "Straße und Öl"),
        ("cp1252", "Café, naïve, façade: un texte français avec des accents, déjà vu, élève, où, à côté."),
        ("cp1252", "Der Fähranleger öffnet um sechs Uhr. Größe: 12 m."),
        ("cp1251", "Паром уходит в шесть часов утра от причала."),
        ("cp1251", "Это достаточно длинный русский текст, чтобы кодировка определилась правильно."),
        ("shift_jis", "これは文字コードの判定に十分な長さの日本語の文章です。よろしくお願いします。"),
    ],
)
def test_encodings_are_detected(encoding: str, text: str) -> None:
    assert parsed("a.txt", text.encode(encoding)).text == text


def test_binary_and_empty_files_are_named_as_such() -> None:
    assert failed("a.txt", b"\x7fELF\0\1\2\3")["error"] == "BinaryDocument"
    assert failed("a.md", b"  \n ")["error"] == "EmptyDocument"


def test_entities_are_not_expanded() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>'
    answer = failed("laugh.xml", bomb)
    assert "error" in answer or "hahaha" not in answer["text"]


def test_a_zip_bomb_is_not_opened() -> None:
    import io
    import zipfile

    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b"0" * 60_000_000)
    answer = failed("bomb.docx", target.getvalue())
    assert answer["error"] == "DamagedDocument" and "unfold" in answer["message"]


@pytest.mark.parametrize("name", ["deep.json", "deep.ipynb", "deep.html", "deep.xml"])
def test_deep_nesting_is_an_error_or_a_document_and_no_crash(name: str) -> None:
    data = {"json": b"[" * 2000 + b"]" * 2000, "html": b"<div>" * 2000 + b"x", "xml": b"<a>" * 2000}
    answer = failed(name, data.get(name.partition(".")[2], data["json"]))
    assert "text" in answer or answer["error"] in {"DamagedDocument", "EmptyDocument"}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(files.every_format())), st.integers(0, 2**32), st.booleans())
def test_a_damaged_file_gives_a_document_or_a_named_error(name: str, seed: int, truncate: bool) -> None:
    data = bytearray(files.every_format()[name])
    chance = random.Random(seed)
    if truncate:
        del data[chance.randrange(len(data)) :]
    for _ in range(8):
        if data:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    answer = failed(name, bytes(data))
    if "error" in answer:
        assert answer["message"]
    else:
        ParsedDocument.from_payload(answer)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=400), st.sampled_from(["a.rst", "a.txt", "a.js", "a.py"]))
def test_any_text_parses_and_keeps_its_characters(text: str, name: str) -> None:
    answer = failed(name, text.encode("utf-8", "replace"))
    if "error" not in answer:
        wanted = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
        assert answer["text"] == wanted.removeprefix("\ufeff")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="#*-_=`~[]()!<>|:\\ \n\tab1.", max_size=400))
def test_any_markdown_parses_and_keeps_its_lines(text: str) -> None:
    answer = failed("a.md", text.encode())
    if "error" not in answer:
        assert answer["text"].count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("contract.txt", files.every_format()["river.pdf"], "pdf"),
        ("contract.pdf", files.every_format()["policy.docx"], "docx"),
        ("contract", files.every_format()["policy.docx"], "docx"),
        ("figures.dat", files.every_format()["stock.xlsx"], "xlsx"),
        ("1700000000.M1P2.host:2,S", files.every_format()["lunch.eml"], "eml"),
        ("report.doc", b"<html><body><p>Saved by a program.</p></body></html>", "html"),
        ("page", b"\n<!-- saved -->\n<!DOCTYPE html><p>Hello", "html"),
        ("page.md", b"<html><p>a page in Markdown</p></html>", "markdown"),
        ("run.py", b"From: nobody\nSubject: nothing\n", "source"),
        ("notes.txt", b"From: the desk of Ada\n\nA note.", "text"),
        ("notes", "Zürich".encode("utf-16"), "text"),
        ("old.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"), None),
        ("photo.txt", b"\x89PNG\r\n\x1a\n", None),
    ],
)
def test_a_format_is_told_by_the_content(name: str, data: bytes, kind: str | None) -> None:
    assert kind_of(name, data) == kind
