"""What reads well out of its place: front matter and markup do not, nor sentences that lean on others.

Knows the habits of Markdown, reStructuredText and mail; knows no vectors and no model.

Documents as parts that follow headings; of a text that is still coming in, the parts that are whole.

Knows headings, sentences and an upper estimate of tokens; knows no model and no file. Every character of the
text lies in one part: a section longer than the limit is cut between sentences, small neighbours without a
heading stay together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from langchain_core.documents import Document

from chains.text.sentences import Sentence, split_sentences
from chains.text.windows import estimate_tokens

# ruff: noqa: RUF001 - typographic quotes are what the patterns match.


_FIELD = r"[A-Z][\w-]{0,24}:(?=[ \t\n])[^\n]*(?:\n|\Z)(?:[ \t]+\S[^\n]*(?:\n|\Z))*"
_FRONT = re.compile(rf"\s*(?:---[ \t]*\n(?:[^\n]*\n)*?(?:---|\.\.\.)[ \t]*\n|(?:{_FIELD}){{2,}}(?=\s|\Z))")
_TITLE = re.compile(r"^(?:title|subject)[ \t]*:[ \t]*['\"]?(\S[^\n]*?)['\"]?[ \t]*$", re.I | re.M)

_MARKUP: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"!?\[([^\]\n]+)\]\([^)\s]*\)"), r"\1"),  # Markdown links and images
    (re.compile(r"(?<!\w)\[(?:\^|#)?[\w-]+\]_(?!\w)|\[\^[\w-]+\]"), ""),  # marks of footnotes
    (re.compile(r":(pep|rfc):`~?([^`<\n]+?)(?:\s*<[^>\n]*>)?`"), lambda m: f"{m[1].upper()} {m[2]}"),
    (re.compile(r":[a-z][\w:+.-]*:`~?([^`<\n]+?)(?:\s*<[^>\n]*>)?`"), r"\1"),  # roles: :rfc:`2440`
    (re.compile(r"(?<!`)`([^`<\n]+?)\s*<[^>\n]*>`__?"), r"\1"),  # links: `text <url>`_
    (re.compile(r"(?<!`)`([^`\n]+)`__?(?!\w)"), r"\1"),
    (re.compile(r"``([^`\n]+)``"), r"`\1`"),
    (re.compile(r"\*\*([^*\n]+)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*(\w[^*\n]*?)\*(?![\w*])"), r"\1"),
    (re.compile(r"\\([*_`|\\])"), r"\1"),
    (re.compile(r"\s+(?=[.,;:](?:\s|$))"), ""),  # what a footnote's mark leaves behind
)
_ABOUT = (
    "article|book|chapter|document|guide|issue|manual|memo|message|page|paper|pep|policy|post|proposal|readme|"
    "report|rfc|section|specification|standard|story|study|survey|text|tutorial|work"
)
_LEANS = re.compile(
    rf"(?:this(?!\s+(?:{_ABOUT})\b)|these|that|those|it|its|they|their|he|she|his|her|such|here|there(?:fore)?|"
    r"however|thus|hence|also|then|but|and|or|so|otherwise|instead|similarly|likewise|moreover|furthermore|"
    r"nevertheless|consequently|accordingly|additionally|conversely|again|yet|as such|as a result|"
    r"in (?:this|that|these|such|addition|other words|contrast)|for (?:example|instance|this)|"
    r"on the other hand|the (?:latter|former|above|following|same|other)|both|neither|"
    r"another|one of (?:these|them))"
    r"\b",
    re.I,
)
_ANNOUNCES = re.compile(
    rf"(?:this|the present)\s+(?:{_ABOUT})\s+(?:(?:also|therefore|thus|first)\s+)?"
    r"(?:proposes?|describes?|specif\w+|introduces?|defines?|presents?|explains?|provides?|adds?|aims?|shows?|"
    r"argues?|reports?|suggests?|outlines?|documents?|discusses|covers?|tells)\b|"
    r"\bwe (?:propose|present|show|introduce|find|argue|report)\b|"
    r"\b(?:in summary|in short|in conclusion|to sum up|it is proposed)\b",
    re.I,
)


def front_matter(text: str) -> int:
    """Return where the header fields end that `text` opens with: a mail's, a PEP's, YAML's; 0 without any."""
    found = _FRONT.match(text)
    return found.end() if found else 0


def title(text: str) -> str:
    """Return the title or subject that the header fields of `text` name, or ""."""
    found = _TITLE.search(text, 0, front_matter(text))
    return found.group(1) if found else ""


