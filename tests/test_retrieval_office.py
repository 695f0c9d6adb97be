"""Word, Excel, PowerPoint, CSV, OpenDocument and rich text: what is shown is read, what is hidden is not."""

# ruff: noqa: E501 - the XML of office files

from __future__ import annotations

import datetime as dt
import io
from typing import Any

import pytest
import retrieval_files as files
from retrieval_files import paragraph, run, word, word_table

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers import kind_of, parse


def parsed(name: str, data: bytes) -> ParsedDocument:
    answer = parse({"name": name, "data": data, "kind": kind_of(name)})
    assert "error" not in answer, answer
    return ParsedDocument.from_payload(answer)


def lines(document: ParsedDocument) -> list[str]:
    return [line for line in document.text.split("\n") if line.strip()]


def wrapped(tag: str, text: str, attributes: str = "") -> str:
    return f"<w:{tag} {attributes}>{run(text)}</w:{tag}>"


BOX = f"<w:txbxContent>{paragraph('In the box.')}</w:txbxContent>"
FIELD = (
    '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText>MERGEFIELD secret</w:instrText></w:r>'
    f'<w:r><w:fldChar w:fldCharType="separate"/></w:r>{run("Ms Roe")}<w:r><w:fldChar w:fldCharType="end"/></w:r>'
)
DELETED = "<w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (wrapped("ins", "new"), "a new b"),
        (wrapped("moveTo", "new"), "a new b"),
        (wrapped("moveFrom", "old"), "a b"),
        (DELETED, "a b"),
        (wrapped("smartTag", "new"), "a new b"),
        (wrapped("customXml", "new"), "a new b"),
        (wrapped("fldSimple", "new", 'w:instr="DATE"'), "a new b"),
        (wrapped("hyperlink", "new"), "a new b"),
        (f"<w:sdt><w:sdtContent>{run('new')}</w:sdtContent></w:sdt>", "a new b"),
        (FIELD, "a Ms Roe b"),
        (run("secret", "<w:vanish/>"), "a b"),
        (run("seen", '<w:vanish w:val="0"/>'), "a seen b"),
        ('<w:r><w:sym w:font="Wingdings" w:char="F0FE"/></w:r>', "a ☑ b"),
        ("<m:oMath><m:f><m:num><m:r><m:t>x+1</m:t></m:r></m:num><m:den><m:r><m:t>2</m:t></m:r></m:den></m:f>"
         "</m:oMath>", "a (x+1)/2 b"),
    ],
)  # fmt: skip
def test_word_shows_a_paragraph_with_its_changes_accepted(xml: str, expected: str) -> None:
    document = parsed("a.docx", word(paragraph(f"{run('a ')}{xml}{run(' b')}")))
    assert lines(document) == [expected]
    assert ("notes" in document.metadata) == (xml.startswith(("<w:ins", "<w:move", "<w:del")))


def test_word_reads_a_text_box_once_notes_in_place_and_running_texts_once() -> None:
    choice = f'<mc:Choice Requires="wps"><wps:txbx>{BOX}</wps:txbx></mc:Choice>'
    fallback = f"<mc:Fallback><w:pict><v:shape><v:textbox>{BOX}</v:textbox></v:shape></w:pict></mc:Fallback>"
    box = f"<w:r><mc:AlternateContent>{choice}{fallback}</mc:AlternateContent></w:r>"
    body = (
        paragraph(f'{run("Rent.")}<w:r><w:footnoteReference w:id="2"/><w:commentReference w:id="0"/></w:r>')
        + paragraph(box)
        + paragraph(f"{run('first half, ')}", "<w:rPr><w:del/></w:rPr>")
        + paragraph("second half")
        + '<w:sectPr><w:headerReference w:type="default" r:id="header"/>'
        '<w:footerReference w:type="default" r:id="footer"/></w:sectPr>'
    )
    document = parsed(
        "a.docx",
        word(
            body,
            footnotes=f'<w:footnote w:id="2">{paragraph("It is 940 euros.")}</w:footnote>',
            comments=f'<w:comment w:id="0" w:author="Ann">{paragraph("Too much?")}</w:comment>',
            header=paragraph("Firm Ltd"),
            footer=paragraph("Confidential"),
        ),
    )
    assert lines(document) == [
        "Firm Ltd",
        "Rent.",
        "Footnote: It is 940 euros.",
        "Comment by Ann: Too much?",
        "In the box.",
        "first half, second half",
        "Confidential",
    ]


