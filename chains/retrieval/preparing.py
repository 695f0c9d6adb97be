"""Makes a file ready for the manifest: read, hashed, parsed, cut, its vectors named.

Knows files, parsers and the splitter. Refuses to know the manifest: what is stored already it is told, so
that it may run in a thread beside whoever writes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from chains.retrieval.document import Chunk, ParsedDocument
from chains.retrieval.embedder import Embedder
from chains.retrieval.errors import EmptyDocument, SourceError
from chains.retrieval.manifest import PARSER_VERSION
from chains.retrieval.parsing import FileParser
from chains.retrieval.records import FileFacts, SourceRecord
from chains.retrieval.splitter import Splitter


@dataclass(frozen=True, slots=True)
class Cut:
    """A document that waits for its vectors; `keys` name them, one a chunk."""

    facts: FileFacts
    document: ParsedDocument
    chunks: list[Chunk]
    keys: list[bytes]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of a file: a document that is cut, an error, or neither where nothing is to be written.

    `same` says that its content is what the store holds, `blank` that it is empty and always was.
    """

    facts: FileFacts
    known: SourceRecord | None
    cut: Cut | None = None
    error: SourceError | None = None
    same: bool = False
    blank: bool = False

    @property
    def weight(self) -> int:
        """Its chunks, or one."""
        return max(1, len(self.cut.chunks)) if self.cut else 1


class Preparation:
    """Files to cut documents, by one parser, one splitter and the vector names of one embedder."""

    def __init__(self, embedder: Embedder, splitter: Splitter, parser: FileParser) -> None:
        self._embedder, self._splitter, self._parser = embedder, splitter, parser

    def cut(self, facts: FileFacts, document: ParsedDocument, chunks: list[Chunk]) -> Cut:
        """A document with the names of its vectors."""
        embedder = self._embedder.key
        return Cut(facts, document, chunks, [chunk.key(embedder) for chunk in chunks])

    def file(self, facts: FileFacts, known: SourceRecord | None, *, dry_run: bool) -> Prepared:
        """The file as it is now against what the store knows of it; with `dry_run` it is not parsed."""
        data = b""
        try:
            data = self._parser.read(facts.path)
            facts = replace(facts, content_hash=hashlib.blake2b(data, digest_size=20).digest())
            if known and is_current(known) and facts.content_hash == known.content_hash:
                return Prepared(facts, known, same=True)
            if dry_run:
                return Prepared(facts, known)
            document = self._parser.parse(facts.path, data)
            return Prepared(facts, known, self.cut(facts, document, self._splitter.split(document)))
        except SourceError as error:
            blank = isinstance(error, EmptyDocument) and known is None and not data.strip()
            return Prepared(facts, known, error=error, blank=blank)


def is_current(known: SourceRecord) -> bool:
    """Whether today's parsers would read the stored document the same."""
    return known.parser == PARSER_VERSION
