"""Whether the files of an hnswlib graph can be walked without leaving them.

Chroma does not look at whether a write to these files succeeded: on a full or failing disk it reports success
over a graph that is cut short or holds what the memory held before, and searching that kills the process. So
every vector and every list of neighbours is checked before the files are sealed. Knows hnswlib's layout
(`saveIndex`, with the version that Chroma's fork puts before it) and nothing of Chroma.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# version; offset of level 0, room, elements, bytes an element, offsets of label and vector; highest level,
# entry; most neighbours above level 0, and on it
_HEADER = struct.Struct("<i6QiI2Q")
_VERSION = 1
_WORD = 4
_SHORTEST, _LONGEST = 0.98, 1.02


def whole(folder: Path) -> bool:
    """Whether the graph in `folder` is sound; True where its layout is not a known one."""
    try:
        header = (folder / "header.bin").read_bytes()
        if len(header) < _HEADER.size:
            return False
        version, first, _, elements, size, label, vector, _, entry, upper, lower = _HEADER.unpack_from(header)
        if version != _VERSION or not elements:
            return True
        level0 = np.fromfile(folder / "data_level0.bin", np.uint8, elements * size)
        if len(level0) < elements * size or entry >= elements:
            return False
        rows = level0.reshape(elements, size)
        lists = rows[:, first : first + _WORD * (1 + lower)]
        vectors = np.ascontiguousarray(rows[:, vector:label]).view(np.float32)
        with np.errstate(all="ignore"):
            norms = np.linalg.norm(vectors, axis=1)
        # The store's vectors are unit vectors; what stands there by accident is not.
        if not ((norms > _SHORTEST) & (norms < _LONGEST)).all():
            return False
        return _sound(lists, elements, lower) and _upper_sound(folder / "link_lists.bin", elements, upper)
    except (OSError, ValueError):
        return False


def _sound(lists: NDArray[np.uint8], elements: int, most: int) -> bool:
    """Whether lists of neighbours, uint8 [n, 4 + 4 * most], count at most `most` and name elements only."""
    words = np.ascontiguousarray(lists).view(np.uint32)
    # The count is a short; the byte behind it marks an element as deleted.
    counts = words[:, 0] & 0xFFFF
    used = np.arange(most) < counts[:, None]
    return bool((counts <= most).all() and (words[:, 1:][used] < elements).all())


def _upper_sound(path: Path, elements: int, most: int) -> bool:
    """The same of the levels above: one stretch an element, which tells its length in bytes first."""
    data = np.fromfile(path, np.uint8)
    place, width, rows = 0, _WORD * (1 + most), []
    for _ in range(elements):
        if place + _WORD > len(data):
            return False
        length = int.from_bytes(data[place : place + _WORD].tobytes(), "little")
        place += _WORD
        if length % width or place + length > len(data):
            return False
        if length:
            rows.append(data[place : place + length].reshape(-1, width))
        place += length
    return not rows or _sound(np.concatenate(rows), elements, most)
