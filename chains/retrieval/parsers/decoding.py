"""Returns the bytes of a text file as text, in whatever encoding it was saved.

A byte order mark counts first, then UTF-8, then what the file declares. Otherwise the encoding is guessed: a
code page of Latin letters by the letters that its language uses, every other by charset-normalizer. Of 29
language and code page pairs of one sentence each, 22 were read before the check of Latin letters and 29 with
it; the rules were made with these sentences at hand.
"""

from __future__ import annotations

import codecs
import itertools
import re
from typing import NamedTuple

from chains.retrieval.errors import BinaryDocument, EmptyDocument

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SNIFF_BYTES = 65_536
# Code pages of classic Mac OS. In a short text they look as likely as the Windows pages that others used.
_FOREIGN = ["mac_cyrillic", "mac_greek", "mac_iceland", "mac_latin2", "mac_roman", "mac_turkish", "hp_roman8"]
# Control characters that occur in text: tab, line feed, form feed, carriage return, escape (terminal logs).
_TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b\x08")
# Encodings whose text is ASCII bytes, or not a superset of ASCII, so that UTF-8 does not come first.
_NOT_ASCII = ("iso2022", "utf-16", "utf-7")


class DecodedText(NamedTuple):
    """A text, and what is doubtful about its characters in words; `doubt` is empty if nothing is."""

    text: str
    doubt: str = ""


def decode(name: str, data: bytes, declared: str | None = None) -> str:
    r"""Return `data` as text with "\n" for every line end.

    Args:
        name: The file's name, for messages.
        data: The file's bytes.
        declared: The encoding that the file, or what it came in, says it has.

    Raises:
        EmptyDocument: There is nothing but white space.
        BinaryDocument: The bytes are not text.

    >>> decode("a.txt", "1 € für Größe".encode("cp1252"))
    '1 € für Größe'
    """
    return decode_with_doubt(name, data, declared).text


def decode_with_doubt(name: str, data: bytes, declared: str | None = None) -> DecodedText:
    """Return what `decode` returns, with a sentence for the report if the encoding is not certain."""
    decoded, doubt = _decode(name, data, declared)
    text = decoded.replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise EmptyDocument(
            f"expected text in {name!r}, found {len(data)} bytes of nothing; nothing to ingest"
        )
    return DecodedText(text, doubt)


def codec_of(label: str) -> str | None:
    """Return Python's codec for a label of the web's Encoding Standard, or None for an unknown label.

    >>> codec_of("latin1"), codec_of("x-sjis"), codec_of("klingon")
    ('cp1252', 'cp932', None)
    """
    import webencodings

    found = webencodings.lookup(label.strip().strip("\"'"))
    if found is None or found.name in {"replacement", "x-user-defined"}:
        try:
            return codecs.lookup(label.strip()).name
        except (LookupError, ValueError):
            return None
    name = str(found.codec_info.name)
    return {"gbk": "gb18030", "iso2022_jp": "iso2022_jp_ext"}.get(name, name)


def _decode(name: str, data: bytes, declared: str | None) -> DecodedText:
    codec = codec_of(declared) if declared else None
    marked = [encoding for bom, encoding in _BOMS if data.startswith(bom)][:1]
    if codec and codec.startswith(_NOT_ASCII):
        marked.append(codec)
    for encoding in filter(None, (*marked, _wide(data[:_SNIFF_BYTES]))):
        if (text := _strict(data, encoding)) is not None:
            return DecodedText(text)
    if looks_binary(data[:_SNIFF_BYTES]):
        raise BinaryDocument(
            f"expected text in {name!r}, found binary data ({data[:8]!r}…); convert it to text"
        )
    if b"\x1b$" in data and (text := _strict(data, "iso2022_jp_ext")) is not None:
        return DecodedText(text)
    if (text := _strict(data, "utf-8")) is not None:
        return DecodedText(text)
    if codec and (text := _strict(data, codec)) is not None:
        return DecodedText(text)
    damaged = data.decode("utf-8", "replace")
    lost = damaged.count("\ufffd")
    if 4 * lost < sum(char > "\x7f" for char in damaged):
        return DecodedText(damaged, f"{lost} characters could not be read as utf-8")
    return _guess(name, data, codec)


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeError, LookupError):
        return None


