"""Code that was run: from a request to a program, checked against whatever there is to check it against.

Importing this package imports no torch: the model and the place to run code are arguments.
"""

from chains.code.chain import code_chain
from chains.code.result import Check, CheckRun, CodeEvent, CodeResult, CodeRun

__all__ = ["Check", "CheckRun", "CodeEvent", "CodeResult", "CodeRun", "code_chain"]
