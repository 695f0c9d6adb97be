"""The program inside a parser child, and the message format that it shares with the pool.

Run as `python -m sandbox.worker package.module:function` inside a sandbox, it imports the function and
answers calls until its input ends. Its standard input and output carry the messages; what the function prints
goes to standard error.

A message is JSON followed by its bytes objects, and holds plain data only (None, bool, int, float, str,
bytes, lists, tuples as lists, dicts with text keys). The worker's messages were written by untrusted code, so
nothing in them can name a class or run anything. One frame is the length of the rest (8 bytes), the length of
the JSON (4 bytes), the JSON, and the bytes objects one after another. In the JSON a bytes object is
{"$bytes": [offset, length]}; a dict with a key that begins with "$" is wrapped as
{"$dict": [[key, value], ...]}.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO

PREFIX = struct.Struct("<Q")
_JSON = struct.Struct("<I")


def pack(message: dict[str, Any]) -> bytes:
    """Return the message as one frame, prefix included.

    Raises:
        TypeError: a value is not plain data, or a key is not text.
    """
    blobs: list[bytes] = []
    text = json.dumps(_encode(message, blobs, [0]), ensure_ascii=True, separators=(",", ":")).encode()
    body = b"".join((_JSON.pack(len(text)), text, *blobs))
    return PREFIX.pack(len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """Return the message of a frame, given without its prefix.

    Raises:
        ValueError: the frame is cut off, forged or nested too deeply.
    """
    try:
        (length,) = _JSON.unpack_from(body)
        view = memoryview(body)[_JSON.size + length :]
        message = _decode(json.loads(body[_JSON.size : _JSON.size + length]), view, [0])
    except (struct.error, KeyError, TypeError, IndexError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a frame, found {body[:40]!r} ({type(error).__name__})") from error
    if not isinstance(message, dict):
        raise ValueError(f"expected a frame that holds a dict, found a {type(message).__name__}")
    return message


def _encode(value: Any, blobs: list[bytes], end: list[int]) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        blobs.append(bytes(value))
        end[0] += len(blobs[-1])
        return {"$bytes": [end[0] - len(blobs[-1]), len(blobs[-1])]}
    if isinstance(value, list | tuple):
        return [_encode(one, blobs, end) for one in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(
                f"frame: expected text keys, found {next(k for k in value if not isinstance(k, str))!r}"
            )
        pairs = [[key, _encode(one, blobs, end)] for key, one in value.items()]
        return {"$dict": pairs} if any(key.startswith("$") for key in value) else dict(pairs)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"frame: expected plain data, found {type(value).__name__}: {value!r}")


def _decode(value: Any, blobs: memoryview, end: list[int]) -> Any:
    """Return the value with its bytes objects; `end` is where those that were read so far end.

    Each byte of a frame is copied once at most: a forged frame whose references overlap would otherwise grow
    into many times its size.
    """
    if isinstance(value, list):
        return [_decode(one, blobs, end) for one in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        offset, length = map(int, value["$bytes"])
        if not end[0] == offset <= offset + length <= len(blobs):
            raise IndexError("bytes outside the frame, or not in their order")
        end[0] += length
        return bytes(blobs[offset : offset + length])
    if "$dict" in value:
        return {str(key): _decode(one, blobs, end) for key, one in value["$dict"]}
    return {key: _decode(one, blobs, end) for key, one in value.items()}


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
    while prefix := requests.read(PREFIX.size):
        request = unpack(requests.read(PREFIX.unpack(prefix)[0]))
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
        frame = pack(message)
    except MemoryError:
        frame = pack({"limit": "memory"})
    except (TypeError, ValueError, RecursionError) as error:
        frame = pack({"kind": type(error).__name__, "reason": f"the answer cannot be sent: {error}"[:2000]})
    answers.write(frame)
    answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
