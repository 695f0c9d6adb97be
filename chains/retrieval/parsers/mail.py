"""E-mails (.eml, maildir, .msg) and mailboxes (mbox).

A mail becomes its header lines, the words that are new in it, and one section for each older message that
it quotes, under that message's author and date. What is enclosed (attachments, forwarded messages, the mails
of a mailbox) leaves the parser as bytes and is parsed as a document of its own.

The standard library's `email` reads the messages: it is as lenient as any and knows all encodings. Outlook's
.msg is read with python-oxmsg (MIT), the only such library under a permissive licence that is kept;
extract-msg is under the GPL, and msg-parser was last released in 2019. Nothing is fetched or executed.
"""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from email.message import EmailMessage
from email.utils import format_datetime, parsedate_to_datetime
from typing import Any

from chains.retrieval.document import Enclosed, ParsedDocument
from chains.retrieval.errors import BinaryDocument, DamagedDocument, EmptyDocument
from chains.retrieval.parsers.builder import DocumentBuilder
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.plain import stem
from chains.retrieval.parsers.quotes import Forwarded, split_replies
from chains.retrieval.parsers.webpage import add_html

_SHOWN = ("from", "to", "cc", "date", "subject")
_SIGNATURES = frozenset(
    {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}
)
_LOCKED = frozenset({"application/pkcs7-mime", "application/x-pkcs7-mime", "application/pgp-encrypted"})
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
"""Characters for private use that mark where a quotation of an HTML mail begins and ends."""
_STUB_SHARE = 0.5
"""A plain part that holds less than this share of the HTML part's words stands in for it and is not read."""


@dataclass(slots=True)
class _Mail:
    """What was found in a message: its texts in order, what it encloses, and what cannot be read."""

    texts: list[str] = field(default_factory=list)
    enclosed: list[Enclosed] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def parse_eml(name: str, data: bytes) -> ParsedDocument:
    """Parse an e-mail: its header lines, the new words, then the older messages; the title is the subject.

    `from`, `to`, `date` and `subject` are metadata.
    """
    message = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    if not (message["from"] or message["subject"] or message["date"]):
        raise DamagedDocument(
            f"expected an e-mail in {name!r}, found no From, Subject or Date; check the file"
        )
    return _document(name, message)


def parse_msg(name: str, data: bytes) -> ParsedDocument:
    """Parse an Outlook message like an e-mail."""
    from oxmsg import Message

    return _document(name, _outlook(Message.load(data)))


def parse_mbox(name: str, data: bytes) -> ParsedDocument:
    """Parse a mailbox: the text lists its mails, each of which is enclosed as a document of its own."""
    builder = DocumentBuilder(name, "mbox")
    enclosed = []
    for raw in _mails(data):
        head = email.message_from_bytes(raw, policy=email.policy.default)
        subject = _header(head, "subject") or "no subject"
        line = ", ".join(part for part in (_header(head, "from"), _header(head, "date")) if part)
        builder.add(f"- {subject} ({line})" if line else f"- {subject}")
        enclosed.append(Enclosed(f"{subject}.eml", raw))
    document = builder.document(stem(name), empty="the mailbox is empty")
    return replace(document, enclosed=tuple(enclosed))


def _mails(data: bytes) -> Iterator[bytes]:
    """Yield the messages of a mailbox. A line that was escaped with ">" gets its own text back."""
    data = data.replace(b"\r\n", b"\n")
    starts = [
        found.start() for found in re.finditer(rb"(?:\A|(?<=\n\n))From \S[^\n]*\n(?=[A-Za-z][\w-]*:)", data)
    ]
    for start, end in zip(starts, [*starts[1:], len(data)], strict=True):
        _, _, message = data[start:end].partition(b"\n")
        yield re.sub(rb"(?m)^>(?=>*From )", b"", message)


def _document(name: str, message: EmailMessage) -> ParsedDocument:
    builder = DocumentBuilder(name, "eml")
    headers = {key: _header(message, key) for key in _SHOWN}
    for key, value in headers.items():
        builder.add(f"{key.capitalize()}: {value}" if value else "")
    builder.add("\n", "")
    mail = _Mail()
    _collect(name, message, mail)
    replies = split_replies("\n\n".join(mail.texts))
    builder.add(replies.new)
    mail.enclosed = [_inline(one) for one in replies.forwarded] + mail.enclosed
    names = [one.name for one in mail.enclosed] + mail.pictures
    if names:
        builder.add("\n", "")
        builder.add(f"Attachments: {', '.join(names)}")
    for older in replies.older:
        label = f"Earlier message: {older.heading}" if older.heading else "Earlier message"
        builder.add("\n", "")
        builder.heading(label, 1)
        builder.add(older.text)
    metadata = {key: headers[key] for key in ("from", "to", "subject")} | {"date": _iso(headers["date"])}
    document = builder.document(headers["subject"] or stem(name), metadata)
    first = len(document.blocks) - len(replies.older)
    blocks = tuple(
        replace(block, place={"earlier": place - first + 1}) if place >= first else block
        for place, block in enumerate(document.blocks)
    )
    return replace(
        document, blocks=blocks, enclosed=tuple(mail.enclosed), partly="; ".join(dict.fromkeys(mail.unread))
    )


