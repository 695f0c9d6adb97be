"""Answers a question from a folder of documents, with numbered sources.

    python examples/rag_over_folder.py [FOLDER] [QUESTION]

The store is a temporary one here; give it a folder of its own, and a second run ingests only what changed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chains import rag_chain
from chains.retrieval import DocumentStore
from llms import ChatLocal


def main() -> None:
    """Ingests, asks, prints."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "docs"
    question = sys.argv[2] if len(sys.argv) > 2 else "How does the store survive a kill?"
    with tempfile.TemporaryDirectory() as temporary, DocumentStore(Path(temporary) / "store") as store:
        print(store.ingest(folder).summary())
        chain = rag_chain(ChatLocal(temperature=0), store.retriever(k=4), embeddings=store.embeddings)
        answer = chain.invoke(question)
        print(answer.text)
        for citation in answer.citations:
            place = f"{Path(citation.source).name}:{citation.line}" if citation.line else citation.source
            print(f"[{citation.number}] {place}, {citation.heading}: {citation.quote!r}")


if __name__ == "__main__":
    main()
