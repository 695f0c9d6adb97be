"""The program in a parser child: imports one function and answers calls until its input ends.

Runs as `python -m sandbox.worker package.module:function` inside a sandbox. Its standard input and output are
the channel (`sandbox.frames`); what the function prints goes to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO

from sandbox import frames


def main(target: str) -> None:
    """Serve calls of `target` on the standard streams."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    try:
        function = _function(target)
    except BaseException as error:
        _send(answers, {"failed": f"{type(error).__name__}: {error}"})
        return
    _send(answers, {"ready": True})
    me = os.getpid()
    while prefix := requests.read(frames.PREFIX.size):
        request = frames.unpack(requests.read(frames.PREFIX.unpack(prefix)[0]))
        answer = _call(function, request["payload"])
        if os.getpid() != me:  # the function forked, and this is the copy
            os._exit(0)
        _send(answers, {"call": request["call"], **answer})


def _function(target: str) -> Callable[[dict[str, Any]], Any]:
    module, _, name = target.partition(":")
    function: Callable[[dict[str, Any]], Any] = getattr(import_module(module), name)
    return function


def _call(function: Callable[[dict[str, Any]], Any], payload: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": function(payload)}
    except MemoryError:
        return {"limit": "memory"}
    except BaseException as error:
        return {"kind": type(error).__name__, "reason": str(error)[:2000]}


def _send(answers: BinaryIO, message: dict[str, Any]) -> None:
    try:
        frame = frames.pack(message)
    except MemoryError:
        frame = frames.pack({"limit": "memory"})
    except (TypeError, ValueError, RecursionError) as error:
        frame = frames.pack(
            {"kind": type(error).__name__, "reason": f"the answer cannot be sent: {error}"[:2000]}
        )
    answers.write(frame)
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
