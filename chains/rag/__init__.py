"""Answers over documents, in which every sentence has a citation that was checked."""

from chains.rag.answer import Answer, AnswerDelta, Citation
from chains.rag.chain import rag_chain

__all__ = ["Answer", "AnswerDelta", "Citation", "rag_chain"]
