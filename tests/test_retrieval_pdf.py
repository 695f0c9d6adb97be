"""PDF: reading order, tables, furniture, forms, hidden text, places, and what cannot be read."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from reportlab.pdfgen import canvas

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers import parse
from chains.retrieval.parsers.pdf_words import LineJoiner


def made(draw: Callable[[canvas.Canvas], None], **options: object) -> bytes:
    target = io.BytesIO()
    page = canvas.Canvas(target, pagesize=(595, 842), **options)
    page.setFont("Helvetica", 11)
    draw(page)
    page.save()
    return target.getvalue()


def read(data: bytes) -> ParsedDocument:
    answer = parse({"name": "a.pdf", "data": data, "kind": "pdf"})
    assert "error" not in answer, answer
    return ParsedDocument.from_payload(answer)


def lines(page: canvas.Canvas, texts: list[str], x: float = 60, y: float = 760, step: float = 14) -> None:
    for text in texts:
        page.drawString(x, y, text)
        y -= step


LEFT = [
    "The lighthouse was lit in 1871",
    "by a keeper from the mainland.",
    "Its lamp burned whale oil until",
    "a generator came in 1922 and",
]
MIDDLE = [
    "made the keeper's work easier.",
    "Tickets cost seven euros each.",
    "Children under nine are free.",
    "The shop closes at a quarter",
]
RIGHT = [
    "to five in the afternoon. Dogs",
    "wait outside, as do bicycles.",
    "The tower was painted red and",
    "has two hundred and three steps.",
]


def columns(page: canvas.Canvas) -> None:
    page.setFont("Helvetica-Bold", 20)
    page.drawString(60, 790, "A guide to the lighthouse of the northern harbour")
    page.setFont("Helvetica", 9)
    for row, texts in enumerate(zip(LEFT, MIDDLE, RIGHT, strict=True)):
        for x, text in zip((60, 220, 380), texts, strict=True):
            page.drawString(x, 760 - 12 * row, text)


def test_columns_below_a_title_are_read_one_after_the_other() -> None:
    text = read(made(columns)).text
    assert "a generator came in 1922 and made the keeper's work easier." in text
    assert "The shop closes at a quarter to five in the afternoon." in text
    assert text.startswith("A guide to the lighthouse of the northern harbour\n")


def statement(page: canvas.Canvas) -> None:
    for number in range(3):
        page.drawString(60, 810, "Statement of account 4471")
        page.drawRightString(540, 810, f"Page {number + 1} of 3")
        for x, text in ((60, "Date"), (130, "Payee"), (420, "Paid out")):
            page.drawString(x, 780, text)
        for row in range(12):
            page.drawString(60, 760 - 14 * row, f"{row + 1:02d} May")
            page.drawString(130, 760 - 14 * row, f"Payee {12 * number + row}")
            page.drawRightString(460, 760 - 14 * row, f"{row}.50" if row % 3 else "")
        page.showPage()


def test_rows_have_the_names_of_their_columns_and_furniture_is_said_once() -> None:
    document = read(made(statement))
    assert "Date: 02 May; Payee: Payee 25; Paid out: 1.50\n" in document.text
    assert "Date: 01 May; Payee: Payee 24\n" in document.text  # an empty cell moves no value
    assert document.text.count("Statement of account") == 1 and "Page 2" not in document.text


def test_a_sentence_over_two_pages_is_one() -> None:
    def draw(page: canvas.Canvas) -> None:
        for text, foot in (
            (["Work on the quay ends next year.", "The dredging of the outer basin was given to"], "- 1 -"),
            (
                ["Nordhav Marine for 3.7 million crowns, which is less", "than was feared. Work begins."],
                "- 2 -",
            ),
        ):
            page.setFont("Helvetica", 11)
            lines(page, ["Harbour report"], y=815)
            lines(page, text)
            lines(page, [foot], x=290, y=30)
            page.showPage()

    document = read(made(draw))
    assert "was given to Nordhav Marine for 3.7 million crowns" in document.text
    assert "- 2 -" not in document.text
    # The sentence has more of its words on the second page, and counts to it as a whole.
    second = next(block for block in document.blocks if block.page == 2)
    assert document.text[second.start :].startswith("The dredging")


def test_hyphens_at_the_end_of_a_line() -> None:
    join = LineJoiner([])
    assert join("the commit-", "tee") == ("the commit", "")
    assert join("a transfor-", "mation") == ("a transfor", "")
    for left, right in [
        ("well-", "known"),
        ("self-", "employed"),
        ("pre-", "1990"),
        ("40-", "50"),
        ("Nord-", "Süd"),
    ]:
        assert join(left, right) == (left, ""), left
    assert LineJoiner(["hydroxid"])("Natrium und Hydro-", "xid") == ("Natrium und Hydro", "")


def test_what_a_reader_does_not_see_is_left_out() -> None:
    def draw(page: canvas.Canvas) -> None:
        page.drawString(60, 780, "Shown line.")
        page.setFillColorRGB(1, 1, 1)
        page.drawString(60, 760, "White secret.")
        page.setFillColorRGB(0, 0, 0.5)
        page.rect(55, 690, 300, 30, fill=1, stroke=0)
        page.setFillColorRGB(1, 1, 1)
        page.drawString(60, 700, "White on blue.")
        page.setFillColorRGB(0, 0, 0)
        page.drawString(800, 640, "Off the page secret.")
        page.drawString(60, 620, "Covered secret.")
        page.rect(55, 612, 200, 20, fill=1)
        page.setFont("Helvetica", 1)
        page.drawString(60, 600, "Tiny secret.")
        page.setFont("Helvetica", 11)
        text = page.beginText(60, 580)
        text.setTextRenderMode(3)
        text.textOut("Invisible secret.")
        page.drawText(text)

    text = read(made(draw)).text
    assert "Shown line." in text and "White on blue." in text
    assert "secret" not in text


def test_fields_of_a_form_stand_behind_their_labels() -> None:
    def draw(page: canvas.Canvas) -> None:
        form = page.acroForm
        page.drawString(60, 780, "Applicant")
        form.textfield(name="a", x=160, y=772, width=200, height=20, value="Yara Sand")
        page.drawString(60, 740, "Married")
        form.checkbox(name="m", x=160, y=735, checked=True)
        form.checkbox(name="v", x=60, y=697, checked=False)
        page.drawString(90, 700, "Vegetarian")
        form.textfield(name="contact.house_number", x=60, y=500, width=300, height=20, value="17 b")

    text = read(made(draw)).text
    for line in ("Applicant: Yara Sand", "Married: [x]", "[ ] Vegetarian", "house number: 17 b"):
        assert f"{line}\n" in text


def test_the_outline_gives_headings_and_its_labels_are_pages_as_printed() -> None:
    def draw(page: canvas.Canvas) -> None:
        for number, (title, text) in enumerate(
            [("Safety", "Goggles are worn."), ("Waste", "Use the blue drum.")]
        ):
            page.bookmarkPage(title)
            page.addOutlineEntry(title, title, 0)
            lines(page, [title, text] if number else [text])
            page.addPageLabel(number, style="ROMAN_LOWER", start=4 + number)
            page.showPage()

    document = read(made(draw))
    assert [(b.heading, b.page, b.place.get("label")) for b in document.blocks] == [
        ("Safety", 1, "iv"),
        ("Waste", 2, "v"),
    ]


def test_headings_show_by_their_size() -> None:
    def draw(page: canvas.Canvas) -> None:
        page.setFont("Helvetica-Bold", 22)
        page.drawString(60, 790, "Staff handbook")
        for y, title in ((740, "Leave"), (600, "Travel")):
            page.setFont("Helvetica-Bold", 14)
            page.drawString(60, y, title)
            page.setFont("Helvetica", 11)
            lines(
                page,
                [f"The rules of {title.lower()} are long and", "are read by all who work here."],
                y=y - 20,
            )

    document = read(made(draw))
    assert document.title == "Staff handbook"
    assert {"Staff handbook > Leave", "Staff handbook > Travel"} <= {
        block.heading for block in document.blocks
    }


def test_each_line_keeps_its_box_on_the_page() -> None:
    document = read(made(lambda page: lines(page, ["The commit-", "tee met in the old mill."])))
    assert "The committee met in the old mill." in document.text
    first, second = document.boxes
    assert document.text[second.start : second.end] == "tee met in the old mill."
    assert (first.page, round(first.left)) == (1, 60)
    assert 842 - 760 - 12 < first.top < first.bottom < second.bottom < 842 - 746 + 6


def test_rotated_pages_are_read_as_they_are_shown() -> None:
    def draw(page: canvas.Canvas) -> None:
        page.rotate(90)
        lines(
            page, ["The first line of a page on its side", "goes on in the second line of it."], x=100, y=-200
        )

    text = read(made(draw)).text
    assert "page on its side goes on in the second line" in text


def test_pages_that_are_pictures_are_named() -> None:
    from PIL import Image
    from reportlab.lib.utils import ImageReader

    def draw(page: canvas.Canvas) -> None:
        lines(page, ["The policy number is HG-77120."])
        page.showPage()
        page.drawImage(ImageReader(Image.new("RGB", (60, 80), "gray")), 0, 0, 595, 842)
        page.showPage()
        lines(page, ["Claims are reported within eight days."])

    document = read(made(draw))
    assert document.partly.startswith("page 2 is without a text layer")
    assert [block.page for block in document.blocks] == [1, 3]


def test_a_locked_file_says_so() -> None:
    from reportlab.lib.pdfencrypt import StandardEncryption

    data = made(lambda page: lines(page, ["Pay."]), encrypt=StandardEncryption("secret", "owner"))
    answer = parse({"name": "a.pdf", "data": data, "kind": "pdf"})
    assert answer["error"] == DamagedDocument.__name__ and "password" in answer["message"]


@pytest.mark.parametrize("cut", [b"xref", b"trailer", b"startxref"])
def test_a_file_without_its_table_of_objects_is_repaired(cut: bytes) -> None:
    data = made(lambda page: lines(page, ["The board meets on Thursday."]))
    assert "The board meets on Thursday." in read(data.replace(cut, b"x" * len(cut))).text


def test_a_loop_of_pages_ends() -> None:
    data = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R/Outlines 3 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[2 0 R 2 0 R]/Count 9>>endobj\n"
        b"3 0 obj<</First 4 0 R>>endobj\n4 0 obj<</Title(x)/Next 4 0 R/First 4 0 R>>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF"
    )
    assert "error" in parse({"name": "a.pdf", "data": data, "kind": "pdf"})