def _inline(forwarded: Forwarded) -> Enclosed:
    """Return a message that was forwarded within the text as a message of its own."""
    message = EmailMessage()
    for key, value in forwarded.fields.items():
        _set(message, key, value)
    message.set_content(forwarded.text)
    title = forwarded.fields.get("Subject") or "forwarded message"
    return Enclosed(f"{title}.eml", message.as_bytes())


# The parts of a message.


def _collect(name: str, part: EmailMessage, mail: _Mail) -> None:
    """Note the texts and enclosures of `part` and of the parts in it, in order."""
    kind = part.get_content_type()
    if kind == "multipart/alternative":
        _collect(name, _best_alternative(name, _children(part)), mail)
    elif kind == "multipart/encrypted" or kind in _LOCKED:
        mail.unread.append("an encrypted part was not read")
    elif kind == "message/rfc822":
        for inner in _children(part):
            title = _header(inner, "subject") or "forwarded message"
            mail.enclosed.append(Enclosed(f"{title}.eml", inner.as_bytes()))
    elif part.is_multipart():
        for inner in _children(part):
            _collect(name, inner, mail)
    elif kind not in _SIGNATURES:
        _leaf(name, part, kind, mail)


def _leaf(name: str, part: EmailMessage, kind: str, mail: _Mail) -> None:
    filename = part.get_filename()
    attached = part.get_content_disposition() == "attachment" or bool(filename)
    if kind in {"text/plain", "text/html"} and not attached:
        text = _text(name, part, kind)
        mail.texts += [text] if text.strip() else []
    elif kind.startswith("image/") and (part["content-id"] or part.get_content_disposition() == "inline"):
        mail.pictures += [filename] if filename else []  # It belongs to the look of the text.
    elif kind.startswith("message/") and not attached:
        mail.texts.append(_payload(part).decode("utf-8", "replace"))  # the report of a delivery that failed
    else:
        ending = kind.partition("/")[2].removeprefix("x-") if kind != "text/plain" else "txt"
        mail.enclosed.append(Enclosed(filename or f"attachment.{ending}", _payload(part)))


def _children(part: EmailMessage) -> list[EmailMessage]:
    payload = part.get_payload()
    return [one for one in payload if isinstance(one, EmailMessage)] if isinstance(payload, list) else []


def _best_alternative(name: str, parts: list[EmailMessage]) -> EmailMessage:
    """Return the plain part, or the richest one if the plain part only stands in for it."""
    readable = [part for part in parts if part.get_content_type() != "text/calendar"] or parts
    if not readable:
        return EmailMessage()
    plain = next((part for part in readable if part.get_content_type() == "text/plain"), None)
    rich = next((part for part in reversed(readable) if part is not plain), None)
    if plain is None or rich is None:
        return plain or rich or EmailMessage()
    inner, ours = _Mail(), set(_words(_text(name, plain, "text/plain")))
    _collect(name, rich, inner)
    theirs = set(_words("\n".join(inner.texts)))
    stub = len(ours & theirs) < _STUB_SHARE * len(theirs)
    return rich if stub or inner.enclosed else plain


def _words(text: str) -> list[str]:
    return re.findall(r"\w{2,}", text.casefold())


def _text(name: str, part: EmailMessage, kind: str) -> str:
    data = _payload(part)
    if kind == "text/html":
        return _html_text(name, data, part.get_content_charset())
    text = _decoded(name, data, part.get_content_charset())
    flowed = str(part.get_param("format", "")).casefold() == "flowed"
    return _unflowed(text, str(part.get_param("delsp", "")).casefold() == "yes") if flowed else text


def _payload(part: EmailMessage) -> bytes:
    payload = part.get_payload(decode=True)
    return payload if isinstance(payload, bytes) else b""


def _decoded(name: str, data: bytes, charset: str | None) -> str:
    try:
        return decode(name, data, charset)
    except (EmptyDocument, BinaryDocument):
        return ""


def _unflowed(text: str, delete_space: bool) -> str:
    """Return text in `format=flowed` with its paragraphs on one line each (RFC 3676)."""
    lines: list[str] = []
    open_depth = -1
    for line in text.split("\n"):
        body = line.lstrip(">")
        depth = len(line) - len(body)
        body = body.removeprefix(" ")
        soft = body.endswith(" ") and body != "-- "
        shown = body[:-1] if soft and delete_space else body
        if open_depth == depth and body != "-- ":
            lines[-1] += shown
        else:
            lines.append(f"{'>' * depth} {shown}" if depth else shown)
        open_depth = depth if soft else -1
    return "\n".join(line.rstrip() if line != "-- " else line for line in lines)


