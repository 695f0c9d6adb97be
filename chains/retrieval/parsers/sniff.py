"""What the first bytes of a file say about its format, whatever its name ends in.

`sniff` reads marks of containers (PDF, ZIP, OLE, pictures) and the first lines of texts (mail headers, an
HTML doctype). It parses nothing and takes linear time, so it may run outside the sandbox. libmagic is not
used: it is a C library that pip does not install, and it names the type of an .odt, .epub or .msg no better.
"""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple


class Content(NamedTuple):
    """What a file's bytes are.

    Args:
        kind: The parsers' name of the format, or "" for plain text and for what cannot be told.
        what: The format in words, for a message.
        sure: The bytes cannot be anything else, so the file's ending does not count.
    """

    kind: str
    what: str
    sure: bool


# Marks at the very start of a file.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"%PDF-", "pdf", "a PDF"),
    (b"{\\rtf", "rtf", "rich text (RTF)"),
    (b"\x89PNG\r\n", "picture", "a picture (PNG)"),
    (b"\xff\xd8\xff", "picture", "a picture (JPEG)"),
    (b"GIF8", "picture", "a picture (GIF)"),
    (b"II*\0", "picture", "a picture (TIFF)"),
    (b"MM\0*", "picture", "a picture (TIFF)"),
    (b"8BPS", "picture", "a picture (Photoshop)"),
    (b"\x1f\x8b", "gzip", "a compressed file (gzip); unpack it"),
    (b"BZh", "bzip2", "a compressed file (bzip2); unpack it"),
    (b"\xfd7zXZ\0", "xz", "a compressed file (xz); unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "7z", "an archive (7-Zip); unpack it"),
    (b"Rar!\x1a\x07", "rar", "an archive (RAR); unpack it"),
    (b"SQLite format 3\0", "sqlite", "a database (SQLite)"),
    (b"\x7fELF", "program", "a program"),
    (b"ID3", "sound", "a sound recording"),
    (b"OggS", "sound", "a sound recording"),
    (b"fLaC", "sound", "a sound recording"),
    (b"\x1aE\xdf\xa3", "film", "a film"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
# Names of streams in an OLE container, which stand in its directory as UTF-16.
_OLE_STREAMS: tuple[tuple[str, str, str], ...] = (
    ("__properties_version1.0", "msg", "an Outlook message (.msg)"),
    ("EncryptedPackage", "", "an office document that is locked with a password; save it without one"),
    ("WordDocument", "doc", "an old Word document (.doc); save it as .docx"),
    ("PowerPoint Document", "ppt", "an old PowerPoint presentation (.ppt); save it as .pptx"),
    ("Workbook", "xls", "an old Excel workbook (.xls); save it as .xlsx"),
    ("Book", "xls", "an old Excel workbook (.xls); save it as .xlsx"),
)
# Names of entries in a ZIP archive, which stand in it uncompressed.
_ZIP_ENTRIES: tuple[tuple[bytes, str, str], ...] = (
    (b"mimetypeapplication/epub+zip", "epub", "an e-book (EPUB)"),
    (b"mimetypeapplication/vnd.oasis.opendocument.text", "odt", "an OpenDocument text (.odt)"),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", "ods", "an OpenDocument sheet (.ods)"),
    (b"mimetypeapplication/vnd.oasis.opendocument.presentation", "odp", "OpenDocument slides (.odp)"),
    (b"word/document", "docx", "a Word document"),
    (b"xl/workbook.bin", "xlsb", "a binary Excel workbook"),
    (b"xl/workbook", "xlsx", "an Excel workbook"),
    (b"ppt/presentation", "pptx", "a PowerPoint presentation"),
    (b"META-INF/container.xml", "epub", "an e-book (EPUB)"),
)
_ZIP_ENDS = 256 * 1024
"""Bytes at each end of an archive in which the names of its entries are looked for."""

_HEAD_CHARS = 16_384
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,60}:(?:[ \t]|$)")
_MAIL_FIELDS = frozenset(
    "from to cc date subject message-id received return-path mime-version delivered-to reply-to sender "
    "content-type x-mailer dkim-signature".split()
)
_MBOX = re.compile(r"From \S.{0,200}\d{4}[^\n]*\n[A-Za-z][\w-]*:")
_HTML = re.compile(r"<(?:!doctype\s+html|html)\b", re.I)
_PROLOG = (("<?", "?>"), ("<!--", "-->"))
_ROOT = re.compile(r"\s*<\?xml\s")
_TEXT_STARTS: tuple[tuple[str, str, str], ...] = (
    ("BEGIN:VCALENDAR", "ics", "a calendar"),
    ("WEBVTT", "subtitles", "subtitles (WebVTT)"),
)


def sniff(data: bytes) -> Content:
    r"""Return what the bytes of a file are.

    >>> sniff(b"%PDF-1.7 ...").kind, sniff(b"From: Ada\nSubject: Tea\n\nCome at four.").kind
    ('pdf', 'eml')
    """
    for mark, kind, what in _MAGIC:
        if data.startswith(mark):
            return Content(kind, what, sure=True)
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(data)
    if data.startswith(_OLE):
        return _ole(data)
    if data[:4] == b"RIFF" and data[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        what = "a picture (WebP)" if data[8:12] == b"WEBP" else "a recording"
        return Content("picture" if data[8:12] == b"WEBP" else "sound", what, sure=True)
    if data[4:8] == b"ftyp":
        return Content("film", "a film or sound recording (MP4)", sure=True)
    return _text(_head(data), data)


def _zip(data: bytes) -> Content:
    ends = data[:_ZIP_ENDS] + data[-_ZIP_ENDS:]
    for mark, kind, what in _ZIP_ENTRIES:
        if mark in ends:
            return Content(kind, what, sure=True)
    return Content("", "an archive (ZIP); unpack it", sure=False)


def _ole(data: bytes) -> Content:
    for name, kind, what in _OLE_STREAMS:
        if name.encode("utf-16-le") in data:
            return Content(kind, what, sure=bool(kind))
    return Content("", "an OLE container (the format of old Microsoft programs)", sure=False)


def _head(data: bytes) -> str:
    """Return the first characters, as far as they can be told without the encoding of the rest."""
    head = data[:_HEAD_CHARS]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head.decode("utf-16", "replace").replace("\r\n", "\n")
    return head.removeprefix(codecs.BOM_UTF8).decode("latin-1").replace("\r\n", "\n")


def _text(head: str, data: bytes) -> Content:
    if "\0" in head[:1024]:
        return Content("", "binary data", sure=False)
    if _MBOX.match(head):
        return Content("mbox", "a mailbox (mbox)", sure=False)
    if (fields := _mail_fields(head)) is not None:
        page = "multipart/related" in fields.get("content-type", "").casefold()
        saved = "snapshot-content-location" in fields or fields.get("from", "").startswith("<Saved by")
        if page and saved:
            return Content("mhtml", "a saved web page (MHTML)", sure=False)
        return Content("eml", "an e-mail", sure=False)
    if _HTML.match(_after_prolog(head)):
        return Content("html", "a web page", sure=False)
    for start, kind, what in _TEXT_STARTS:
        if head.startswith(start):
            return Content(kind, what, sure=False)
    if head.lstrip().startswith("{") and b'"nbformat"' in data and b'"cells"' in data:
        return Content("ipynb", "a notebook", sure=False)
    if _ROOT.match(head):
        return Content("xml", "XML", sure=False)
    return Content("", "text", sure=False)


def _after_prolog(head: str) -> str:
    """Return `head` without the XML declarations and comments that it starts with."""
    head = head.lstrip()
    while closing := next((end for start, end in _PROLOG if head.startswith(start)), None):
        _, found, rest = head.partition(closing)
        head = rest.lstrip() if found else ""
    return head


def _mail_fields(head: str) -> dict[str, str] | None:
    """Return the header fields at the start of a text, or None if it does not start like an e-mail."""
    fields: dict[str, str] = {}
    name = ""
    for line in head.split("\n"):
        if not line.strip():
            break
        if line[0] in " \t" and name:
            fields[name] += line
        elif _FIELD.match(line):
            name, _, value = line.partition(":")
            name = name.casefold()
            fields.setdefault(name, value.strip())
        else:
            return None
    known = fields.keys() & _MAIL_FIELDS
    sender = known & {"from", "sender", "return-path", "received"}
    return fields if sender and len(known) >= 2 and known - {"from", "to"} else None
