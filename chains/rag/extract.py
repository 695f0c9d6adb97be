"""Answers made of the documents' own sentences.

Knows candidates and their ranking; writes nothing itself. Every sentence is cited by the span it is.
"""

from collections.abc import Iterator, Sequence

from chains.rag.answer import Citation
from chains.rag.passages import Passage, candidates
from chains.rag.rank import Ranker

Released = tuple[str, Citation]
"""A sentence as shown, and the citation it stands on."""


def extract(question: str, passages: Sequence[Passage], ranker: Ranker, count: int) -> Iterator[Released]:
    """Yield up to `count` sentences that answer, best first, each with the citation of its span."""
    ranked = ranker.rank(question, candidates(passages))
    seen: set[str] = set()
    for one in ranked:
        text = one.sentence.text.strip() if one.sentence.kind == "code" else one.sentence.flat
        if text.casefold() in seen:
            continue
        seen.add(text.casefold())
        yield text, one.passage.cite(len(seen), one.sentence.start, one.sentence.end)
        if len(seen) == count:
            return
