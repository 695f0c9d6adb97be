"""Answers a question from PDFs, and cites the page.

    python examples/rag_over_pdfs.py [FOLDER_OF_PDFS] [QUESTION]

Without a folder it makes a small PDF where reportlab is installed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chains import rag_chain
from chains.retrieval import DocumentStore
from llms import ChatLocal


def sample(folder: Path) -> Path:
    """A PDF of two pages."""
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(folder / "river.pdf"))
    for line in ("Herons nest in the alders from March on.", "Otters are counted each November at night."):
        canvas.drawString(72, 720, line)
        canvas.showPage()
    canvas.save()
    return folder


def main() -> None:
    """Ingests, asks, prints the answer and the pages that it stands on."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else sample(Path(temporary))
        question = sys.argv[2] if len(sys.argv) > 2 else "When are the otters counted?"
        with DocumentStore(Path(temporary) / "store") as store:
            report = store.ingest(folder)
            for failed in report.failed:
                print(f"left out: {failed.path}: {failed.reason}", file=sys.stderr)
            retriever = store.retriever(k=4, filter={"type": "pdf"})
            chain = rag_chain(ChatLocal(temperature=0), retriever, embeddings=store.embeddings)
            answer = chain.invoke(question)
            print(answer.text)
            for citation in answer.citations or answer.nearest:
                print(f"[{citation.number}] {Path(citation.source).name}, page {citation.page}")


if __name__ == "__main__":
    main()
