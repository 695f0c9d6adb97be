"""Summaries of texts of any length, in which each sentence names the part it comes from."""

from chains.summarize.chain import summarize_chain
from chains.summarize.result import Style, Summary, SummaryDelta, SummaryPart, SummarySentence
from chains.summarize.sources import StoreSource, SummaryInput

__all__ = [
    "StoreSource",
    "Style",
    "Summary",
    "SummaryDelta",
    "SummaryInput",
    "SummaryPart",
    "SummarySentence",
    "summarize_chain",
]
