"""Writes Outlook messages (.msg): an OLE compound file of properties, as small as Outlook would not make it.

Every stream is padded to 4096 bytes, so that no mini stream is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

_SECTOR = 512
_LEAST = 4096
Tree = dict[str, Any]
"""Storages are dicts, streams are bytes."""


def msg(
    subject: str,
    sender: str,
    to: str,
    body: str,
    html: str = "",
    attachments: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a message; an attachment's value is its bytes, or the keyword arguments of a message in it."""
    return _compound(_message(subject, sender, to, body, html, attachments or {}, header=32))


def _message(
    subject: str, sender: str, to: str, body: str, html: str, attachments: Mapping[str, Any], header: int
) -> Tree:
    texts = {0x0037: subject, 0x0042: sender, 0x1000: body, 0x007D: f"From: {sender}\nTo: {to}\n"}
    tree = _properties(texts, {0x1013: html.encode("utf-8")} if html else {}, {0x3FDE: 65001}, header)
    counts = struct.pack("<8x4I", 0, len(attachments), 0, len(attachments))
    tree["__properties_version1.0"] = counts + tree["__properties_version1.0"][len(counts) :]
    for number, (name, content) in enumerate(attachments.items()):
        inner = {0x3701: content} if isinstance(content, bytes) else {}
        storage = _properties({0x3707: name}, inner, {0x3705: 1 if inner else 5}, 8)
        if not inner:
            storage["__substg1.0_3701000D"] = _message(
                **{"html": "", "attachments": {}, **content}, header=24
            )
        tree[f"__attach_version1.0_#{number:08X}"] = storage
    return tree


def _properties(
    texts: Mapping[int, str], blobs: Mapping[int, bytes], numbers: Mapping[int, int], header: int
) -> Tree:
    tree: Tree = {}
    rows = [struct.pack("<HHIII", 3, pid, 0, value, 0) for pid, value in numbers.items()]
    for pid, text in texts.items():
        tree[f"__substg1.0_{pid:04X}001F"] = text.ljust(_LEAST // 2).encode("utf-16-le")
        rows.append(struct.pack("<HHIII", 0x1F, pid, 0, _LEAST, 0))
    for pid, blob in blobs.items():
        tree[f"__substg1.0_{pid:04X}0102"] = blob.ljust(_LEAST)
        rows.append(struct.pack("<HHIII", 0x102, pid, 0, _LEAST, 0))
    filler = struct.pack("<HHIII", 3, 0x7FFE, 0, 0, 0)
    tree["__properties_version1.0"] = (bytes(header) + b"".join(rows)) + filler * (_LEAST // 16)
    return tree


def _compound(tree: Tree) -> bytes:
    """Return a compound file (version 3) with these storages and streams."""
    entries: list[list[Any]] = [["Root Entry", 5, -1, -1, -1, 0, 0]]
    sectors: list[bytes] = []
    fat: list[int] = []

    def add(node: Tree) -> int:
        """Add the children of a storage as a chain of right siblings; return the first one's number."""
        first = previous = -1
        for name, content in sorted(node.items(), key=lambda item: (len(item[0]), item[0].upper())):
            number = len(entries)
            entries.append([name, 1 if isinstance(content, dict) else 2, -1, -1, -1, -2, 0])
            if isinstance(content, dict):
                entries[number][4] = add(content)
            else:
                data = content.ljust(_LEAST, b"\0")
                entries[number][5:] = [len(sectors), len(data)]
                count = -(-len(data) // _SECTOR)
                fat.extend([*range(len(sectors) + 1, len(sectors) + count), -2])
                sectors.extend(
                    data[i * _SECTOR : (i + 1) * _SECTOR].ljust(_SECTOR, b"\0") for i in range(count)
                )
            if previous < 0:
                first = number
            else:
                entries[previous][3] = number
            previous = number
        return first

    entries[0][4] = add(tree)
    entries[0][5] = -2
    rows = b"".join(_entry(*entry) for entry in entries)
    rows = rows.ljust(-(-len(rows) // _SECTOR) * _SECTOR, b"\0")
    directory = len(sectors)
    count = len(rows) // _SECTOR
    fat.extend([*range(directory + 1, directory + count), -2])
    sectors.extend(rows[i * _SECTOR : (i + 1) * _SECTOR] for i in range(count))
    tables = 1
    while len(fat) + tables > tables * 128:
        tables += 1
    table_places = list(range(len(sectors), len(sectors) + tables))
    fat.extend([-3] * tables)
    fat.extend([-1] * (tables * 128 - len(fat)))
    sectors.append(struct.pack(f"<{len(fat)}i", *fat))
    about = (0x3E, 3, 0xFFFE, 9, 6, 0, tables, directory, 0, _LEAST, -2, 0, -2, 0)
    header = struct.pack("<8s16xHHHHH6xIIiIIiIiI", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", *about)
    header += struct.pack("<109i", *table_places, *([-1] * (109 - tables)))
    return header + b"".join(sectors)


def _entry(name: str, kind: int, left: int, right: int, child: int, start: int, size: int) -> bytes:
    encoded = name.encode("utf-16-le") + b"\0\0"
    head = struct.pack("<64sHBBiii", encoded, len(encoded), kind, 1, left, right, child)
    return head + bytes(36) + struct.pack("<iQ", start, size)
