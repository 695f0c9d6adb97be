"""Sum up a book chapter by chapter, then as a whole; a second run works on changed chapters only.

python examples/book_summary.py [FILE]
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from langchain_core.runnables import Runnable

from chains.retrieval import default_embeddings
from chains.summarize import Style, Summary, SummaryInput, summarize_chain

BOOK = """# The harbour

Marten came to Quayle in the spring of 1902 with a trunk of tools and no letter of introduction. He had been
told that the harbour needed a clockmaker, because the tower clock had stopped in the storm of January. The
harbour master, a woman named Ida Rook, gave him a room above the rope store. She asked for no rent until the
clock struck again.

# The tower

The clock of Quayle had four faces and one heart, a train of brass wheels as tall as a man. Marten found that
the storm had not broken it. Somebody had taken out the pallet fork, the small part that lets the wheels turn
one tooth at a time. He told Ida, and she said that only three people in the town had a key to the tower. One
of them had left for Norway.

# The letter

In June a parcel came from Bergen. It held the pallet fork, wrapped in a page of a tide table, and a letter.
The old clockmaker wrote that he had stopped the clock himself, because the town had sold the lighthouse and
nobody had asked him. Marten put the fork back that evening. At nine o'clock the bell of Quayle rang for the
first time in five months.
"""


def main() -> None:
    """Summarize each chapter, then the book, and show that the second run has less to do."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else BOOK
    embeddings = default_embeddings()
    with tempfile.TemporaryDirectory() as folder:

        def chain(sentences: int) -> Runnable[SummaryInput, Summary]:
            return summarize_chain(
                None, embeddings=embeddings, style=Style(sentences=sentences), cache=Path(folder)
            )

        for chapter in re.split(r"^(?=# )", text, flags=re.MULTILINE):
            if chapter.strip():
                title = chapter.lstrip("# ").split("\n", 1)[0]
                print(f"{title}\n  {chain(1).invoke(chapter).text}\n")
        whole = chain(4).invoke(text)
        print("The book:")
        for one in whole.sentences:
            print(f"  - {one.text}  ({whole.parts[one.part].heading})")
        again = chain(4).invoke(text.replace("five months", "half a year"))
        print(f"\nAfter an edit: {again.cached} of {len(again.parts)} parts were known already.")


if __name__ == "__main__":
    main()
