"""A row among forty is found by the name in it, in every format, and quoted alone with its columns' names."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from typing import Any

import pytest
import retrieval_files as files
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import RunnableLambda

from chains.rag import rag_chain
from chains.rag.evidence import to_passages
from chains.rag.lookup import find_rows
from chains.retrieval.parsers import kind_of, parse
from chains.text.sentences import split_sentences

HEAD = ("Name", "Department", "Office", "Extension", "Start")
FIRST = "Ada Bo Carl Dora Egon Fay Gus Hana Ivo Jana".split()
LAST = "Quist Lindt Ovid Marsh".split()


def staff() -> list[tuple[str, ...]]:
    chance = random.Random(4)
    return [
        (
            f"{first} {last}",
            chance.choice(["Sales", "Legal", "Archive"]),
            str(chance.randint(100, 499)),
            str(chance.randint(2000, 8999)),
            f"20{chance.randint(11, 26)}-0{chance.randint(1, 9)}-{chance.randint(10, 28)}",
        )
        for last in LAST
        for first in FIRST
    ]


ROWS = staff()


def as_csv() -> bytes:
    target = io.StringIO()
    csv.writer(target, delimiter=";").writerows([HEAD, *ROWS])
    return target.getvalue().encode()


def as_xlsx() -> bytes:
    from openpyxl import Workbook

    book = Workbook(write_only=True)
    sheet = book.create_sheet("Staff")
    for row in (HEAD, *ROWS):
        sheet.append(row)
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def as_docx() -> bytes:
    return files.word(files.word_table(HEAD, *ROWS))


def as_pptx() -> bytes:
    from pptx import Presentation
    from pptx.util import Inches

    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    place = (Inches(1), Inches(1), Inches(8), Inches(6))
    table = slide.shapes.add_table(len(ROWS) + 1, len(HEAD), *place).table
    for at, row in enumerate((HEAD, *ROWS)):
        for column, value in enumerate(row):
            table.cell(at, column).text = value
    target = io.BytesIO()
    deck.save(target)
    return target.getvalue()


def as_ods() -> bytes:
    rows = files.open_rows(HEAD, *ROWS)
    return files.open_document("spreadsheet", f'<table:table table:name="Staff">{rows}</table:table>')


def as_odt() -> bytes:
    rows = files.open_rows(HEAD, *ROWS)
    return files.open_document("text", f"<table:table>{rows}</table:table>")


def as_rtf() -> bytes:
    start = r"\trowd" + r"\cellx1" * len(HEAD)
    rows = "".join(
        start + "".join(rf"\pard\intbl {value}\cell " for value in row) + r"\row " for row in (HEAD, *ROWS)
    )
    return (r"{\rtf1\ansi " + rows + r"\pard\par}").encode()


FORMATS: dict[str, Callable[[], bytes]] = {
    "staff.csv": as_csv,
    "staff.xlsx": as_xlsx,
    "staff.docx": as_docx,
    "staff.pptx": as_pptx,
    "staff.ods": as_ods,
    "staff.odt": as_odt,
    "staff.rtf": as_rtf,
}


def passages(name: str, data: bytes) -> list[Document]:
    answer = parse({"name": name, "data": data, "kind": kind_of(name)})
    lines = answer["text"].split("\n")
    return [
        Document("\n".join(lines[at : at + 10]), metadata={"source": name}) for at in range(0, len(lines), 10)
    ]


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_row_among_forty_is_found_by_its_name_and_quoted_alone(name: str) -> None:
    found = passages(name, FORMATS[name]())
    retriever: Any = RunnableLambda(lambda question: found)
    chain = rag_chain(FakeListChatModel(responses=[]), retriever, mode="extractive")
    for row in (ROWS[3], ROWS[17], ROWS[38]):
        for question, value in (
            (f"What is the extension of {row[0]}?", row[3]),
            (f"In which office does {row[0]} sit?", row[2]),
            (f"Since when has {row[0]} been here?", row[4]),
        ):
            answer = chain.invoke(question)
            quotes = [citation.quote for citation in answer.citations]
            expected = "; ".join(f"{column}: {cell}" for column, cell in zip(HEAD, row, strict=True))
            assert (answer.grounded, quotes) == (True, [expected]), question
            assert value in answer.text


@pytest.mark.parametrize(
    "question",
    ["What is the extension of Ada Vance?", "What is the salary of Ada Quist?", "What is a good name?"],
)
def test_what_no_row_says_is_not_looked_up(question: str) -> None:
    assert find_rows(question, to_passages(passages("staff.csv", as_csv()))) == []


def test_lines_of_forms_rows_without_a_header_and_other_languages() -> None:
    def looked_up(question: str, text: str) -> list[str]:
        return [row.sentence.text for row in find_rows(question, to_passages([Document(text)]))]

    lease = "Lessee: Berta Quill\nLessor: Orrin Vance\nMonthly rent: 715 euros\n"
    assert looked_up("How much is the monthly rent?", lease) == ["Monthly rent: 715 euros"]
    assert looked_up("Who is the lessor?", lease) == ["Lessor: Orrin Vance"]
    people = "Elsa Grant | 44 | Leeds\nTom Irwin | 31 | York\n"
    assert looked_up("Where does Tom Irwin live?", people) == ["Tom Irwin | 31 | York"]
    roster = "Name: Gülay Özer; Spät: 5; Nacht: 2\nName: Łukasz Wąs; Nacht: 6\n"
    assert looked_up("Wie viele Nachtdienste hat Łukasz Wąs?", roster) == ["Name: Łukasz Wąs; Nacht: 6"]
    stock = "商品: みかん; 価格: 80\n商品: ぶどう; 価格: 310\n"
    assert looked_up("ぶどうの価格はいくらですか", stock) == ["商品: ぶどう; 価格: 310"]
    pipes = "| Model | Flow |\n|---|---:|\n| K46 | 238 l |\n| K47 | 241 l |\n"
    assert looked_up("What is the flow of model K47?", pipes) == ["| K47 | 241 l |"]


def test_rows_are_sentences_of_their_own_and_prose_is_not_cut_into_rows() -> None:
    text = "Name: Ada; Extension: 311\nName: Bo; Extension: 322\n\nWe met: all came; nobody left early.\n"
    assert [(s.kind, s.text) for s in split_sentences(text)] == [
        ("row", "Name: Ada; Extension: 311"),
        ("row", "Name: Bo; Extension: 322"),
        ("item", "We met: all came; nobody left early."),
    ]