# HTML.


def _html_text(name: str, data: bytes, charset: str | None) -> str:
    """Return the text of an HTML part, with its quotations behind ">" as in plain mails."""
    from lxml import etree, html  # type: ignore[import-untyped]

    if not data.strip():
        return ""
    encoding = charset or None
    try:
        data.decode(encoding or "utf-8")
        encoding = encoding or "utf-8"
    except (LookupError, UnicodeError):
        encoding = None  # what the page itself declares
    try:
        root = html.document_fromstring(data, parser=html.HTMLParser(no_network=True, encoding=encoding))
        for meta in root.findall(".//meta"):
            meta.getparent().remove(meta)
        _mark_quotations(root)
        builder = DocumentBuilder(name, "html")
        add_html(builder, name, etree.tostring(root, encoding="utf-8", method="html"))
        return _quoted("".join(builder.document("mail").text))
    except (EmptyDocument, etree.LxmlError, ValueError):
        return ""


def _mark_quotations(root: Any) -> None:
    """Put a mark before and after each element that quotes an older message."""
    from lxml import etree

    for element in root.iter("blockquote", "div"):
        classes = (element.get("class") or "").split()
        if element.tag == "div" and not {"yahoo_quoted", "protonmail_quote"} & set(classes):
            continue
        opening, closing = etree.Element("p"), etree.Element("p")
        opening.text, closing.text = _OPEN, _CLOSE
        opening.tail, element.text = element.text, None
        element.insert(0, opening)
        element.append(closing)


def _quoted(text: str) -> str:
    """Return the text with ">" before the lines between the marks of a quotation, and without the marks."""
    lines: list[str] = []
    depth = 0
    for line in text.split("\n"):
        depth += line.count(_OPEN) - line.count(_CLOSE)
        plain = line.replace(_OPEN, "").replace(_CLOSE, "")
        if line.strip() and not plain.strip():
            continue
        lines.append(f"{'>' * depth} {plain}".rstrip() if depth > 0 else plain)
    return "\n".join(lines)


# Headers.


def _header(message: EmailMessage | Any, key: str) -> str:
    try:
        value = " ".join(str(message[key] or "").split())
    except (ValueError, TypeError, IndexError, LookupError, AttributeError):
        return ""  # a header that the standard library cannot parse
    if any("\udc80" <= char <= "\udcff" for char in value):  # bytes that no encoded word announces
        raw = value.encode("utf-8", "surrogateescape")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return raw.decode("cp1252", "replace")
    return value


def _set(message: EmailMessage, key: str, value: str) -> None:
    """Set a header; a value that is not well formed is left out of the address, not of the text."""
    value = " ".join(value.split())
    if not value:
        return
    try:
        message[key] = value
        str(message[key])
    except (ValueError, TypeError, IndexError, LookupError, AttributeError):
        del message[key]


def _iso(date: str) -> str:
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError):
        return date


# Outlook.


def _outlook(message: Any) -> EmailMessage:
    """Return an Outlook message as an e-mail."""
    mail = EmailMessage()
    headers = {key.casefold(): value for key, value in message.message_headers.items()}
    sent = message.sent_date
    _set(mail, "From", headers.get("from") or message.sender or "")
    _set(mail, "To", headers.get("to") or ", ".join(_address(one) for one in message.recipients))
    _set(mail, "Cc", headers.get("cc", ""))
    _set(mail, "Date", headers.get("date") or (format_datetime(sent) if sent else ""))
    _set(mail, "Subject", message.subject)
    mail.set_content(message.body or "")
    try:
        page = message.html_body
    except (LookupError, UnicodeError):
        page = None
    if page:
        mail.add_alternative(page, subtype="html")
    for attachment in message.attachments:
        _attach(mail, attachment)
    return mail


def _address(recipient: Any) -> str:
    name, address = recipient.name or "", recipient.email_address or ""
    return f"{name} <{address}>" if name and address and name != address else name or address


def _attach(mail: EmailMessage, attachment: Any) -> None:
    from oxmsg import Message

    content = attachment.file_bytes
    if content is not None:
        mail.add_attachment(
            content,
            maintype="application",
            subtype="octet-stream",
            filename=attachment.file_name or "attachment",
        )
        return
    # oxmsg has no accessor for a message within a message. It is a storage below the attachment's, and its
    # properties begin 8 bytes earlier than those of a message at the top (MS-OXMSG 2.4).
    for storage in attachment._storage.storages:
        if storage.name == "__substg1.0_3701000D":
            streams = tuple(
                replace(one, bytes_=one.bytes_[:24] + bytes(8) + one.bytes_[24:])
                if one.name == "__properties_version1.0"
                else one
                for one in storage.streams
            )
            mail.add_attachment(_outlook(Message(replace(storage, streams=streams))))
