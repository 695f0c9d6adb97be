r"""Splits the text of an e-mail into the new words, the older messages that it quotes, and forwarded ones.

Recognized are lines behind ">", lines like "On ... wrote:" in a score of languages, "-----Original
Message-----" with its translations, the header blocks that Outlook puts above what it quotes, and the lines
above inline forwards. email-reply-parser and talon were tried by reading: both drop what is quoted, know
three languages, and were last released in 2020 and 2016.

    >>> found = split_replies("It moves to 21 May.\n\nOn 1 March 2027 Sam wrote:\n> It is on 7 May.")
    >>> found.new, found.older[0].heading, found.older[0].text
    ('It moves to 21 May.', 'On 1 March 2027 Sam wrote', 'It is on 7 May.')
"""

# ruff: noqa: RUF001 - words and marks of many scripts.

from __future__ import annotations

import re
from dataclasses import dataclass, field

MAX_DEPTH = 50
"""Older messages that are told apart; a longer chain stays one text."""


@dataclass(frozen=True, slots=True)
class Older:
    """An older message: the words that introduce it (its author and date), and its text."""

    heading: str
    text: str


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A message that was forwarded within the text: its header fields by English name, and its text."""

    fields: dict[str, str]
    text: str


@dataclass(slots=True)
class Replies:
    """The parts of an e-mail's text; `older` begins with the latest."""

    new: str = ""
    older: list[Older] = field(default_factory=list)
    forwarded: list[Forwarded] = field(default_factory=list)


_QUOTE = re.compile(r" ?> ?")
_WROTE = re.compile(
    r"\b(?:wrote|writes|schrieb|a écrit|ecrit|escribió|ha scritto|schreef|escreveu|napisał(?:\(?a\)?)?"
    r"|пишет|писал(?:\(?а\)?)?|написал(?:\(?а\)?)?|skrev|kirjoitti|írta|napsal(?:\(?a\)?)?|yazdı|a scris"
    r"|έγραψε|כתב(?:ה)?|كتب)\b|写道|寫道|書きました|さんは書|님이 작성|のメール",
    re.I,
)
_DATED = re.compile(r"\d{4}|\d{1,2}[./-]\d{1,2}|\d{1,2}:\d{2}|@")
_ORIGINAL = re.compile(
    r"\s*-{2,}\s*(?:original message|original appointment|reply message|ursprüngliche nachricht"
    r"|original-?nachricht|message d['’]origine|mensaje original|messaggio originale"
    r"|oorspronkelijk bericht|mensagem original"
    r"|исходное сообщение|wiadomość oryginalna|ursprungligt meddelande|original besked|alkuperäinen viesti"
    r"|původní zpráva|orijinal mesaj|原始邮件|邮件原件|原始郵件|元のメッセージ)\s*-{2,}\s*$",
    re.I,
)
_FORWARD = re.compile(
    r"\s*(?:-{2,}\s*(?:forwarded message|weitergeleitete nachricht|message transféré|mensaje reenviado"
    r"|messaggio inoltrato|doorgestuurd bericht|mensagem encaminhada|пересылаемое сообщение"
    r"|пересланное сообщение|wiadomość przekazana|vidarebefordrat meddelande"
    r"|转发邮件|转发的邮件|転送メッセージ)\b[^\n]{0,80}?-*"
    r"|(?:begin forwarded message|anfang der weitergeleiteten nachricht"
    r"|début du message (?:réexpédié|transféré)|inicio del mensaje reenviado|inizio messaggio inoltrato"
    r"|begin doorgestuurd bericht|начало переадресованного сообщения)\s*:?)\s*$",
    re.I,
)
# The names of header fields as mail programs translate them.
_FIELDS = {
    "From": "from von de da van od от fra från lähettäjä feladó kimden 发件人 寄件者 差出人 보낸사람",
    "Date": "date sent datum gesendet envoyé enviado inviato verzonden wysłano data отправлено дата "
    "sendt skickat lähetetty elküldve gönderilme fecha 发送时间 日期 寄件日期 送信日時 날짜",
    "To": "to an à para a aan do кому til till vastaanottaja címzett kime 收件人 收件者 宛先 받는사람",
    "Cc": "cc kopie copie kopia копия 抄送",
    "Subject": "subject betreff objet asunto oggetto onderwerp assunto temat тема emne ämne aihe tárgy "
    "konu 主题 主旨 件名 제목",
}
_FIELD_NAMES = {word: name for name, words in _FIELDS.items() for word in words.split()}
_FIELD_LINE = re.compile(r"\s*\*?([^\W\d_]{1,14})\s?\*?\s?[:：]\*?\s*(.*)$")
_RULE = re.compile(r"\s*[_-]{5,}\s*$")


def split_replies(text: str, depth: int = 0) -> Replies:
    """Return the new words of an e-mail, and what it quotes and forwards."""
    lines = text.split("\n")
    found = Replies()
    segments: list[list[str] | Older] = [[]]  # new lines, and older messages between them
    inner: list[Replies] = []
    at = 0
    while at < len(lines):
        new = segments[-1]
        assert isinstance(new, list)
        if (forwarded := _forward_at(lines, at)) is not None:
            found.forwarded.append(forwarded)
            break
        cut = _older_at(lines, at)
        if cut is None:
            new.append(lines[at])
            at += 1
            continue
        heading, first, end, quoted = cut
        below = [_QUOTE.sub("", line, count=1) if quoted else line for line in lines[first:end]]
        body = "\n".join(below)
        nested = split_replies(body, depth + 1) if depth < MAX_DEPTH else Replies(body)
        segments += [Older(heading, nested.new), []]
        inner.append(nested)
        at = end
    _arrange(segments, inner, found)
    return found


