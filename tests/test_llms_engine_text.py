"""From tokens to text: stop strings, characters of several bytes, common beginnings."""

from __future__ import annotations

from llms.engine.prefix import common_prefix
from llms.engine.request import Detokenizer, StopScanner


def test_stop_strings_are_never_shown_even_in_part() -> None:
    scanner = StopScanner(["STOP", "\n\n"])
    shown = [scanner.push(text) for text in ("one S", "T", "OP two")]
    assert "".join(shown) == "one " and scanner.hit == "STOP"
    held = StopScanner(["STOP"])
    assert held.push("a ST") == "a " and held.push("AR") == "STAR" and held.flush() == ""
    assert held.push("x S") == "x " and held.flush() == "S"


def test_a_character_is_never_cut() -> None:
    data = "héllo 😀😀 日本".encode()

    def byte_text(ids: list[int]) -> str:
        return bytes(ids).decode(errors="replace")

    detokenizer = Detokenizer(byte_text, [*b"prompt: "])
    parts = [detokenizer.push(byte) for byte in data]
    assert "".join(parts) + detokenizer.flush() == data.decode()
    assert all("\ufffd" not in part for part in parts)
    broken = Detokenizer(byte_text)
    assert [broken.push(b) for b in "😀".encode()[:2]] == ["", ""] and broken.flush() == ""


def test_common_prefix() -> None:
    assert common_prefix([1, 2, 3], [1, 2, 4]) == 2
    assert common_prefix([], [1]) == 0 and common_prefix([5], [5]) == 1
