"""Web pages, Markdown and kin as a reader sees them, and the lines that citations name."""

from __future__ import annotations

import json

import pytest

from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers import kind_of, parse


def read(name: str, data: bytes | str) -> ParsedDocument:
    data = data.encode() if isinstance(data, str) else data
    answer = parse({"name": name, "data": data, "kind": kind_of(name)})
    assert "error" not in answer, answer
    return ParsedDocument.from_payload(answer)


def page(body: str, head: str = "") -> str:
    return read("a.html", f"<html><head><title>T</title>{head}</head><body>{body}</body></html>").text


HIDDEN = [
    '<p style="display: none">secret</p>',
    '<p style="visibility:hidden">secret</p>',
    "<p hidden>secret</p>",
    '<div aria-hidden="true">secret</div>',
    '<div class="off">secret</div>',
    '<div class="box"><p>secret</p></div>',
    '<p style="position:absolute; left:-9999px">secret</p>',
    '<p style="color:#fff;background:#fff">secret</p>',
    '<span class="sr-only">secret</span>',
    "<template>secret</template><noscript>secret</noscript><!-- secret --><svg><title>secret</title></svg>",
    '<nav><a href="/">secret</a></nav>',
    '<div id="cookie-banner">We use cookies, secret. <button>Accept</button></div>',
    '<div class="share-buttons"><a>secret</a></div>',
    "<p>old <s>secret</s> <del>secret</del></p>",
]


@pytest.mark.parametrize("markup", HIDDEN)
def test_what_a_reader_of_a_page_does_not_see_is_left_out(markup: str) -> None:
    css = (
        "<style>.off{display:none} div.box > p {visibility: hidden} @media print {.on {display:none}}</style>"
    )
    text = page(f'<main><p class="on">Shown.</p>{markup}</main>', css)
    assert "Shown." in text and "secret" not in text


SHOWN = [
    '<div class="menu"><h2>Starters</h2><p>Soup, seen.</p></div>',
    '<p class="share-price">Price, seen.</p>',
    "<details><summary>Why?</summary>seen</details>",
    '<button aria-controls="x">Open</button><div id="x" hidden>seen</div>',
    "<footer>Visit us at Mill Lane 3, seen every day.</footer>",
    '<aside class="note">A remark, seen.</aside>',
]


@pytest.mark.parametrize("markup", SHOWN)
def test_what_a_reader_sees_is_kept_whatever_its_class_is_called(markup: str) -> None:
    assert "seen" in page(markup)


def test_words_of_different_elements_are_not_glued() -> None:
    text = page(
        "<div>Kettle<button>Buy</button><select><option>Red<option>Blue</select></div><dl><dt>Size<dd>9</dl>"
    )
    assert text.split("\n")[:4] == ["Kettle", "Buy", "", "- Red"] and "Size: 9" in text


def test_rows_of_a_page_have_their_columns_with_merged_cells() -> None:
    rows = (
        "<tr><th rowspan=2>Town</th><th colspan=2>Rain</th></tr><tr><th>2019</th><th>2020</th></tr>"
        "<tr><td><p>Leeds</p></td><td>5</td><td></td></tr><tr><td>Hull</td><td>7</td><td>8</td></tr>"
    )
    text = page(f"<table>{rows}</table>")
    assert "Town: Leeds; Rain 2019: 5\n" in text and "Town: Hull; Rain 2019: 7; Rain 2020: 8\n" in text


@pytest.mark.parametrize(
    ("encoding", "head"),
    [
        ("windows-1250", '<?xml version="1.0" encoding="windows-1250"?>'),
        ("iso2022_jp", '<meta charset="iso-2022-jp">'),
        ("gb18030", '<meta http-equiv="content-type" content="text/html; charset=gb2312">'),
    ],
)
def test_a_page_is_read_in_the_encoding_it_names(encoding: str, head: str) -> None:
    words = {
        "windows-1250": "Szkoła zaczyna się.",
        "iso2022_jp": "図書館は休みます。",
        "gb18030": "每周二闭馆。",
    }
    text = read("a.html", f"{head}<html><body><p>{words[encoding]}</p></body></html>".encode(encoding)).text
    assert words[encoding] in text


def test_elements_nested_too_deep_are_said() -> None:
    assert read("a.html", "<p>top</p>" + "<div>" * 5000 + "deep").partly
    assert read("a.html", "<div>" * 500 + "deep").text.strip() == "deep"


