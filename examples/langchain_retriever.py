"""LangChain's own retrieval chain over our store: its prompt, its parser, and `store.retriever()`.

    python examples/langchain_retriever.py [QUESTION]

`create_retrieval_chain` of the package langchain-classic takes `store.retriever()` in the same way.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough

from chains.retrieval import DocumentStore
from llms import ChatLocal

PROMPT = ChatPromptTemplate.from_template(
    "Answer from the notes only.\n\nNotes:\n{notes}\n\nQuestion: {question}"
)


def joined(documents: list[Document]) -> str:
    """The passages as one text."""
    return "\n\n".join(document.page_content for document in documents)


def main() -> None:
    """Builds the chain in LangChain's expression language and runs it."""
    question = sys.argv[1] if len(sys.argv) > 1 else "When do the ferries leave?"
    with tempfile.TemporaryDirectory() as temporary, DocumentStore(Path(temporary) / "store") as store:
        store.vectorstore.add_texts(
            ["The ferries leave every hour from six to ten.", "The lighthouse is open on Sundays."],
            [{"topic": "ferries"}, {"topic": "lighthouse"}],
        )
        model = ChatLocal(temperature=0, max_tokens=48)
        found = {"notes": store.retriever(k=1) | joined, "question": RunnablePassthrough()}
        chain = found | PROMPT | model | StrOutputParser()
        for piece in chain.stream(question):
            print(piece, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
