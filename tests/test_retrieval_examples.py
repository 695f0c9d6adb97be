"""The code in the docstrings of the store's public names runs as it stands."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from retrieval_fakes import DOCS, WordEmbeddings, write

import chains.retrieval
from chains.retrieval import DocumentStore, Fusion, Hit, Progress, SearchOptions, StoreRetriever
from chains.retrieval.langchain import StoreVectorStore

PUBLIC = [
    chains.retrieval,
    DocumentStore,
    DocumentStore.ingest,
    DocumentStore.remove,
    DocumentStore.add_texts,
    DocumentStore.search,
    DocumentStore.verify,
    DocumentStore.repair,
    DocumentStore.retriever,
    Fusion,
    Hit,
    Progress,
    SearchOptions,
    StoreRetriever,
    StoreVectorStore,
]


def code_of(documented: object) -> str:
    """Return the indented lines of a docstring before its sections."""
    text = re.split(r"^(?:Args|Raises):$", inspect.getdoc(documented) or "", flags=re.MULTILINE)[0]
    return "\n".join(line[4:] for line in text.splitlines() if line.startswith("    "))


@pytest.mark.parametrize("documented", PUBLIC, ids=lambda one: getattr(one, "__qualname__", "module"))
def test_the_code_in_a_docstring_runs(
    documented: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "docs", {**DOCS, "old.md": "# Old\n\nThe old pier.\n"})
    (tmp_path / "notes.md").write_text("# Notes\n\nThe ferries sail at nine.\n")
    monkeypatch.chdir(tmp_path)

    def embedder(precision: str) -> WordEmbeddings:
        return WordEmbeddings()

    monkeypatch.setattr("chains.retrieval.embedder.default_embeddings", embedder)
    names = {name: getattr(chains.retrieval, name) for name in chains.retrieval.__all__}
    with DocumentStore(tmp_path / "store") as store:
        store.ingest("docs")
        code = code_of(documented)
        assert code, "no example"
        exec(code, {**names, "store": store})
