r"""Plain text: bytes to characters, and the plain-text parser.

Knows encodings and nothing of structure. Line ends become "\n"; the text is otherwise the file's own, so
offsets count its lines.
"""

from __future__ import annotations

import codecs
from pathlib import PurePath

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.errors import BinaryDocument, EmptyDocument

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFF_BYTES = 65_536
# Classic Mac OS wrote these; in a short text they look as likely as the Windows pages that others wrote.
_FOREIGN = ["mac_cyrillic", "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish", "hp_roman8"]
# Control characters that turn up in text: tab, line feed, form feed, carriage return, escape (terminal logs).
_TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b\x08")


def decode(name: str, data: bytes) -> str:
    """The text of `data`, its encoding detected (byte order mark, UTF-8, then charset-normalizer).

    Raises:
        EmptyDocument: there is nothing but white space.
        BinaryDocument: the bytes are no text.
    """
    text = _decode(name, data).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise EmptyDocument(
            f"expected text in {name!r}, found {len(data)} bytes of nothing; nothing to ingest"
        )
    return text


def _decode(name: str, data: bytes) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError:
                break
    if looks_binary(data[:_SNIFF_BYTES]):
        raise BinaryDocument(
            f"expected text in {name!r}, found binary data ({data[:8]!r}…); convert it to text"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _detect(name, data)


def _detect(name: str, data: bytes) -> str:
    from charset_normalizer import from_bytes

    found = from_bytes(data[: 4 * _SNIFF_BYTES], cp_exclusion=_FOREIGN)
    best = found.best()
    western = next((match for match in found if match.encoding == "cp1252"), None)
    # A short French text looks as good in a Baltic code page; Western Europe's is the likelier one.
    if best is not None and western is not None and western.coherence >= best.coherence - 0.1:
        best = western
    if best is None:
        raise BinaryDocument(
            f"expected text in {name!r}, found bytes in no known encoding; save the file as UTF-8"
        )
    return data.decode(best.encoding, "replace")


def looks_binary(head: bytes) -> bool:
    """Whether the first bytes of a file hold a NUL, or more than 1 in 50 control characters."""
    if b"\0" in head:
        return True
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    return controls * 50 > max(len(head), 1)


def stem(name: str) -> str:
    """The file name without folder and suffix: the title of a document that names none."""
    return PurePath(name).stem


def parse_text(name: str, data: bytes) -> ParsedDocument:
    """Plain text: one block, titled by the file's name."""
    text = decode(name, data)
    return ParsedDocument(
        text=text, title=stem(name), kind="text", blocks=(Block(start=0, end=len(text)),), metadata={}
    )
