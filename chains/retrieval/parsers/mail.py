"""E-mail (.eml): the headers people search by, and the body as text.

Attachments are named, not opened; HTML bodies are read as pages where there is no plain one.
"""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage, MIMEPart
from email.utils import parsedate_to_datetime

from chains.retrieval.document import ParsedDocument
from chains.retrieval.errors import DamagedDocument
from chains.retrieval.parsers.builder import Builder
from chains.retrieval.parsers.html import add_html
from chains.retrieval.parsers.plain import stem


def parse_eml(name: str, data: bytes) -> ParsedDocument:
    """E-mail: headers, then the body; titled by its subject, `from`, `to` and `date` as metadata."""
    message = email.message_from_bytes(data, policy=email.policy.default)
    if not isinstance(message, EmailMessage) or not (
        message["from"] or message["subject"] or message["date"]
    ):
        raise DamagedDocument(
            f"expected an e-mail in {name!r}, found no From, Subject or Date; check the file"
        )
    builder = Builder(name, "eml")
    headers = {key: _header(message, key) for key in ("from", "to", "cc", "date", "subject")}
    for key, value in headers.items():
        builder.add(f"{key.capitalize()}: {value}" if value else "")
    builder.add("\n", "")
    body = message.get_body(preferencelist=("plain", "html"))
    if body is not None:
        _body(builder, name, body)
    attachments = [part.get_filename() or "unnamed" for part in message.iter_attachments()]
    if attachments:
        builder.add(f"Attachments: {', '.join(attachments)}")
    metadata = {"from": headers["from"], "to": headers["to"], "date": _iso(headers["date"])}
    return builder.document(headers["subject"] or stem(name), metadata)


def _header(message: EmailMessage, key: str) -> str:
    try:
        return " ".join(str(message[key] or "").split())
    except (ValueError, TypeError, IndexError):
        return ""  # a header that the standard library cannot take apart


def _body(builder: Builder, name: str, body: MIMEPart) -> None:
    if body.get_content_subtype() == "html":
        payload = body.get_payload(decode=True)
        add_html(builder, name, payload if isinstance(payload, bytes) else str(payload).encode())
        return
    try:
        content = str(body.get_content())
    except (LookupError, UnicodeError):
        payload = body.get_payload(decode=True)
        content = payload.decode("latin-1") if isinstance(payload, bytes) else str(payload)
    builder.add(content.replace("\r\n", "\n").strip())


def _iso(date: str) -> str:
    try:
        return parsedate_to_datetime(date).isoformat()
    except (ValueError, TypeError):
        return date
