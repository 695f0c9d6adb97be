"""Code for a request, run and checked in a sandbox."""

from chains.code.chain import code_chain
from chains.code.result import Check, CheckRun, CodeEvent, CodeResult, CodeRun

__all__ = ["Check", "CheckRun", "CodeEvent", "CodeResult", "CodeRun", "code_chain"]
