"""Finds the page of a PDF that answers a question.

    python examples/rag_over_pdfs.py [FOLDER_OF_PDFS] [QUESTION]

Without a folder it makes a small PDF where reportlab is installed.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from chains.retrieval import DocumentStore


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
    """Ingests, searches, prints passages with their pages."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else sample(Path(temporary))
        question = sys.argv[2] if len(sys.argv) > 2 else "When are the otters counted?"
        with DocumentStore(Path(temporary) / "store") as store:
            report = store.ingest(folder)
            for failed in report.failed:
                print(f"left out: {failed.path}: {failed.reason}", file=sys.stderr)
            for document in store.retriever(k=2, filter={"type": "pdf"}).invoke(question):
                meta = document.metadata
                print(f"{Path(meta['source']).name}, page {meta['page']} ({meta['score']:.2f})")
                print(f"    {document.page_content.strip()}")


if __name__ == "__main__":
    main()