def test_word_numbers_lists_and_knows_headings_by_style_and_level() -> None:
    numbering = (
        '<w:abstractNum w:abstractNumId="0">'
        '<w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1."/></w:lvl>'
        '<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%1.%2)"/></w:lvl>'
        '</w:abstractNum><w:num w:numId="3"><w:abstractNumId w:val="0"/></w:num>'
    )
    styles = (
        '<w:style w:type="paragraph" w:styleId="H1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="Own"><w:name w:val="Firm"/><w:basedOn w:val="H1"/></w:style>'
        '<w:style w:type="character" w:styleId="Hid"><w:name w:val="h"/><w:rPr><w:vanish/></w:rPr></w:style>'
    )

    def item(text: str, level: int) -> str:
        return paragraph(text, f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="3"/></w:numPr>')

    body = (
        paragraph("Terms", '<w:pStyle w:val="Own"/>')
        + item("one", 0)
        + item("sub", 1)
        + item("sub", 1)
        + item("two", 0)
        + item("sub", 1)
        + paragraph("Costs", '<w:outlineLvl w:val="1"/>')
        + paragraph(run("All seen.") + run(" Not seen.", '<w:rStyle w:val="Hid"/>'))
    )
    document = parsed("a.docx", word(body, numbering=numbering, styles=styles))
    found = [line.strip() for line in lines(document)]
    assert found == ["Terms", "1. one", "1.a) sub", "1.b) sub", "2. two", "2.a) sub", "Costs", "All seen."]
    assert [block.heading for block in document.blocks] == ["Terms", "Terms > Costs"]


def test_word_tables_forms_nested_and_deleted_rows() -> None:
    form = word_table(("Lessor", "Orrin Vance"), ("Monthly rent", "715 euros"), ("Notice", "ten weeks"))
    assert "Monthly rent: 715 euros" in lines(parsed("a.docx", word(form)))
    inner = word_table(("Name", "Phone"), ("Petra Olm", "41 77")) + paragraph("")
    outer = word_table(("Contacts on site", inner))
    assert lines(parsed("a.docx", word(outer))) == ["Contacts on site", "Name: Petra Olm; Phone: 41 77"]
    gone = "<w:tr><w:trPr><w:del/></w:trPr><w:tc>{}</w:tc></w:tr>".format(paragraph("gone"))
    table = word_table(("Post", "Person", "Until"), ("Warden", "Omar Tait", "2030")).replace(
        "</w:tbl>", f"{gone}</w:tbl>"
    )
    assert lines(parsed("a.docx", word(table))) == ["Post: Warden; Person: Omar Tait; Until: 2030"]


def book(rows: list[list[Any]], change: Any = None) -> bytes:
    from openpyxl import Workbook

    made = Workbook()
    sheet: Any = made.active
    sheet.title = "Plan"
    for row in rows:
        sheet.append(row)
    if change is not None:
        change(made, sheet)
    target = io.BytesIO()
    made.save(target)
    return target.getvalue()


def test_excel_titles_stacked_tables_and_rows_with_their_numbers() -> None:
    data = book(
        [
            ["Orders of May", None, None],
            [],
            ["Region", "Customer", "Crates"],
            ["East", "Falk", 31],
            [None, "Ines Rao", 18],
            [],
            ["Employee", "Extension"],
            ["Ada Quist", 311],
        ],
        lambda made, sheet: [sheet.merge_cells("A1:C1"), sheet.merge_cells("A4:A5")],
    )
    document = parsed("a.xlsx", data)
    assert lines(document) == [
        "Orders of May",
        "Region: East; Customer: Falk; Crates: 31",
        "Region: East; Customer: Ines Rao; Crates: 18",
        "Employee: Ada Quist; Extension: 311",
    ]
    first = document.blocks[0].place["row"]
    numbers = {line: first + at for at, line in enumerate(document.text.split("\n"))}
    assert (numbers["Orders of May"], numbers["Employee: Ada Quist; Extension: 311"]) == (1, 8)


def test_excel_cells_are_as_shown_and_what_is_hidden_is_not_there() -> None:
    def change(made: Any, sheet: Any) -> None:
        for at, code in (("B2", "dd.mm.yyyy"), ("C2", "0.0%"), ("D2", '#,##0.00 "€"')):
            sheet[at].number_format = code
        sheet.column_dimensions["E"].hidden = True
        sheet.row_dimensions[3].hidden = True
        made.create_sheet("Secret").append(["hidden sheet"])
        made["Secret"].sheet_state = "hidden"

    rows = [
        ["Lift", "Checked", "Wear", "Cost", "Pay", "Sum"],
        ["Tower", dt.date(2027, 3, 14), 0.155, 1234.5, "hidden column", "=D2*2"],
        ["Hidden row", dt.date(2027, 3, 14), 0.1, 1, "x", 1],
        ["Annex", dt.date(2027, 5, 9), 0.4, 2, "x", 1],
    ]
    document = parsed("a.xlsx", book(rows, change))
    assert lines(document)[0] == (
        "Lift: Tower; Checked: 14.03.2027; Wear: 15.5%; Cost: 1,234.50 €; "
        "Sum: (formula without a saved value: =D2*2)"
    )
    assert not any(word in document.text for word in ("hidden", "Hidden", "secret"))
    assert "1 formulas have no saved value" in document.partly


def test_excel_groups_of_columns_totals_and_sparse_rows() -> None:
    groups = [
        ["", 2025, None, 2026, None],
        ["Region", "Plan", "Actual", "Plan", "Actual"],
        ["East", 1, 2, 3, 4],
    ]
    merge = lambda made, sheet: [sheet.merge_cells("B1:C1"), sheet.merge_cells("D1:E1")]  # noqa: E731
    assert lines(parsed("a.xlsx", book([*groups, ["West", 5, 6, 7, 8]], merge)))[0] == (
        "Region: East; 2025 Plan: 1; 2025 Actual: 2; 2026 Plan: 3; 2026 Actual: 4"
    )
    invoice = [
        ["Pos", "What", "Price", "Sum"],
        [1, "Nails", 2, 4],
        [2, "Saw", 9, 9],
        [None, None, "Total", 13],
    ]
    assert lines(parsed("a.xlsx", book(invoice)))[-1] == "Total: 13"
    rota = [["", "Mon", "Tue"], ["Ada", "early", None], ["Bo", None, "late"]]
    assert lines(parsed("a.xlsx", book(rota))) == ["Ada; Mon: early", "Bo; Tue: late"]


def test_excel_two_tables_side_by_side_and_a_form() -> None:
    rows = [
        ["Item", "Price", None, "Employee", "Extension"],
        ["Shelf", 64, None, "Ada Quist", 311],
        ["Stool", 29, None, "Bo Lindt", 322],
    ]
    assert lines(parsed("a.xlsx", book(rows))) == [
        "Item: Shelf; Price: 64",
        "Item: Stool; Price: 29",
        "Employee: Ada Quist; Extension: 311",
        "Employee: Bo Lindt; Extension: 322",
    ]
    form = [["Tenant:", "Mira Kowalski"], ["Rent:", 940], ["Deposit:", 1880]]
    assert lines(parsed("a.xlsx", book(form))) == ["Tenant: Mira Kowalski", "Rent: 940", "Deposit: 1880"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"Account;7\n\nDate;Payee;Sum\n05.01.2027;Gas;-61,20\n", {4: "Date: 05.01.2027; Payee: Gas; Sum: -61,20"}),
        (b"sep=;\nArticle;Stock\nSaw;3\n", {3: "Article: Saw; Stock: 3"}),
        (b"Elsa Grant,44,Leeds\nTom Irwin,31,York\n", {2: "Tom Irwin | 31 | York"}),
        (b"comment\nGood; fast, nice\nBad, slow; late\n", {3: "Bad, slow; late"}),
        (b'Name,Note\nAda,"two\nlines"\n\nBo,one\n', {2: "Name: Ada; Note: two lines", 5: "Name: Bo; Note: one"}),
        ("Name;Größe\nÖl;3\n".encode("cp1252"), {2: "Name: Öl; Größe: 3"}),
    ],
)  # fmt: skip
def test_csv_lines_are_those_of_the_file(data: bytes, expected: dict[int, str]) -> None:
    found = parsed("a.csv", data).text.split("\n")
    assert {number: found[number - 1] for number in expected} == expected


