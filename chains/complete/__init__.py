"""Completion of text and code, after a prefix or between a prefix and a suffix."""

from chains.complete.chain import Candidate, Completer, complete_chain

__all__ = ["Candidate", "Completer", "complete_chain"]
