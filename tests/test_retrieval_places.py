"""Where a chunk stands in its file, and what of a file was not read, are stored with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from chains.retrieval.document import Block, LineBox, ParsedDocument, SourceFile
from chains.retrieval.langchain import to_document
from chains.retrieval.manifest import Manifest
from chains.retrieval.search import Hit
from chains.retrieval.splitter import Splitter, SplitterConfig


def spans(text: str) -> list[tuple[int, int]]:
    found, start = [], 0
    for word in text.split(" "):
        found.append((start, start + len(word)))
        start += len(word) + 1
    return found


TEXT = "\n".join(f"This is line number {n} of the report." for n in range(1, 41))


def document() -> ParsedDocument:
    boxes, start = [], 0
    for n, line in enumerate(TEXT.split("\n"), start=1):
        boxes.append(LineBox(start, start + len(line), 1 + n // 20, 72.0, 10.5 * n, 500.0, 10.5 * n + 9))
        start += len(line) + 1
    half = TEXT.index("This is line number 21 ")
    blocks = (
        Block(start=0, end=half, page=1, place={"label": "iv", "line": 101}),
        Block(start=half, end=len(TEXT), page=2, place={"label": "v", "line": 121}),
    )
    return ParsedDocument(
        text=TEXT, title="Report", kind="pdf", blocks=blocks, partly="page 3 is a picture", boxes=tuple(boxes)
    )


def test_places_boxes_and_the_partly_read_mark_survive_parser_process_and_manifest(tmp_path: Path) -> None:
    sent = ParsedDocument.from_payload(document().to_payload())
    assert sent == document()
    chunks = Splitter(spans, SplitterConfig(max_tokens=40, min_tokens=16)).split(sent)
    manifest = Manifest(tmp_path)
    keys = [chunk.key("x") for chunk in chunks]
    manifest.put_document(SourceFile(path="/report.pdf"), sent, chunks, keys)
    [record] = manifest.sources()
    assert record.partly == "page 3 is a picture"
    assert record.as_dict()["partly"] == record.partly
    stored = manifest.chunks_of("/report.pdf")
    assert len(stored) > 4
    for chunk in stored:
        first = int(chunk.text.split("number ")[1].split()[0])
        assert chunk.place == {"label": "iv" if first <= 20 else "v", "line": 100 + first}
        assert [TEXT[box.start : box.end] for box in chunk.boxes] == chunk.text.split("\n")
        assert {box.page for box in chunk.boxes} <= {1, 2, 3}
    # The document comes back whole, so that it can be split again.
    assert manifest.document("/report.pdf") == sent
    hit = Hit(chunk=stored[0], start=0, end=10, text="", score=0.0, cosine=0.0)
    metadata = to_document(hit, line=1).metadata
    assert (metadata["label"], metadata["line"], metadata["page"]) == ("iv", 101, 1)
    manifest.close()


@pytest.mark.parametrize(
    "change",
    [
        {"boxes": [[0, 10_000, 1, 0, 0, 1, 1]]},
        {"boxes": [[0, 1, 1, float("nan"), 0, 1, 1]]},
        {"blocks": [[0, 1, "", None, {"sheet": ["a", "list"]}]]},
    ],
)
def test_a_parser_that_sends_impossible_places_is_refused(change: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        ParsedDocument.from_payload({**document().to_payload(), **change})
