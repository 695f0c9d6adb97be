"""The header of a GGUF file: metadata and tensors by name, every length and place checked before it is used.

    >>> from pathlib import Path
    >>> file = GgufFile.open(Path("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"))  # doctest: +SKIP
    >>> file.metadata["general.architecture"], len(file.tensors)               # doctest: +SKIP
    ('qwen2', 291)

The format is that of ggml's docs/gguf.md, versions 2 and 3, little-endian. Nothing in a file is trusted: a
length, a count or an offset that reaches beyond the file ends in an error that names the file and the key or
the tensor, before any memory is taken for it. The package `gguf` reads such files too, but allocates what a
damaged file asks for and fails with whatever error comes first.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from llms.errors import DamagedCheckpoint, UnsupportedModel

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LARGEST_HEADER = 256 * 2**20
"""Bytes of metadata and tensor names. The largest published vocabularies take 12 MB."""
LONGEST_KEY = 65_535
"""Bytes of a key, by the format's description."""
LONGEST_TEXT = 2**24
"""Bytes of a string."""
MOST_ENTRIES = 65_536
"""Metadata entries, and tensors. The largest published models have 2,000 tensors."""
MOST_ELEMENTS = 2**22
"""Elements of all arrays together; three times those of the largest published vocabulary and its merges."""
MOST_DIMENSIONS = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_TYPE_NAMES = (
    *("F32 F16 Q4_0 Q4_1 Q4_2 Q4_3 Q5_0 Q5_1 Q8_0 Q8_1 Q2_K Q3_K Q4_K Q5_K Q6_K Q8_K IQ2_XXS IQ2_XS".split()),
    *("IQ3_XXS IQ1_S IQ4_NL IQ3_S IQ2_S IQ4_XS I8 I16 I32 I64 F64 IQ1_M BF16".split()),
)

