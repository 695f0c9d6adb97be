"""Filters run as SQL select the same chunks as the same conditions in plain Python."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_fakes import WordEmbeddings, write

from chains.retrieval import DocumentStore, errors
from chains.retrieval.filters import allowed_rows

APPS: dict[str, dict[str, Any]] = {
    "one": {"year": 2024, "lang": "en", "draft": True, "tags": ["Sea", "lamp"], "score": 1.5},
    "two": {"year": 2026, "lang": "de", "draft": False, "title": "Überfahrt", "page": 3},
    "three": {"year": "2025", "lang": None, 'odd"key': "x", "source": "/elsewhere/notes.md"},
    "four": {},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentStore]:
    root = tmp_path_factory.mktemp("filters")
    docs = write(
        root / "docs",
        {
            "garden.md": "---\nauthor: Ada\ntype: essay\ntitle: Own\n---\n# Garden\n\n## Roses\n\nClay.\n",
            "deep/lamp.md": "# Lighthouse\n\nThe lamp is lit at dusk.\n",
            "harbour.txt": "The harbour opens at six.\n",
            "odd[1].txt": "An odd name.\n",
        },
    )
    with DocumentStore(root / "s", WordEmbeddings(), index="exact") as opened:
        opened.ingest(docs)
        opened.add_texts({name: (f"Text {name}.", facts) for name, facts in APPS.items()})
        yield opened


def found(store: DocumentStore, chosen: dict[str, Any]) -> set[str]:
    rows = allowed_rows(store._manifest, chosen)
    return {os.path.basename(c.source) for c in store._manifest.chunks_by_row(rows).values()}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"type": "essay"}, {"garden.md"}),  # its own word for itself
        ({"type": "markdown"}, {"lamp.md"}),
        ({"author": "Ada"}, {"garden.md"}),
        ({"source": "lamp.md"}, {"lamp.md"}),
        ({"source": "deep/lamp.md"}, {"lamp.md"}),
        ({"source": "*.md"}, {"garden.md", "lamp.md", "app:three"}),
        ({"source": "/elsewhere"}, {"app:three"}),
        ({"source": "[!g]*.md"}, {"garden.md", "lamp.md", "app:three"}),  # the paths start with a slash
        ({"source": "g*.md"}, {"garden.md"}),
        ({"year": {"$gte": 2025}}, {"app:two"}),
        ({"year": 2025}, {"app:three"}),  # a word that is written so
        ({"year": "2024"}, {"app:one"}),
        ({"year": {"$in": [2024, 2026]}}, {"app:one", "app:two"}),
        ({"year": [2024, "2025"]}, {"app:one", "app:three"}),
        ({"draft": True}, {"app:one"}),
        ({"draft": "false"}, {"app:two"}),
        ({"draft": 1}, set()),
        ({"lang": {"$ne": "en"}, "source": "app:*"}, {"app:two", "app:four"}),
        ({"tags": {"$contains": "sea"}}, {"app:one"}),
        ({"title": {"$contains": "überf"}}, {"app:two"}),
        ({"page": 3}, {"app:two"}),
        ({"page": {"$gt": 5}}, set()),
        ({'odd"key': "x"}, {"app:three"}),
        ({"score": {"$gt": 1, "$lt": 2}}, {"app:one"}),
        ({"score": {"$gt": "a"}}, set()),
        ({"heading": "rose"}, {"garden.md"}),
        ({"year": {"$in": []}}, set()),
        (
            {"modified": {"$gt": "2001-01-01", "$ne": 5}},
            {"garden.md", "lamp.md", "harbour.txt", "odd[1].txt"},
        ),
    ],
)
def test_a_filter_selects(store: DocumentStore, chosen: dict[str, Any], expected: set[str]) -> None:
    assert found(store, chosen) == expected


@pytest.mark.parametrize(
    "chosen",
    [
        {"": 1},
        {"year": {"$near": 1}},
        {"year": {}},
        {"year": {"$in": 4}},
        {"year": {"$gt": None}},
        {"modified": "yesterday"},
        {"modified": {"$lt": "soon"}},
    ],
)
def test_a_filter_that_cannot_be_read_is_refused(store: DocumentStore, chosen: dict[str, Any]) -> None:
    with pytest.raises(errors.BadFilter):
        allowed_rows(store._manifest, chosen)


VALUES = st.one_of(
    st.sampled_from([2024, 2026, 1.5, True, False, "2025", "en", "Sea", "", "'; --"]), st.text(max_size=3)
)


def same(held: Any, wanted: Any) -> bool:
    if isinstance(held, bool) or isinstance(wanted, bool):
        return (
            str(held).lower() == str(wanted).lower()
            if isinstance(held, bool)
            else held == str(wanted).lower()
        )
    return held == wanted or str(held) == str(wanted)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["year", "lang", "draft", "score", "none"]),
    op=st.sampled_from(["$eq", "$ne", "$in"]),
    wanted=VALUES,
)
def test_equality_means_what_it_means_in_python(
    store: DocumentStore, name: str, op: str, wanted: Any
) -> None:
    if isinstance(wanted, str) and "\0" in wanted:
        return
    expected = set()
    for document, facts in APPS.items():
        held = facts.get(name)
        meets = held is not None and same(held, wanted)
        if meets != (op == "$ne"):
            expected.add(f"app:{document}")
    condition = {op: [wanted] if op == "$in" else wanted}
    assert {f for f in found(store, {name: condition}) if f.startswith("app:")} == expected