def test_slides_in_reading_order_without_hidden_ones() -> None:
    from pptx import Presentation
    from pptx.chart.data import CategoryChartData
    from pptx.enum.chart import XL_CHART_TYPE
    from pptx.util import Inches

    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    for text, top in (("third", 5), ("first", 1), ("second", 3)):
        slide.shapes.add_textbox(Inches(1), Inches(top), Inches(3), Inches(1)).text_frame.text = text
    hidden = deck.slides.add_slide(deck.slide_layouts[5])
    hidden.shapes.title.text = "secret"
    hidden._element.set("show", "0")
    last = deck.slides.add_slide(deck.slide_layouts[5])
    last.shapes.title.text = "Sales"
    data = CategoryChartData()
    data.categories = ["Spring", "Autumn"]
    data.add_series("Tents", (812, 947))
    last.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, Inches(1), Inches(2), Inches(5), Inches(3), data)
    target = io.BytesIO()
    deck.save(target)
    document = parsed("a.pptx", target.getvalue())
    assert lines(document)[:3] == ["first", "second", "third"]
    assert "Category: Autumn; Tents: 947" in document.text and "secret" not in document.text
    assert [block.page for block in document.blocks] == [1, 3]


def test_open_documents_and_rich_text() -> None:
    hidden = '<style:style style:name="P1"><style:text-properties text:display="none"/></style:style>'
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>gone</text:p></text:deletion>"
        "</text:changed-region></text:tracked-changes>"
        '<text:h text:outline-level="2">Rent</text:h><text:p>It is 940.<text:note><text:note-body><text:p>Cold.'
        '</text:p></text:note-body></text:note></text:p><text:p text:style-name="P1">secret</text:p>'
    )
    document = parsed("a.odt", files.open_document("text", body, hidden))
    assert lines(document) == ["Rent", "It is 940.", "Footnote: Cold."]
    rich = (
        rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}{\f1\fcharset204 Times;}}{\stylesheet{\s1 heading 1;}}"
        rb"\pard\s1 Lease\par\pard\plain caf\'e9 \v secret\v0{\deleted gone}\u8364? {\f1 \'cf}\par"
        rb"\trowd\cellx1\cellx2\pard\intbl Name\cell Phone\cell\row\trowd\cellx1\cellx2\pard\intbl Ann\cell 311"
        rb"\cell\row\pard\par}"
    )
    document = parsed("a.rtf", rich)
    assert lines(document) == ["Lease", "café € П", "Name: Ann; Phone: 311"]
    assert document.blocks[0].heading == "Lease"


@pytest.mark.parametrize("tag", ["w:ins", "w:tbl><w:tr><w:tc"])
def test_ten_thousand_nested_tags_are_refused_or_read(tag: str) -> None:
    closing = "".join(f"</{part}>" for part in reversed(tag.split("><")))
    body = f"<{tag}>" * 10_000 + paragraph("deep") + closing * 10_000
    answer = parse({"name": "a.docx", "data": word(body), "kind": "docx"})
    assert answer.get("error") == "DamagedDocument" or "text" in answer
    rich = b"{\\rtf1 " + b"{\\b " * 10_000 + b"deep" + b"}" * 10_000
    assert parse({"name": "a.rtf", "data": rich, "kind": "rtf"})["error"] == "DamagedDocument"


def test_a_locked_document_is_named_as_locked() -> None:
    locked = bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 504 + "EncryptedPackage".encode("utf-16-le")
    answer = parse({"name": "a.docx", "data": locked, "kind": "docx"})
    assert "password" in answer["message"]
