"""Small real files of every format that a store reads, made with the libraries that write them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from email.message import EmailMessage

from outlook_files import msg

MARKDOWN = b"""---
title: Garden notes
author: Ada
---
# Garden notes

Intro about the garden.

## Tomatoes

Tomatoes need six hours of sun a day.

```python
# not a heading
```

Watering
--------

Water in the morning.
"""
RST = b"""PEP: 9999
Title: A test proposal
Author: Somebody

Abstract
========

This proposes nothing.

Details
-------

Even fewer details.
"""
HTML = b"""<html><head><title>A page</title><style>p {}</style><meta name="author" content="Bob"></head><body>
<nav>skip me</nav><h1>Welcome</h1><p>First <b>bold</b> words.</p><script>alert(1)</script>
<h2>Prices</h2><table><tr><th>Item</th><th>Cost</th></tr><tr><td>Apple</td><td>3</td></tr></table>
<pre>  kept
    as is</pre></body></html>"""
SOURCE = b'''"""A module."""


class Boat:
    """Floats."""

    def sail(self):
        return "wind"


def main():
    print(Boat().sail())
'''
MHTML = b"""From: <Saved by a browser>
Subject: A saved page
MIME-Version: 1.0
Content-Type: multipart/related; type="text/html"; boundary="b1"

--b1
Content-Type: text/html; charset=utf-8
Content-Transfer-Encoding: quoted-printable