MARKDOWN = """---
title: Boats
---
Intro [link](http://x) and **bold**.[^1] <!-- secret -->

[^1]: The note.

| Name | Qty |
|------|-----|
| Nut  | 5   |

```sh
# not a heading <!-- kept -->
```

1. First
   - inner

<!-- secret
over lines -->
Title
-----
~~secret~~ end
"""


def test_markdown_keeps_the_lines_of_its_file() -> None:
    document = read("a.md", MARKDOWN)
    lines = document.text.split("\n")
    assert document.title == "Boats" and "secret" not in document.text
    assert lines[3] == "Intro link and bold. The note."
    assert lines[9] == "Name: Nut; Qty: 5"
    assert lines[12] == "# not a heading <!-- kept -->"
    assert lines[16] == "  - inner"
    assert lines[20] == "## Title" and [b.heading for b in document.blocks] == ["", "Title"]


RECORDS = [{"id": 1, "who": {"name": "Ann"}, "tags": ["a", "b"]}, {"id": 2, "who": {"name": "Bob"}}]
ORG = "* Shed\n# secret\n:P:\n:K: v\n:END:\n** Tools\nThe *key* is [[http://x][here]].\n"
RST = "Client\n======\n\n.. secret\n\n====  ===\nA     B\n====  ===\nx     1\n====  ===\n"
SRT = "1\n00:00:01,0 --> 00:00:02,0\n<i>It is</i>\n\n2\n00:00:02,0 --> 00:00:03,0\nlate.\n"
TOML = '[web]\nport = 80 # x\nhosts = [\n "a",\n "b",\n]\n'
TEX = "% secret\n\\section{Result}\nIt weighs \\textbf{4.7}~kg. % 9\n"
ICS = "BEGIN:VEVENT\nSUMMARY:Choir\nDTSTART:20270314T150000\nEND:VEVENT\n"
YAML = "up:\n  # port: 9\n  port: 8 # x\nusers:\n  - name: Bob\n    office: 7\n"
KIN = [
    ("a.json", json.dumps({"rows": RECORDS}, indent=1), "who.name: Bob", 14, "id: 2; who.name: Bob"),
    ("a.jsonl", "\n".join(map(json.dumps, RECORDS)), "Bob", 2, "id: 2; who.name: Bob"),
    ("a.yaml", YAML, "7", 6, "users[Bob].office: 7"),
    ("a.toml", TOML, "a, b", 3, "web.hosts: a, b"),
    ("a.xml", "<c>\n<b id='1'>\n<t>X</t></b>\n<b id='2'><t>Y</t></b></c>", "Y", 4, "b.id: 2; t: Y"),
    ("a.org", ORG, "key", 7, "The key is here."),
    ("a.tex", TEX, "4.7", 3, "It weighs 4.7 kg."),
    ("a.rst", RST, "1", 9, "A: x; B: 1"),
    ("a.srt", SRT, "late", 3, "It is late."),
    ("a.ics", ICS, "Choir", 1, "Choir; When: 2027-03-14 15:00 (Sunday)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "source", "needle", "line", "wanted"), KIN, ids=[name for name, *_ in KIN])
def test_values_stand_with_their_names_on_a_line_of_the_file(
    name: str, source: str, needle: str, line: int, wanted: str
) -> None:
    document = read(name, source)
    lines = document.text.split("\n")
    assert len(lines) <= source.count("\n") + 1
    assert lines[line - 1] == wanted and needle in wanted
    assert "secret" not in document.text and "9" not in document.text
    assert all(
        block.place.get("line", 1) == 1 + document.text.count("\n", 0, block.start)
        for block in document.blocks
    )


def test_aliases_that_multiply_in_yaml_are_read_once() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    )
    assert len(read("a.yaml", bomb).text) < 2000


def test_a_notebook_has_its_outputs_without_pictures_and_colours() -> None:
    cells = [
        {"cell_type": "markdown", "source": "# Study\n```\n# no heading\n```\n"},
        {
            "cell_type": "code",
            "source": "f()",
            "outputs": [
                {
                    "output_type": "error",
                    "ename": "KeyError",
                    "evalue": "age is missing",
                    "traceback": ["\x1b[31mx"],
                },
                {
                    "output_type": "display_data",
                    "data": {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 1x1>"},
                },
            ],
        },
    ]
    document = read("a.ipynb", json.dumps({"cells": cells}))
    assert "KeyError: age is missing" in document.text and "\x1b" not in document.text
    assert "iVBOR" not in document.text and [block.heading for block in document.blocks] == ["Study"]