def plain(text: str) -> str:
    """Return `text` on one line without inline markup: links, roles and emphasis give way to their words."""
    for pattern, kept in _MARKUP:
        text = pattern.sub(kept, text)
    return " ".join(text.split())


def leans(sentence: str) -> bool:
    """Tell whether a sentence leans on the one before it: "It is …", "However, …", a question, a piece."""
    text = sentence.strip().lstrip("\"'“‘*_")
    torn = text[:1].islower() or text[:1] in "([,;)" or text.count("(") != text.count(")")
    return (
        torn or text.rstrip()[-1:].isalnum() or text.rstrip().endswith("?") or _LEANS.match(text) is not None
    )


def announces(sentence: str) -> bool:
    """Tell whether a sentence says what the text is for: "This report describes …".

    Source of the method: Edmundson, "New methods in automatic extracting" (1969), cue phrases.
    """
    return _ANNOUNCES.search(sentence) is not None


PART_TOKENS = 1500
"""Upper estimate of a part's tokens: two of them and a prompt fit a window of 4,096."""


@dataclass(frozen=True)
class Part:
    """A stretch of one source from `start` on; `sentences` have offsets into `text`."""

    heading: str
    source: str
    start: int
    text: str
    sentences: tuple[Sentence, ...]

    @property
    def end(self) -> int:
        """Where it ends, in characters of the source's text."""
        return self.start + len(self.text)


def split_parts(documents: Sequence[Document], max_tokens: int = PART_TOKENS) -> list[Part]:
    """Return the parts of all `documents`, in order."""
    return [
        part for number, one in enumerate(documents, 1) for part in _document_parts(one, number, max_tokens)
    ]


class PartStream:
    """Parts of a text that comes in pieces: a part is given out once the next one has begun."""

    def __init__(self, max_tokens: int = PART_TOKENS) -> None:
        """Keep the upper estimate of a part's tokens."""
        self._limit = max_tokens
        self._pending = ""
        self._start = 0
        self._heading = ""
        self._again = 0

    def feed(self, piece: str) -> list[Part]:
        """Take a piece of the text; return the parts that are whole by now."""
        self._pending += piece
        # A text without line breaks is looked at each time it has doubled, so the work stays linear.
        if "\n" not in piece and len(self._pending) < self._again:
            return []
        self._again = 2 * len(self._pending)
        whole = self._split()
        if len(whole) > 1:
            last = whole.pop()
            self._pending, self._start, self._heading = last.text, last.start, whole[-1].heading
            return whole
        return []

    def rest(self) -> list[Part]:
        """Return what is left as parts, and begin anew."""
        found = self._split()
        self._pending, self._start, self._heading, self._again = "", 0, "", 0
        return found

    @property
    def pending(self) -> bool:
        """Whether there is text that no part was made of yet."""
        return bool(self._pending.strip())

    def _split(self) -> list[Part]:
        if not self.pending:
            return []
        document = Document(self._pending, metadata={"heading": self._heading})
        return list(_document_parts(document, 1, self._limit, self._start))


def _document_parts(document: Document, number: int, limit: int, offset: int = 0) -> Iterator[Part]:
    text = document.page_content
    source = str(document.metadata.get("source") or document.id or f"text {number}")
    front = front_matter(text) if offset == 0 else 0
    heading = str(document.metadata.get("heading") or (title(text) if front else ""))
    held: list[Sentence] = []
    start = size = 0
    for sentence in split_sentences(text, max_chars=max(16, min(600, limit))):
        if sentence.end <= front:
            # Header fields are facts about the text, none of its sentences.
            sentence = replace(sentence, kind="table")
        tokens = estimate_tokens(sentence.text)
        opens = sentence.kind == "heading"
        if held and (opens or size + tokens > limit) and any(one.kind != "heading" for one in held):
            yield _part(heading, source, text[start : sentence.start], offset + start, held, start)
            held, start, size = [], sentence.start, 0
        if opens:
            heading = sentence.flat.strip("# =*")
        held.append(sentence)
        size += tokens
    if held:
        yield _part(heading, source, text[start:], offset + start, held, start)


def _part(heading: str, source: str, text: str, start: int, held: Sequence[Sentence], moved_by: int) -> Part:
    moved = tuple(replace(one, start=one.start - moved_by, end=one.end - moved_by) for one in held)
    return Part(heading, source, start, text, moved)