<html><head><title>Tariff</title></head><body><p class=3D"x">The night tariff is low=
.</p></body></html>
--b1
Content-Type: image/png
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--b1--
"""
CSV = b"name,city,age\nAlice,Paris,31\nBob,Oslo,28\n"
JSONL = b'{"id": 1, "text": "first record"}\n{"id": 2, "text": "second record", "tags": ["a", "b"]}\n'
JSON = b'{"title": "Settings", "server": {"port": 8080, "hosts": ["alpha", "beta"]}}'
NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "source": ["# Analysis\n", "We look at whales."]},
            {
                "cell_type": "code",
                "source": "print(6 * 7)",
                "outputs": [{"output_type": "stream", "text": ["42\n"]}],
            },
        ],
        "metadata": {"language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
).encode()


def pdf(
    pages: tuple[str, ...] = ("The first page speaks of herons.", "The second page speaks of otters."),
    title: str = "River animals",
) -> bytes:
    from reportlab.pdfgen.canvas import Canvas

    target = io.BytesIO()
    canvas = Canvas(target)
    canvas.setTitle(title)
    for page in pages:
        canvas.drawString(72, 720, page)
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def scanned_pdf() -> bytes:
    from reportlab.pdfgen.canvas import Canvas

    target = io.BytesIO()
    canvas = Canvas(target)
    canvas.rect(72, 72, 200, 200, fill=1)
    canvas.showPage()
    canvas.save()
    return target.getvalue()


_WORD = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_RELATED = "http://schemas.openxmlformats.org/package/2006/relationships"


def package(main: str, parts: dict[str, str | bytes], related: dict[str, str] | None = None) -> bytes:
    """Return an Office package: its main part, all parts, and the main part's relations by their kinds.

    The id of a relation is its kind.
    """

    def relations(targets: dict[str, str]) -> str:
        rows = "".join(
            f'<Relationship Id="{kind}" Type="{_OFFICE}/{kind}" Target="/{target}"/>'
            for kind, target in targets.items()
        )
        return f'<Relationships xmlns="{_RELATED}">{rows}</Relationships>'

    folder, _, base = main.rpartition("/")
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("_rels/.rels", relations({"officeDocument": main}))
        archive.writestr(f"{folder}/_rels/{base}.rels", relations(related or {}))
        for name, data in parts.items():
            archive.writestr(name, data)
    return target.getvalue()


def word(body: str, **parts: str) -> bytes:
    """Return a Word document of raw XML; `parts` are others, such as `styles` or `footnotes`."""
    space = (
        f'{_WORD} xmlns:r="{_OFFICE}" xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
        'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
        'xmlns:v="urn:schemas-microsoft-com:vml" '
        'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'
    )
    files: dict[str, str | bytes] = {
        "word/document.xml": f"<w:document {space}><w:body>{body}</w:body></w:document>"
    }
    for name, xml in parts.items():
        root = {"header": "hdr", "footer": "ftr"}.get(name, name)
        files[f"word/{name}.xml"] = f"<w:{root} {space}>{xml}</w:{root}>"
    return package("word/document.xml", files, {name: f"word/{name}.xml" for name in parts})


def paragraph(text: str, properties: str = "") -> str:
    """Return a paragraph of Word; a text that begins with "<" is XML."""
    runs = text if text.startswith("<") else run(text)
    return f"<w:p><w:pPr>{properties}</w:pPr>{runs}</w:p>"


def run(text: str, properties: str = "") -> str:
    return f'<w:r><w:rPr>{properties}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def word_table(*rows: tuple[str, ...]) -> str:
    """Return a table of Word."""

    def cell(text: str) -> str:
        return f"<w:tc>{text if text.startswith('<') else paragraph(text)}</w:tc>"

    return f"<w:tbl>{''.join(f'<w:tr>{chr(10).join(map(cell, row))}</w:tr>' for row in rows)}</w:tbl>"


def docx() -> bytes:
    from docx import Document

    document = Document()
    document.core_properties.title = "Travel policy"
    document.add_heading("Trains", level=1)
    document.add_paragraph("Trains are preferred under six hours.")
    table = document.add_table(rows=2, cols=2)
    for row, values in enumerate((("Class", "Limit"), ("Second", "300 euros"))):
        for column, value in enumerate(values):
            table.cell(row, column).text = value
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def pptx() -> bytes:
    from pptx import Presentation

    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Results"
    slide.placeholders[1].text = "Sales rose by nine percent."
    slide.notes_slide.notes_text_frame.text = "Mention the weather."
    target = io.BytesIO()
    deck.save(target)
    return target.getvalue()


def xlsx() -> bytes:
    from openpyxl import Workbook

    book = Workbook()
    sheet = book.active
    sheet.title = "Stock"
    for row in (("part", "count"), ("bolt", 12), ("nut", 40)):
        sheet.append(row)
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def xls() -> bytes:
    from xlwt import Workbook

    book = Workbook()
    sheet = book.add_sheet("Stock")
    for at, row in enumerate((("part", "count"), ("bolt", 12), ("nut", 40))):
        for column, value in enumerate(row):
            sheet.write(at, column, value)
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def xlsb() -> bytes:
    """Return a workbook of binary records ([MS-XLSB] 2.1.4), each with a number, its size and its data."""

    def record(number: int, data: bytes = b"") -> bytes:
        head = bytes([number]) if number < 128 else bytes([number & 127 | 128, number >> 7])
        return head + bytes([len(data)]) + data

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value)) + value.encode("utf-16-le")

    rows = b""
    for at, row in enumerate((("part", "count"), ("bolt", 12), ("nut", 40))):
        rows += record(0, struct.pack("<IIHBBBI", at, 0, 300, 0, 0, 0, 0))
        for column, value in enumerate(row):
            place = struct.pack("<II", column, 0)
            cell = text(value) if isinstance(value, str) else struct.pack("<d", value)
            rows += record(6 if isinstance(value, str) else 5, place + cell)
    sheet = record(129) + record(148, struct.pack("<IIII", 0, 2, 0, 1)) + record(145) + rows
    book = record(131) + record(143) + record(156, struct.pack("<II", 0, 1) + text("rId1") + text("Stock"))
    kind = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("xl/workbook.bin", book + record(144) + record(132))
        archive.writestr("xl/worksheets/sheet1.bin", sheet + record(146) + record(130))
        archive.writestr(
            "xl/_rels/workbook.bin.rels",
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="rId1" Type="{kind}/worksheet" Target="worksheets/sheet1.bin"/>'
            "</Relationships>",
        )
    return target.getvalue()


_OPEN = "urn:oasis:names:tc:opendocument:xmlns"
_SPACES = " ".join(
    f'xmlns:{name}="{_OPEN}:{name}:1.0"'
    for name in ("office", "text", "table", "style", "draw", "presentation")
)


def open_document(kind: str, body: str, styles: str = "") -> bytes:
    """Return an OpenDocument file; `kind` is text, spreadsheet or presentation."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", f"application/vnd.oasis.opendocument.{kind}")
        archive.writestr(
            "content.xml",
            f'<office:document-content {_SPACES} xmlns:svg="{_OPEN}:svg-compatible:1.0" '
            'xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f"<office:automatic-styles>{styles}</office:automatic-styles>"
            f"<office:body><office:{kind}>{body}</office:{kind}></office:body></office:document-content>",
        )
    return target.getvalue()