def _arrange(segments: list[list[str] | Older], inner: list[Replies], found: Replies) -> None:
    """Put together the new words; a quotation that is answered below it stays in its place."""
    texts = [one if isinstance(one, Older) else "\n".join(one).strip("\n") for one in segments]
    filled = [place for place, one in enumerate(texts) if isinstance(one, str) and one.strip()]
    last = filled[-1] if filled else -1
    answered = [place for place, one in enumerate(texts) if isinstance(one, Older) and place < last]
    in_place = len(answered) > 1 or bool(answered and filled[0] < answered[0])
    pieces: list[str] = []
    number = 0
    for place, one in enumerate(texts):
        if isinstance(one, str):
            pieces += [one] if one.strip() else []
            continue
        nested = inner[number]
        number += 1
        if in_place and place in answered:
            pieces += [f"{one.heading}:"] if one.heading else []
            pieces.append("\n".join(f"> {line}".rstrip() for line in one.text.strip().split("\n")))
            found.older += nested.older
        else:
            found.older += [one, *nested.older] if one.text.strip() else nested.older
        found.forwarded += nested.forwarded
    found.new = "\n\n".join(pieces).strip()


def _forward_at(lines: list[str], at: int) -> Forwarded | None:
    """Return the message that was forwarded inline, if one is announced at line `at`."""
    if not _FORWARD.match(lines[at]):
        return None
    start = _next_filled(lines, at + 1)
    below = lines[start:]
    if below and _QUOTE.match(below[0]):
        below = [_QUOTE.sub("", line, count=1) for line in below]
    fields, body = _fields(below, 0)
    return Forwarded(fields, "\n".join(below[body:]).strip()) if "From" in fields else None


def _older_at(lines: list[str], at: int) -> tuple[str, int, int, bool] | None:
    """Return (heading, first line, end, whether it is behind ">") of an older message that begins at `at`."""
    line = lines[at]
    if _ORIGINAL.match(line) or _RULE.match(line):
        start = _next_filled(lines, at + 1)
        fields, body = _fields(lines, start)
        if "From" in fields:
            return _heading(fields), body, len(lines), False
        return ("", at + 1, len(lines), False) if _ORIGINAL.match(line) else None
    if _QUOTE.match(line) and not line.lstrip().startswith(">From "):
        return "", at, _quoted_end(lines, at), True
    if (named := _field(line)) and named[0] == "From":
        fields, body = _fields(lines, at)
        if "Date" in fields and ("To" in fields or "Subject" in fields):
            return _heading(fields), body, len(lines), False
        return None
    return _attributed(lines, at)


def _attributed(lines: list[str], at: int) -> tuple[str, int, int, bool] | None:
    """Return the message below a line like "On 1 March Sam wrote:", which may go on over three lines."""
    joined = ""
    for end in range(at, min(at + 3, len(lines))):
        if not lines[end].strip() or len(joined) > 300:
            return None
        joined = f"{joined} {lines[end].strip()}".strip()
        if joined.endswith((":", "：")) and _WROTE.search(joined):
            break
    else:
        return None
    heading = joined.rstrip(":： ")
    first = _next_filled(lines, end + 1)
    if first < len(lines) and _QUOTE.match(lines[first]):
        return heading, first, _quoted_end(lines, first), True
    if _DATED.search(joined) and len(joined) <= 300 and first < len(lines):
        return heading, first, len(lines), False
    return None


def _quoted_end(lines: list[str], at: int) -> int:
    """Return the end of the quoted lines from `at` on; blank lines between quoted ones belong to them."""
    end = at
    while at < len(lines):
        if _QUOTE.match(lines[at]):
            end = at + 1
        elif lines[at].strip():
            break
        at += 1
    return end


def _next_filled(lines: list[str], at: int) -> int:
    while at < len(lines) and not lines[at].strip():
        at += 1
    return at


def _field(line: str) -> tuple[str, str] | None:
    match = _FIELD_LINE.match(line)
    name = _FIELD_NAMES.get(match[1].casefold()) if match else None
    return (name, match[2].strip()) if match and name else None


def _fields(lines: list[str], at: int) -> tuple[dict[str, str], int]:
    """Return the header fields from line `at` on, and the line after them."""
    fields: dict[str, str] = {}
    name = ""
    while at < len(lines) and len(fields) < 8:
        if named := _field(lines[at]):
            name = named[0]
            fields.setdefault(name, named[1])
        elif name and lines[at].strip() and lines[at][0] in " \t":
            fields[name] = f"{fields[name]} {lines[at].strip()}"
        elif name and not fields[name] and lines[at].strip():
            fields[name] = lines[at].strip()  # Some programs break the line behind the field's name.
        else:
            break
        at += 1
    return fields, _next_filled(lines, at)


def _heading(fields: dict[str, str]) -> str:
    parts = (fields.get("From", ""), fields.get("Date", ""))
    return ", ".join(part.replace("*", "").strip() for part in parts if part)