BLOCKS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22),
        "Q5_1": (32, 24), "Q8_0": (32, 34), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
    }
)  # fmt: skip
"""Weights and bytes of a block, by the name of its type, for the types that can be read in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufTensor:
    """A tensor in a file.

    Attributes:
        name: Its name there.
        type: The name of its type, such as "Q4_K"; "type 99" for a number without a name.
        number: The number of its type.
        shape: Its shape with the longest stride first, as in NumPy.
        start: Its first byte in the file.
    """

    name: str
    type: str
    number: int
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        """Return the number of its weights."""
        return math.prod(self.shape)

    @property
    def size(self) -> int | None:
        """Return its size in bytes; None if its type cannot be read in place."""
        if self.type not in BLOCKS:
            return None
        weights, size = BLOCKS[self.type]
        return self.elements // weights * size


@dataclass(frozen=True, kw_only=True, eq=False)
class GgufFile:
    """A GGUF file whose header was read and checked.

    Attributes:
        path: Its path.
        metadata: Metadata by key.
        tensors: Tensors by name.
        data: The whole file, mapped.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    data: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Map a file and read its header.

        Raises:
            DamagedCheckpoint: It is not a GGUF file, is cut short, or contradicts itself.
            UnsupportedModel: It has another version or byte order.
            OSError: It cannot be read.
        """
        with path.open("rb") as stream:
            try:
                data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:  # an empty file
                raise DamagedCheckpoint(_damaged(path, "a GGUF file", "no bytes")) from error
        reader = _Reader(path, data)
        metadata, tensors = reader.header()
        return cls(path=path, metadata=metadata, tensors=tensors, data=data)

    @property
    def quantization(self) -> str:
        """Return the type that holds most weights, such as "Q4_K"."""
        amounts: dict[str, int] = {}
        for tensor in self.tensors.values():
            amounts[tensor.type] = amounts.get(tensor.type, 0) + tensor.elements
        return max(amounts, key=lambda name: amounts[name], default="none")

    def integer(self, key: str, default: int | None = None, *, least: int = 0, most: int = 2**31 - 1) -> int:
        """Return a number of the metadata.

        Raises:
            DamagedCheckpoint: It is missing without a default, is no integer, or is out of range.
        """
        found = self.metadata.get(key, default)
        if type(found) is not int or not least <= found <= most:
            self.refuse(f"an integer from {least:,} to {most:,} under {key!r}", _shown(found))
        return found

    def real(self, key: str, default: float | None = None) -> float:
        """Return a positive, finite number of the metadata.

        Raises:
            DamagedCheckpoint: It is missing without a default, or is not such a number.
        """
        found = self.metadata.get(key, default)
        if type(found) not in (int, float) or not 0 < found < math.inf:
            self.refuse(f"a positive number under {key!r}", _shown(found))
        return float(found)

    def text(self, key: str) -> str | None:
        """Return a string of the metadata; None if there is none.

        Raises:
            DamagedCheckpoint: It is something else.
        """
        found = self.metadata.get(key)
        if found is not None and type(found) is not str:
            self.refuse(f"text under {key!r}", _shown(found))
        return found

    def array(self, key: str, kind: type) -> list[Any] | None:
        """Return an array of the metadata; None if there is none.

        Args:
            key: Its key.
            kind: The Python type of its elements.

        Raises:
            DamagedCheckpoint: It is something else.
        """
        found = self.metadata.get(key)
        if found is None:
            return None
        if type(found) is not list or (found and type(found[0]) is not kind):
            self.refuse(f"an array of {kind.__name__} under {key!r}", _shown(found))
        return found

    def refuse(self, expected: str, found: str) -> NoReturn:
        """Raise the error of a file that is damaged.

        Raises:
            DamagedCheckpoint: Always.
        """
        raise DamagedCheckpoint(_damaged(self.path, expected, found))


def _damaged(path: Path, expected: str, found: str) -> str:
    return (
        f"expected {expected}, found {found} in {str(path)!r}: the GGUF file is cut short or damaged; "
        "download it again and compare its hash with the publisher's"
    )


def _shown(value: object) -> str:
    """Return a value for a message, cut to a short length."""
    if isinstance(value, list):
        return f"an array of {len(value):,}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class _Reader:
    """Reads the header of a mapped file from its start to its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, 0
        self._end = min(len(data), LARGEST_HEADER)
        self._elements = MOST_ELEMENTS

    def header(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        """Return the metadata and the tensors."""
        if self._data[:4] != MAGIC:
            self._refuse("a GGUF file", f"{self._data[:4]!r} at its start")
        self._at = 4
        version = self._number("I", "the version")
        if version not in VERSIONS:
            raise UnsupportedModel(
                f"expected GGUF version {VERSIONS[0]} or {VERSIONS[1]}, little-endian, found {version} in "
                f"{str(self._path)!r}; convert it with a current llama.cpp"
            )
        count = self._count("Q", "the number of tensors", MOST_ENTRIES)
        entries = self._count("Q", "the number of metadata entries", MOST_ENTRIES)
        metadata: dict[str, Any] = {}
        for index in range(entries):
            key = self._text(f"key {index}", LONGEST_KEY)
            if key in metadata:
                self._refuse("every key once", f"{_shown(key)} twice")
            metadata[key] = self._value(key)
        return metadata, self._tensors(count, metadata)

    def _tensors(self, count: int, metadata: Mapping[str, Any]) -> dict[str, GgufTensor]:
        found: dict[str, GgufTensor] = {}
        for index in range(count):
            name = self._text(f"the name of tensor {index}", LONGEST_KEY)
            if name in found:
                self._refuse("every tensor once", f"{_shown(name)} twice")
            dimensions = self._count("I", f"the dimensions of {_shown(name)}", MOST_DIMENSIONS)
            shape = tuple(self._number("Q", f"the shape of {_shown(name)}") for _ in range(dimensions))
            number = self._number("I", f"the type of {_shown(name)}")
            start = self._number("Q", f"the place of {_shown(name)}")
            if not shape or not all(0 < size < 2**31 for size in shape) or math.prod(shape) > 2**40:
                self._refuse(f"a shape for {_shown(name)}", str(shape))
            kind = _TYPE_NAMES[number] if number < len(_TYPE_NAMES) else f"type {number}"
            found[name] = GgufTensor(name=name, type=kind, number=number, shape=shape[::-1], start=start)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
            self._refuse("a power of two from 8 under 'general.alignment'", _shown(alignment))
        base = -(-self._at // alignment) * alignment
        return self._placed(found, base, alignment)

    def _placed(self, tensors: dict[str, GgufTensor], base: int, alignment: int) -> dict[str, GgufTensor]:
        """Return the tensors with their places in the file, which must lie in it and not overlap."""
        found: dict[str, GgufTensor] = {}
        spans: list[tuple[int, int, str]] = []
        for name, one in tensors.items():
            if one.start % alignment:
                self._refuse(f"tensor {_shown(name)} at a multiple of {alignment}", f"{one.start:,}")
            if one.type in BLOCKS and one.shape[-1] % BLOCKS[one.type][0]:
                self._refuse(
                    f"rows of a multiple of {BLOCKS[one.type][0]} weights in {_shown(name)} ({one.type})",
                    f"{one.shape[-1]:,}",
                )
            start, size = base + one.start, one.size
            if start + (size or 0) > len(self._data):
                where = f"its end at byte {start + (size or 0):,} of {len(self._data):,}"
                self._refuse(f"tensor {_shown(name)} within the file", where)
            spans.append((start, start + (size or 1), name))
            found[name] = GgufTensor(
                name=name, type=one.type, number=one.number, shape=one.shape, start=start
            )
        spans.sort()
        for (_, end, name), (start, _, other) in pairwise(spans):
            if start < end:
                self._refuse("tensors apart from each other", f"{_shown(name)} and {_shown(other)} overlap")
        return found

    def _value(self, key: str) -> Any:
        kind = self._number("I", f"the type of {_shown(key)}")
        if kind == _TEXT:
            return self._text(f"the text of {_shown(key)}", LONGEST_TEXT)
        if kind in _SCALARS:
            return self._number(_SCALARS[kind], f"the value of {_shown(key)}")
        if kind != _ARRAY:
            self._refuse(f"a type from 0 to 12 for {_shown(key)}", str(kind))
        element = self._number("I", f"the type of the elements of {_shown(key)}")
        count = self._count("Q", f"the number of elements of {_shown(key)}", self._elements)
        self._elements -= count
        if element == _TEXT:
            return self._texts(key, count)
        if element not in _SCALARS:
            self._refuse(f"an array of numbers or text under {_shown(key)}", f"elements of type {element}")
        size = struct.calcsize(f"<{_SCALARS[element]}")
        start = self._take(count * size, f"the array {_shown(key)}")
        return list(struct.unpack_from(f"<{count}{_SCALARS[element]}", self._data, start))

    def _texts(self, key: str, count: int) -> list[str]:
        """Return `count` strings. A vocabulary has 150,000, so the loop calls little for each."""
        data, at, end = memoryview(self._data), self._at, self._end
        try:
            found, unpack = [], struct.Struct("<Q").unpack_from
            if count * 8 > end - at:
                self._refuse(f"{count:,} strings under {_shown(key)}", f"{end - at:,} bytes")
            for _ in range(count):
                if at + 8 > end:
                    break
                start = at + 8
                at = start + unpack(data, at)[0]
                if at > end or at - start > LONGEST_TEXT:
                    break
                found.append(str(data[start:at], "utf-8", "replace"))
        finally:
            data.release()
        if len(found) < count:
            self._refuse(f"{count:,} strings under {_shown(key)}", f"string {len(found):,} beyond the header")
        self._at = at
        return found

    def _text(self, what: str, most: int) -> str:
        length = self._count("Q", f"the length of {what}", most)
        start = self._take(length, what)
        return self._data[start : start + length].decode("utf-8", "replace")

    def _count(self, code: str, what: str, most: int) -> int:
        found: int = self._number(code, what)
        if found > most:
            self._refuse(f"{what} to be at most {most:,}", f"{found:,}")
        return found

    def _number(self, code: str, what: str) -> Any:
        size = struct.calcsize(f"<{code}")
        return struct.unpack_from(f"<{code}", self._data, self._take(size, what))[0]

    def _take(self, size: int, what: str) -> int:
        """Return where the next `size` bytes start, and go past them."""
        start = self._at
        if size > self._end - start:
            self._refuse(what, f"the end of the header after {self._end - start:,} bytes")
        self._at = start + size
        return start

    def _refuse(self, expected: str, found: str) -> NoReturn:
        raise DamagedCheckpoint(_damaged(self._path, expected, found))
