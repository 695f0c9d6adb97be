"""Answers over documents, each sentence with a citation that is checked."""

from chains.rag.answer import Answer, AnswerDelta, Citation
from chains.rag.chain import rag_chain

__all__ = ["Answer", "AnswerDelta", "Citation", "rag_chain"]
