"""Mails, mailboxes and Outlook messages: what is new in them, what they quote, and what they enclose."""

# ruff: noqa: RUF001 - words of many scripts.

from __future__ import annotations

import os
from email.message import EmailMessage
from pathlib import Path

import pytest
import retrieval_files as files
from outlook_files import msg
from retrieval_fakes import WordEmbeddings

from chains.retrieval import DocumentStore
from chains.retrieval.document import ParsedDocument
from chains.retrieval.parsers import kind_of, parse
from chains.retrieval.parsers.quotes import split_replies
from chains.retrieval.parsing import FileParser


def parsed(data: bytes, name: str = "a.eml") -> ParsedDocument:
    answer = parse({"name": name, "data": data, "kind": kind_of(name, data)})
    assert "error" not in answer, answer
    return ParsedDocument.from_payload(answer)


def mail(text: str = "", *, subject: str = "Tea", **headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "Ada <ada@x.example>", "bob@x.example", subject
    message["Date"] = "Tue, 02 Mar 2027 09:15:00 +0100"
    for name, value in headers.items():
        message[name] = value
    if text:
        message.set_content(text)
    return message


def raw(head: str, body: bytes) -> bytes:
    """Return a mail whose body is these bytes."""
    return f"From: ada@x.example\nSubject: Tea\n{head}\n\n".encode() + body


REPLIES = [
    "On Mon, 1 Mar 2027 at 17:02, Sam Oduya\n<sam@x.example> wrote:\n\n> It is on 7 May.\n> Is it?",
    "Am 01.03.2027 um 17:02 schrieb Sam Oduya:\n> It is on 7 May.\n> Is it?",
    "Le lun. 1 mars 2027 à 17:02, Sam Oduya <sam@x.example> a écrit :\n> It is on 7 May.\n> Is it?",
    "1 мар. 2027 г., в 17:02, Сэм <sam@x.example> написал(а):\n> It is on 7 May.\n> Is it?",
    "2027年3月1日(月) 17:02 Sam Oduya <sam@x.example>さんは書きました:\n> It is on 7 May.\n> Is it?",
    "-----Original Message-----\nFrom: Sam Oduya\nSent: Monday, 1 March 2027 17:02\nTo: Ada\nSubject: Tea\n\n"
    "It is on 7 May.\nIs it?",
    "Von: Sam Oduya <sam@x.example>\nGesendet: Montag, 1. März 2027 17:02\nAn: Ada\nBetreff: Tee\n\n"
    "It is on 7 May.\nIs it?",
    "______________________\nDe : Sam Oduya\nEnvoyé : lundi 1 mars 2027 17:02\nÀ : Ada\nObjet : Thé\n\n"
    "It is on 7 May.\nIs it?",
    "> It is on 7 May.\n> Is it?",
]


@pytest.mark.parametrize("quoted", REPLIES)
def test_an_older_message_stands_below_the_new_words_under_its_author_and_date(quoted: str) -> None:
    document = parsed(mail(f"It moves to 21 May.\n\nBest,\nAda\n-- \nAda, Tea Ltd\n\n{quoted}").as_bytes())
    first, *older = document.blocks
    assert "21 May" in document.text[first.start : first.end] and "Tea Ltd" in document.text[: first.end]
    assert "7 May" not in document.text[: first.end] and len(older) == 1
    assert "It is on 7 May.\nIs it?" in document.text[older[0].start :]
    assert older[0].place == {"earlier": 1} and older[0].heading.startswith("Earlier message")
    if quoted[0] != ">":
        assert "2027" in older[0].heading and ("Sam" in older[0].heading or "Сэм" in older[0].heading)


def test_messages_in_messages_are_told_apart() -> None:
    text = "Now.\n\nOn 2 May Bob wrote:\n> Later.\n>\n> On 1 May Ada wrote:\n>> Earlier.\n>>\n"
    text += ">> On 30 April Bob wrote:\n>>> First."
    document = parsed(mail(text).as_bytes())
    assert [b.place.get("earlier") for b in document.blocks] == [None, 1, 2, 3]
    assert [b.heading[-len("Bob wrote") :] for b in document.blocks[1:]] == [
        "Bob wrote",
        "Ada wrote",
        "Bob wrote",
    ]


def test_an_answer_below_each_question_stays_there() -> None:
    text = "On 1 May Bob wrote:\n> When is it?\n\nOn 21 May.\n\n> Where?\n\nIn Rome."
    assert (
        split_replies(text).new
        == "On 1 May Bob wrote:\n\n> When is it?\n\nOn 21 May.\n\n> Where?\n\nIn Rome."
    )
    assert split_replies("On 1 May Bob wrote:\n> When is it?\n\nOn 21 May.").new == "On 21 May."


@pytest.mark.parametrize(
    "text", ["He wrote:\nI am fine.", "From: the desk of Ada\n\nA note.", "a > b\nc > d"]
)
def test_what_quotes_nothing_is_new(text: str) -> None:
    assert split_replies(text).new == text and not split_replies(text).older


def test_the_quotations_of_an_html_mail() -> None:
    message = mail()
    message.set_content(
        "<html><body><p>It moves to <b>21 May</b>.</p><div class='gmail_quote'><div>On Mon,"
        " 1 Mar 2027 at 17:02 Sam &lt;sam@x.example&gt; wrote:<br></div><blockquote class='gmail_quote'>"
        "It is on 7 May.<blockquote type='cite'>It was on 30 April.</blockquote></blockquote></div></body>",
        subtype="html",
    )
    document = parsed(message.as_bytes())
    first, *older = document.blocks
    assert "21 May" in document.text[: first.end] and "7 May" not in document.text[: first.end]
    assert "Sam" in older[0].heading and "1 Mar" in older[0].heading
    assert [b.place["earlier"] for b in older] == [1, 2] and "30 April" in document.text[older[1].start :]
    assert "\ue0f0" not in document.text and "\ue0f1" not in document.text


def test_an_outlook_reply_in_html() -> None:
    message = mail()
    message.set_content(
        "<div>It moves to 21 May.</div><div style='border-top:solid #E1E1E1'><p><b>From:</b> Sam Oduya<br>"
        "<b>Sent:</b> Monday, 1 March 2027 17:02<br><b>To:</b> Ada<br><b>Subject:</b> Tea</p></div>"
        "<p>It is on 7 May.</p>",
        subtype="html",
    )
    document = parsed(message.as_bytes())
    assert "7 May" not in document.text[: document.blocks[0].end]
    assert document.blocks[1].heading == "Earlier message: Sam Oduya, Monday, 1 March 2027 17:02"


def test_every_text_part_is_read_in_order() -> None:
    message = mail("Here is the roof.")
    message.add_attachment(b"\x89PNG\r\n\x1a\n", maintype="image", subtype="png", disposition="inline")
    part = EmailMessage()
    part.set_content("The repair costs 5,340 euros.")
    message.attach(part)
    text = parsed(message.as_bytes()).text
    assert 0 < text.index("the roof") < text.index("5,340")


@pytest.mark.parametrize(
    ("plain", "read"),
    [("Please view this mail in HTML.", "rich"), ("Your invoice is due on 24 May.", "plain")],
)
def test_the_alternative_with_the_content_is_read(plain: str, read: str) -> None:
    message = mail(plain)
    message.add_alternative(
        f"<p>Your invoice is due on <b>24 May</b>.</p><p hidden>{read}</p>", subtype="html"
    )
    text = parsed(message.as_bytes()).text
    assert "due on 24 May." in text and ("HTML" in text) is False


@pytest.mark.parametrize(
    ("head", "body", "text"),
    [
        ("Content-Type: text/html; charset=windows-1251", "<p>Договор</p>".encode("cp1251"), "Договор"),
        ("Content-Type: text/html", "<meta charset=windows-1251><p>Договор</p>".encode("cp1251"), "Договор"),
        ("Content-Type: text/plain; charset=iso-2022-jp", "会議は十時".encode("iso-2022-jp"), "会議は十時"),
        ("Content-Type: text/plain; charset=us-ascii", "Größe".encode(), "Größe"),
        ("Content-Type: text/plain; charset=x-unknown", "Größe".encode(), "Größe"),
        ("Content-Type: text/plain; format=flowed", b"It \ngoes on.\n> a \n> b", "It goes on."),
        ("Content-Type: text/plain; format=flowed; delsp=yes", b"Donau \ndampf", "Donaudampf"),
    ],
)  # fmt: skip
def test_the_characters_and_lines_of_a_part(head: str, body: bytes, text: str) -> None:
    assert text in parsed(raw(head, body)).text


def test_headers_with_encoded_and_with_bare_words() -> None:
    document = parsed(
        b"From: =?utf-8?q?J=C3=BCrgen?= <j@x.example>\nSubject: Gr\xc3\xb6\xc3\x9fe\nDate: gestern\n\nHallo"
    )
    assert document.title == "Größe" and "From: Jürgen <j@x.example>" in document.text
    assert document.metadata["date"] == "gestern" and document.metadata["from"] == "Jürgen <j@x.example>"


# What a mail encloses.


def all_of(data: bytes, name: str = "/m/a.eml") -> dict[str, ParsedDocument]:
    parser = FileParser()
    try:
        return {found.path: found.document for found in parser.parse_all(name, data)}
    finally:
        parser.close()


def test_attachments_are_documents_of_their_own() -> None:
    message = mail("See the files.")
    message.add_attachment("The budget is 7,450 pounds.", filename="minutes.txt")
    message.add_attachment(
        files.docx(), maintype="application", subtype="octet-stream", filename="policy.docx"
    )
    message.add_attachment(files.pdf(), maintype="application", subtype="pdf", filename="../../etc/river.pdf")
    message.add_attachment(b"\0\1\2\3" * 9, maintype="application", subtype="x", filename="map.bin")
    message.add_attachment("Again.", filename="minutes.txt")
    found = all_of(message.as_bytes())
    names = [path.removeprefix("/m/a.eml") for path in found]
    assert names == ["", "/minutes.txt", "/policy.docx", "/etc river.pdf", "/minutes (2).txt"]
    assert "7,450" in found["/m/a.eml/minutes.txt"].text and found["/m/a.eml/policy.docx"].kind == "docx"
    assert "not read: map.bin" in found["/m/a.eml"].partly and "minutes.txt" in found["/m/a.eml"].text


def test_forwarded_mails_are_documents_of_their_own() -> None:
    inner = mail("The keys are with Mrs. Tran.", subject="Keys")
    inner.add_attachment("Floor 6.", filename="floor.txt")
    outer = mail("See below.\n\n---------- Forwarded message ---------\nFrom: Eve <eve@x.example>\n"
                 "Date: 1 May 2027\nSubject: Boats\nTo: Ada\n\nThe boat leaves at six.")  # fmt: skip
    outer.add_attachment(inner)
    found = all_of(outer.as_bytes())
    assert list(found) == [
        "/m/a.eml",
        "/m/a.eml/Boats.eml",
        "/m/a.eml/Keys.eml",
        "/m/a.eml/Keys.eml/floor.txt",
    ]
    assert "Tran" in found["/m/a.eml/Keys.eml"].text and "Tran" not in found["/m/a.eml"].text
    assert found["/m/a.eml/Boats.eml"].metadata["from"] == "Eve <eve@x.example>"


def test_mails_in_mails_end() -> None:
    message = mail("innermost")
    for number in range(60):
        outer = mail(f"level {number}")
        outer.add_attachment(message)
        message = outer
    found = all_of(message.as_bytes())
    assert 2 < len(found) < 20 and any("not read" in document.partly for document in found.values())


def test_a_mailbox_has_a_document_for_each_mail() -> None:
    found = all_of(files.mbox(), "/m/letters.mbox")
    assert len(found) == 4 and found["/m/letters.mbox"].kind == "mbox"
    boats = found["/m/letters.mbox/Boats.eml"]
    assert "\nFrom here on it is calm." in boats.text and boats.metadata["from"] == "Eve <eve@x.example>"
    assert "- Boats (Eve <eve@x.example>)" in found["/m/letters.mbox"].text


def test_an_outlook_message_with_what_it_encloses() -> None:
    inner = {
        "subject": "Keys",
        "sender": "Eve <eve@x.example>",
        "to": "Ada",
        "body": "They are with Mrs. Tran.",
    }
    data = msg("Re: Tea", "Ada <ada@x.example>", "Bob <bob@x.example>", "It moves to 21 May.\r\n\r\n"
               "-----Original Message-----\r\nFrom: Bob\r\nSent: 1 March 2027\r\n\r\nIt is on 7 May.",
               attachments={"minutes.txt": b"The budget is 7,450 pounds.", "keys.msg": inner})  # fmt: skip
    found = all_of(data, "/m/tea.msg")
    document = found["/m/tea.msg"]
    assert document.title == "Re: Tea" and "To: Bob <bob@x.example>" in document.text
    assert "7 May" not in document.text[: document.blocks[0].end]
    assert "7,450" in found["/m/tea.msg/minutes.txt"].text and "Tran" in found["/m/tea.msg/Keys.eml"].text


def test_a_store_keeps_what_a_mail_encloses_with_the_mail(tmp_path: Path) -> None:
    message = mail("See the file.")
    message.add_attachment("The budget is 7,450 pounds.", filename="minutes.txt")
    message.add_attachment("The pelican sleeps.", filename="birds.txt")
    path = tmp_path / "docs" / "a.eml"
    path.parent.mkdir()
    path.write_bytes(message.as_bytes())
    os.utime(path, (1, 1))
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        report = store.ingest(path.parent)
        assert report.added == (str(path),) and not report.unread
        inside = [f"{path}/birds.txt", f"{path}/minutes.txt"]
        assert [source.path for source in store.sources()] == [str(path), *inside]
        assert store.retriever(k=1).invoke("pelican")[0].metadata["source"] == inside[0]
        assert store.ingest(path.parent).unchanged == (str(path),) and store.ingest(path).unchanged == (
            str(path),
        )
        short = mail("See the file.")
        short.add_attachment("The budget is 7,450 pounds.", filename="minutes.txt")
        path.write_bytes(short.as_bytes())
        assert store.ingest(path).updated == (str(path),)
        assert [source.path for source in store.sources()] == [str(path), inside[1]]
        moved = path.rename(path.with_name("b.eml"))
        assert store.ingest(path.parent).moved == ((str(path), str(moved)),)
        assert [source.path for source in store.sources()] == [str(moved), f"{moved}/minutes.txt"]
        moved.unlink()
        (path.parent / "c.txt").write_text("A cormorant.")
        assert store.ingest(path.parent).deleted == (str(moved),) and len(store.sources()) == 1


def test_a_mail_with_a_part_that_is_not_read_is_named(tmp_path: Path) -> None:
    message = mail("See the map.")
    message.add_attachment(b"\0\1\2\3" * 9, maintype="application", subtype="x", filename="map.bin")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    os.utime(tmp_path / "a.eml", (1, 1))
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        for _ in range(2):  # unchanged, too
            (unread,) = store.ingest(tmp_path / "a.eml").unread
            assert unread.partly and "map.bin" in unread.reason
        assert "map.bin" in store.sources()[0].partly
