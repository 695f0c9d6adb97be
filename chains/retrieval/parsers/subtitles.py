"""Subtitles (SubRip, WebVTT) and calendars (iCalendar), on the lines of their files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

from chains.retrieval.document import Block, ParsedDocument
from chains.retrieval.parsers.data import with_lines
from chains.retrieval.parsers.decoding import decode
from chains.retrieval.parsers.filelines import FileLines
from chains.retrieval.parsers.plain import stem

_TIMES = re.compile(r"\s*((?:\d{1,3}:)?\d{1,2}:\d{2})[.,]?\d*\s*-->")
_VOICE = re.compile(r"<v(?:\.[\w.]+)?\s+([^>]+)>")
_MARKUP = re.compile(r"<[^>\n]{0,100}>|\{\\[^}\n]{0,100}\}|\{[biu]\}|\{/[biu]\}")
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019)\]]*$")
# Sentences that begin within so many seconds are a block, whose time is that of its first.
_BLOCK_SECONDS = 30
_SKIPPED = ("NOTE", "STYLE", "REGION")


def parse_subtitles(name: str, data: bytes) -> ParsedDocument:
    """Parse SubRip or WebVTT: sentences over several cues are joined, on the line where they begin.

    Each block has the time of its first words as its place, such as `{"time": "00:01:05"}`.
    """
    lines = decode(name, data).split("\n")
    page = FileLines(len(lines))
    times: list[tuple[int, str]] = []
    begun = -1
    before = ""
    for at, time, text in _cues(lines):
        if text == before:
            continue  # automatic captions repeat the line above
        before = text
        if begun < 0:
            begun = at
            if not times or _seconds(time) - _seconds(times[-1][1]) >= _BLOCK_SECONDS:
                times.append((at, time))
        page.put(begun, text)
        if _END.search(text):
            begun = -1
    document = with_lines(page.document(name, "subtitles", stem(name)))
    return replace(document, blocks=tuple(_timed(document.text, times)))


def _cues(lines: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yield (line, time, text) of every line that is shown."""
    time = ""
    skipping = False
    for at, line in enumerate(lines):
        if not line.strip():
            time, skipping = "", False
        elif match := _TIMES.match(line):
            time, skipping = match[1], False
        elif line.startswith(_SKIPPED) and not time:
            skipping = True
        elif time and not skipping:
            text = " ".join(_MARKUP.sub("", _VOICE.sub(r"\1: ", line)).split())
            if text:
                yield at, time, text.removeprefix("- ") if text.startswith("- ") else text


def _seconds(time: str) -> int:
    total = 0
    for part in time.split(":"):
        total = 60 * total + int(part)
    return total


def _timed(text: str, times: list[tuple[int, str]]) -> Iterator[Block]:
    offsets = [0]
    for line in text.split("\n"):
        offsets.append(offsets[-1] + len(line) + 1)
    starts = [(0, *times[0]), *((offsets[at], at, time) for at, time in times[1:])]
    for number, (start, at, time) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else len(text)
        first = at if number else 0
        yield Block(start=start, end=end, place={"line": first + 1, "time": time})


# Calendars --------------------------------------------------------------------------------------------------

_WORDS = {
    "LOCATION": "Where",
    "ORGANIZER": "Organizer",
    "STATUS": "Status",
    "CATEGORIES": "Categories",
    "DUE": "Due",
    "CONTACT": "Contact",
    "URL": "Address",
    "COMMENT": "Comment",
}
_PARTS = frozenset({"VEVENT", "VTODO", "VJOURNAL"})
_ESCAPED = re.compile(r"\\([\\;,nN])")


def parse_ics(name: str, data: bytes) -> ParsedDocument:
    """Parse a calendar: one line for each event or task, at the line where it begins in the file.

    Times in UTC are given in the calendar's own time zone, if it names one.
    """
    lines = decode(name, data).split("\n")
    page = FileLines(len(lines))
    zone = title = ""
    part: list[tuple[str, str, str]] = []
    inside: list[tuple[str, int]] = []
    for at, key, options, value in _properties(lines):
        if key == "BEGIN":
            inside.append((value.upper(), at))
            part = [] if value.upper() in _PARTS else part
        elif key == "END" and inside:
            kind, start = inside.pop()
            if kind in _PARTS:
                page.put(start, _event(part, zone))
        elif inside and inside[-1][0] in _PARTS:
            part.append((key, options, value))
        elif key == "X-WR-TIMEZONE":
            zone = value
        elif key == "X-WR-CALNAME":
            title = value
    return with_lines(page.document(name, "ics", title or stem(name)))


def _properties(lines: list[str]) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line, name, parameters, value); a line that starts with a space goes on the one before."""
    at = 0
    while at < len(lines):
        start, pieces = at, [lines[at]]
        at += 1
        while at < len(lines) and lines[at][:1] in {" ", "\t"}:
            pieces.append(lines[at][1:])
            at += 1
        match = re.match(r"([\w-]+)((?:;(?:[^:\";]|\"[^\"]*\")*)*):(.*)$", "".join(pieces), re.DOTALL)
        if match:
            value = _ESCAPED.sub(lambda one: " " if one[1] in "nN" else one[1], match[3])
            yield start, match[1].upper(), match[2], " ".join(value.split())


def _event(part: list[tuple[str, str, str]], zone: str) -> str:
    first = {key: (options, value) for key, options, value in reversed(part)}
    words = [first["SUMMARY"][1]] if "SUMMARY" in first else []
    if "DTSTART" in first:
        when = _when(*first["DTSTART"], zone)
        until = f" to {_when(*first['DTEND'], zone)}" if "DTEND" in first else ""
        words.append(f"When: {when}{until}")
    people = [_person(options, value) for key, options, value in part if key == "ATTENDEE"]
    for key, options, value in part:
        if key in _WORDS and value:
            shown = _person(options, value) if key == "ORGANIZER" else value
            words.append(f"{_WORDS[key]}: {_when(options, value, zone) if key == 'DUE' else shown}")
        elif key == "RRULE":
            words.append(f"Repeats: {value.replace(';', ', ').replace('=', ' ').lower()}")
    if people:
        words.append(f"Attendees: {', '.join(people)}")
    if "DESCRIPTION" in first:
        words.append(first["DESCRIPTION"][1])
    return "; ".join(filter(None, words))


def _person(options: str, value: str) -> str:
    name = re.search(r";CN=\"?([^;\":]+)", options, re.IGNORECASE)
    return name[1].strip() if name else re.sub(r"^mailto:", "", value, flags=re.IGNORECASE)


def _when(options: str, value: str, zone: str) -> str:
    """Return a date or time as people write it, with its zone."""
    match = re.match(r"(\d{4})(\d{2})(\d{2})(?:T(\d{2})(\d{2})\d{2}(Z?))?$", value)
    if not match:
        return value
    try:
        day = date(int(match[1]), int(match[2]), int(match[3]))
        if match[4] is None:
            return f"{day.isoformat()} ({day:%A})"
        moment = datetime(day.year, day.month, day.day, int(match[4]), int(match[5]))
    except ValueError:
        return value
    named = re.search(r";TZID=\"?([^;\":]+)", options, re.IGNORECASE)
    label = named[1] if named else ""
    if match[6]:
        label = "UTC"
        try:
            moment = moment.replace(tzinfo=ZoneInfo("UTC")).astimezone(ZoneInfo(zone or "UTC"))
            label = zone or "UTC"
        except (KeyError, ValueError, OSError):
            pass
    return f"{moment:%Y-%m-%d %H:%M} ({moment:%A}{f', {label}' if label else ''})"
