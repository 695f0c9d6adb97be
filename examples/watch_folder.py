"""Keeps a store in step with a folder and tells what changed, until Ctrl-C.

    python examples/watch_folder.py FOLDER

Without a folder it shows one change in a temporary one and ends.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

from chains.retrieval import DocumentStore, IngestReport


def main() -> None:
    """Watches and prints a line a round."""
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as temporary, DocumentStore(Path(temporary) / "store") as store:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary) / "notes"
        rounds = 0

        def told(report: IngestReport) -> None:
            nonlocal rounds
            rounds += 1
            print(report.summary(), flush=True)
            if len(sys.argv) > 1:
                return
            if rounds == 1:
                threading.Timer(1.0, (folder / "new.md").write_text, ["A note about badgers."]).start()
            else:
                print(store.retriever(k=1).invoke("badgers")[0].page_content)
                stop.set()

        if len(sys.argv) == 1:
            folder.mkdir()
            (folder / "first.md").write_text("A note about herons.")
        store.watch([folder], on_report=told, stop=stop)


if __name__ == "__main__":
    main()