def open_rows(*rows: tuple[str, ...]) -> str:
    """Return rows of a table in OpenDocument's XML."""

    def cell(text: str) -> str:
        return f"<table:table-cell><text:p>{text}</text:p></table:table-cell>"

    return "".join(f"<table:table-row>{''.join(map(cell, row))}</table:table-row>" for row in rows)


def odt() -> bytes:
    return open_document("text", '<text:h text:outline-level="1">Boats</text:h><text:p>It leaks.</text:p>')


def ods() -> bytes:
    rows = open_rows(("part", "count"), ("bolt", "12"), ("nut", "40"))
    return open_document("spreadsheet", f'<table:table table:name="Stock">{rows}</table:table>')


def odp() -> bytes:
    box = (
        "<draw:frame><draw:text-box><text:p>Sales rose by nine percent.</text:p></draw:text-box></draw:frame>"
    )
    return open_document("presentation", f"<draw:page>{box}</draw:page>")


RTF = rb"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 The caf\'e9 closes at six.\par}"


def epub() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "OPS/book.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            "<dc:title>The Lighthouse</dc:title><dc:creator>E. Keeper</dc:creator></metadata><manifest>"
            '<item id="b" href="two.xhtml"/><item id="a" href="one.xhtml"/></manifest>'
            '<spine><itemref idref="a"/><itemref idref="b"/></spine></package>',
        )
        archive.writestr("OPS/one.xhtml", "<html><body><h1>Dawn</h1><p>The lamp went out.</p></body></html>")
        archive.writestr("OPS/two.xhtml", "<html><body><h1>Dusk</h1><p>The lamp was lit.</p></body></html>")
    return target.getvalue()


def eml() -> bytes:
    message = EmailMessage()
    message["From"] = "carol@example.org"
    message["To"] = "dan@example.org"
    message["Subject"] = "Lunch on Friday"
    message["Date"] = "Fri, 02 Jan 2026 10:00:00 +0000"
    message.set_content("Shall we meet at noon by the fountain?")
    message.add_attachment(b"x", maintype="application", subtype="octet-stream", filename="map.bin")
    return bytes(message)


def mbox() -> bytes:
    """Return a mailbox with two mails, one of them with a line that was escaped."""
    first = eml()
    second = (
        b"From: Eve <eve@x.example>\nSubject: Boats\n\nThe boat leaves at six.\n>From here on it is calm.\n"
    )
    return b"".join(b"From nobody Mon May  3 14:02:00 2027\n" + mail + b"\n\n" for mail in (first, second))


def every_format() -> dict[str, bytes]:
    """Return the content of one file of each kind, by name."""
    return {
        "notes.md": MARKDOWN,
        "pep-9999.rst": RST,
        "plain.txt": b"A plain text about badgers.\n",
        "page.html": HTML,
        "saved.mhtml": MHTML,
        "feed.xml": b"<feed><entry id='1'><title>Storm warning</title></entry></feed>",
        "boat.py": SOURCE,
        "people.csv": CSV,
        "records.jsonl": JSONL,
        "settings.json": JSON,
        "analysis.ipynb": NOTEBOOK,
        "server.yaml": b"server:\n  port: 8443\n",
        "project.toml": b'[project]\nname = "otter"\n',
        "shed.org": b"* Shed\nThe key hangs behind the mirror.\n",
        "report.tex": b"\\section{Result}\nThe sample weighs 4.7~kg.\n",
        "garden.srt": b"1\n00:00:01,000 --> 00:00:02,000\nPrune the pears.\n",
        "club.ics": b"BEGIN:VCALENDAR\nBEGIN:VEVENT\nSUMMARY:Choir\nEND:VEVENT\nEND:VCALENDAR\n",
        "river.pdf": pdf(),
        "policy.docx": docx(),
        "results.pptx": pptx(),
        "stock.xlsx": xlsx(),
        "stock.xls": xls(),
        "stock.xlsb": xlsb(),
        "boats.odt": odt(),
        "stock.ods": ods(),
        "sales.odp": odp(),
        "cafe.rtf": RTF,
        "lighthouse.epub": epub(),
        "lunch.eml": eml(),
        "letters.mbox": mbox(),
        "meeting.msg": msg("Meeting", "Ada <ada@x.example>", "Bob <bob@x.example>", "We meet at the pond."),
    }