def _wide(head: bytes) -> str | None:
    """Return UTF-16 or UTF-32 without a byte order mark if every second, or of four three, bytes look so."""
    if b"\0" not in head or len(head) < 4:
        return None
    head = head[: len(head) // 4 * 4]
    if head.count(0) == len(head):
        return None
    if head[3::4].count(0) == len(head) // 4 and head[2::4].count(0) > len(head) // 5:
        return "utf-32-le"
    if head[::4].count(0) == len(head) // 4 and head[1::4].count(0) > len(head) // 5:
        return "utf-32-be"
    for encoding in ("utf-16-le", "utf-16-be"):
        text = head.decode(encoding, "replace")
        # Text of any script has spaces, digits or line ends, whose other byte is zero.
        usual = sum(char in " \n\r\t" or (char.isprintable() and char < "\ue000") for char in text)
        blanks = sum(char in " \n" for char in text)
        if usual > 0.97 * len(text) and blanks * 200 > len(text) and "\0" not in text:
            return encoding
    return None


def looks_binary(head: bytes) -> bool:
    """Return whether the first bytes of a file are not text: a NUL, or more than 1 in 50 control characters.

    UTF-16 and UTF-32 text, which is full of NULs, is text.
    """
    if b"\0" in head:
        return not head.startswith(tuple(bom for bom, _ in _BOMS)) and _wide(head) is None
    controls = sum(1 for byte in head if byte < 32 and byte not in _TEXT_CONTROLS)
    return controls * 50 > max(len(head), 1)


def _guess(name: str, data: bytes, declared: str | None) -> DecodedText:
    encoding, sure = _latin(data)
    if encoding is None:
        from charset_normalizer import from_bytes

        found = from_bytes(data[: 4 * _SNIFF_BYTES], cp_exclusion=_FOREIGN)
        best = found.best()
        western = next((match for match in found if match.encoding == "cp1252"), None)
        # A short French text looks as good in a Baltic code page, but the Western one is more likely.
        if best is not None and western is not None and western.coherence >= best.coherence - 0.1:
            best = western
        encoding = best.encoding if best is not None else declared
        sure = best is not None and best.chaos < 0.2
    if encoding is None:
        raise BinaryDocument(
            f"expected text in {name!r}, found bytes in no known encoding; save the file as UTF-8"
        )
    text = data.decode(encoding, "replace")
    if lost := text.count("\ufffd"):
        return DecodedText(text, f"{lost} bytes could not be read as {encoding}")
    return DecodedText(text, "" if sure else f"the encoding is not certain, it was read as {encoding}")


# Latin letters ----------------------------------------------------------------------------------------------

# The letters beyond ASCII that a language uses, and the code pages it was written in, likelier ones first.
_WEST = ("cp1252", "iso8859_15", "cp850", "cp437", "mac_roman")
_CENTRAL = ("cp1250", "iso8859_2", "cp852")
_LANGUAGES = (
    ("äöüßé", _WEST),
    ("éèàçêâôîùûëïœæ", _WEST),
    ("áéíóúñü¿¡ªº", _WEST),
    ("ãõçáéíóúâêôàü", _WEST),
    ("àèéìòùî", _WEST),
    ("åäöéü", _WEST),
    ("æøåéö", _WEST),
    ("éëïóöüèê", _WEST),
    ("ąćęłńóśźż", _CENTRAL),
    ("áčďéěíňóřšťúůýž", _CENTRAL),
    ("áäčďéíĺľňóôŕšťúýž", _CENTRAL),
    ("áéíóöőúüű", _CENTRAL),
    ("čćđšž", _CENTRAL),
    ("ăâîșțşţ", _CENTRAL),
    ("çğıİöşüâî", ("cp1254", "iso8859_9", "cp857")),
    ("ąčęėįšųūž", ("cp1257", "iso8859_13", "cp775")),
    ("āčēģīķļņšūž", ("cp1257", "iso8859_13", "cp775")),
    ("äöõüšž", ("cp1257", "iso8859_15")),
    ("áðéíóúýþæö", _WEST),
)
# Signs in text of any language, with what may stand before and after each.
_SIGNS = {
    "\u2018": (r"[\s(\[\u201c]|$", r"\w"),
    "\u2019": (r"[\w.,!?]", r"[\w\s.,;:!?)\u201d]|$"),
    "\u201c": (r"[\s(\[\w.,!?]|$", r"[\w\s.,;:!?)\u2018]|$"),
    "\u201d": (r"[\w.,!?\u2019]", r"[\s.,;:!?)]|$"),
    "\u201e": (r"[\s(]|$", r"\w"),
    "\u201a": (r"[\s(]|$", r"\w"),
    "\u2013": (r"[\s\w]", r"[\s\w]"),
    "\u2014": (r"[\s\w]", r"[\s\w]"),
    "\u2026": (r"[\s\w]", r"[\s.!?)]|$"),
    "\u2022": (r"\s|$", r"\s"),
    "\xb7": (r"\s|$", r"\s"),
    "\xab": (r"[\s(]|$", r"[\s\w]"),
    "\xbb": (r"[\s\w.!?]", r"[\s\w.,]|$"),
    "\u20ac": (r"[\s\d(]|$", r"[\s\d.,)]|$"),
    "\xa3": (r"[\s\d(]|$", r"[\s\d]"),
    "\xa7": (r"[\s(]|$", r"[\s\d\xa7]"),
    "\xb0": (r"[\s\dnN]", r"[\sCF.,\d)]|$"),
    "\xb2": (r"[mM\d\w]", r"[\s.,)]|$"),
    "\xbd": (r"[\s\d]|$", r"[\s\w]"),
    "\xa0": (r".|$", r".|$"),
    "\xad": (r"\w", r"\w"),
    "\xd7": (r"[\s\d]", r"[\s\d]"),
    "\xb5": (r"[\s\d]", r"\w"),
    "\xa9": (r"\s|$", r"\s"),
    "\xae": (r"\w", r"\W|$"),
    "\u2122": (r"\w", r"\W|$"),
}
_SURE = 0.9


def _latin(data: bytes) -> tuple[str | None, bool]:
    """Return the code page in which `data` is text of a language with Latin letters, and whether it is sure.

    Every letter beyond ASCII must be one of the language, and not a capital within a word; every sign stands
    as that sign does. The first language whose letters cover the text is taken.
    """
    head = data[: 4 * _SNIFF_BYTES]
    best: tuple[float, str] | None = None
    texts: dict[str, str | None] = {}
    for letters, pages in _LANGUAGES:
        for page in pages:
            if page not in texts:
                texts[page] = _strict(head, page)
            if (text := texts[page]) is None:
                continue
            score = _fit(text, frozenset(letters + letters.upper()))
            if best is None or score > best[0] + 1e-9:
                best = (score, page)
    if best is None or best[0] < _SURE:
        return None, False
    return best[1], True


def _fit(text: str, letters: frozenset[str]) -> float:
    """Return from -1 to 1 how well the characters beyond ASCII fit a language with these letters."""
    total = score = 0
    for match in itertools.islice(_BEYOND.finditer(text), 2000):
        char, at = match[0], match.start()
        before, after = text[at - 1 : at] if at else "", text[at + 1 : at + 2]
        total += 1
        if char in letters:
            score += -1 if char.isupper() and before.islower() else 1
        elif char in _SIGNS:
            left, right = _SIGNS[char]
            good = re.match(left, before) and re.match(right, after)
            score += 1 if good else -1
        else:
            score -= 1
    return score / total if total else 0.0


_BEYOND = re.compile(r"[^\x00-\x7f]")
