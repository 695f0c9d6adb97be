"""Files that were damaged on their way are read, or named with a reason, and cost the reader no memory."""

from __future__ import annotations

import random
import time

import psutil
import pytest
from retrieval_files import every_format

from chains.retrieval.errors import SourceError
from chains.retrieval.parsing import FileParser

MIB = 1024 * 1024
_TOKENS = (b"9999999", b"<<<<", b"((((", b"[[[[", b"\0\0\0\0", b"-1 0 R", b"&a;&a;", b"\xff\xfe")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return a copy with bits flipped, pieces cut out, repeated or replaced."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 8, 60))):
        at = chance.randrange(len(found)) if found else 0
        way = chance.randrange(4)
        if way == 0 and found:
            found[at] ^= 1 << chance.randrange(8)
        elif way == 1:
            del found[at : at + chance.randrange(1, 200)]
        elif way == 2:
            found[at:at] = found[at : at + chance.randrange(1, 300)] * chance.randrange(1, 4)
        else:
            token = chance.choice(_TOKENS)
            found[at : at + len(token)] = token
    return bytes(found)


@pytest.mark.parametrize(
    "count", [100, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_mutated_files_of_all_formats_are_read_or_named(count: int) -> None:
    chance = random.Random(count)
    files = every_format()
    parser = FileParser()
    read = named = 0
    memory = 0
    longest = 0.0
    try:
        for number in range(count):
            name = chance.choice(sorted(files))
            data = mutated(files[name], chance)
            begun = time.monotonic()
            try:
                assert parser.parse(f"/papers/{name}", data).text.strip()
                read += 1
            except SourceError as error:
                assert name in str(error)
                named += 1
            longest = max(longest, time.monotonic() - begun)
            if number == 20:
                memory = psutil.Process().memory_info().rss
    finally:
        parser.close()
    assert read + named == count and read > count // 4
    assert longest < 60
    assert psutil.Process().memory_info().rss - memory < 50 * MIB
