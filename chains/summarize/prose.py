"""What reads well out of its place: front matter and markup do not, nor sentences that lean on others.

Knows the habits of Markdown, reStructuredText and mail; knows no vectors and no model.
"""

# ruff: noqa: RUF001 - typographic quotes are what the patterns match.

import re
from collections.abc import Callable

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
