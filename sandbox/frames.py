"""Messages between the parser pool and its worker: JSON, with the bytes beside it, in prefixed frames.

Plain data only (None, bool, int, float, str, bytes, lists, tuples as lists, dicts with text keys): a frame
from the worker was written by untrusted code, so nothing in it can name a class or run anything. Used on both
sides.

A frame: length of the rest (8 bytes), length of the JSON (4 bytes), the JSON, the bytes objects one after
another; in the JSON a bytes object is {"$bytes": [offset, length]}, and a dict with a key that begins with
"$" is wrapped as {"$dict": [[key, value], ...]}.
"""

from __future__ import annotations

import json
import struct
from typing import Any

PREFIX = struct.Struct("<Q")
_JSON = struct.Struct("<I")


def pack(message: dict[str, Any]) -> bytes:
    """One frame, prefix included.

    Raises:
        TypeError: a value of another type, or a key that is no text.
    """
    blobs: list[bytes] = []
    text = json.dumps(_out(message, blobs, [0]), ensure_ascii=True, separators=(",", ":")).encode()
    body = b"".join((_JSON.pack(len(text)), text, *blobs))
    return PREFIX.pack(len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """The message of a frame without its prefix.

    Raises:
        ValueError: it is no frame (cut, forged, nested too deeply).
    """
    try:
        (length,) = _JSON.unpack_from(body)
        view = memoryview(body)[_JSON.size + length :]
        message = _in(json.loads(body[_JSON.size : _JSON.size + length]), view)
    except (struct.error, KeyError, TypeError, IndexError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a frame, found {body[:40]!r} ({type(error).__name__})") from error
    if not isinstance(message, dict):
        raise ValueError(f"expected a frame that holds a dict, found a {type(message).__name__}")
    return message


def _out(value: Any, blobs: list[bytes], end: list[int]) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        blobs.append(bytes(value))
        end[0] += len(blobs[-1])
        return {"$bytes": [end[0] - len(blobs[-1]), len(blobs[-1])]}
    if isinstance(value, list | tuple):
        return [_out(one, blobs, end) for one in value]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(
                f"frame: expected text keys, found {next(k for k in value if not isinstance(k, str))!r}"
            )
        pairs = [[key, _out(one, blobs, end)] for key, one in value.items()]
        return {"$dict": pairs} if any(key.startswith("$") for key in value) else dict(pairs)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"frame: expected plain data, found {type(value).__name__}: {value!r}")


def _in(value: Any, blobs: memoryview) -> Any:
    if isinstance(value, list):
        return [_in(one, blobs) for one in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        offset, length = map(int, value["$bytes"])
        if not 0 <= offset <= offset + length <= len(blobs):
            raise IndexError("bytes outside the frame")
        return bytes(blobs[offset : offset + length])
    if "$dict" in value:
        return {str(key): _in(one, blobs) for key, one in value["$dict"]}
    return {key: _in(one, blobs) for key, one in value.items()}
