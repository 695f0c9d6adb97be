"""Our rag_chain over somebody else's retriever: LangChain's in-memory vector store.

The retriever gives neither offsets nor cosines, so the embedder decides whether the documents answer, and
citations name the document and quote the sentence.
"""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from chains import rag_chain
from chains.retrieval import default_embeddings
from llms import ChatLocal

NOTES = {
    "bread.txt": "The rye loaf bakes for fifty minutes at 220 degrees. It must cool for a day.",
    "oven.txt": "The oven was built by Jonas Hale in 2011. Its door is cast iron and weighs forty kilograms.",
    "shop.txt": "The shop opens at seven, on Sundays at nine. It is closed on Mondays.",
}


def main() -> None:
    """Ask two questions that the notes answer, and one that they do not."""
    embeddings = default_embeddings()
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(text, metadata={"source": name}) for name, text in NOTES.items()])
    llm = ChatLocal(model="smollm2-135m", temperature=0)
    chain = rag_chain(llm, store.as_retriever(search_kwargs={"k": 2}), embeddings=embeddings, sentences=1)
    for question in (
        "Who built the oven?",
        "How long does the rye loaf bake?",
        "What is the capital of France?",
    ):
        answer = chain.invoke(question)
        print(f"{question}\n  {answer.text}")
        for one in answer.citations:
            print(f"  [{one.number}] {one.source}: {one.quote!r}")


if __name__ == "__main__":
    main()
