"""Fixtures that several test files of the store share. Each of them names this module as its plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from retrieval_fakes import DOCS, WordEmbeddings, write

from chains.retrieval import DocumentStore


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    return write(tmp_path / "docs", DOCS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DocumentStore]:
    with DocumentStore(tmp_path / "store", embeddings=WordEmbeddings()) as opened:
        yield opened
