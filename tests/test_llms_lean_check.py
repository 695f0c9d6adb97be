"""Compiled code is tried before it is trusted: what computes something else is found and not used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lean_models import Q4, model_of
from lean_sets import every_set, needs_code

from llms.lean import check as lean_check
from llms.lean import compiler as lean_compiler
from llms.lean.check import checked, computes
from llms.lean.compiler import SETS, code, sets
from llms.lean.decoder import LeanDecoder

BY_NAME = {one.name: one for one in SETS}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Leave no other source's code behind."""
    yield
    code.cache_clear()
    checked.cache_clear()


@every_set()
def test_what_the_source_says_computes(instructions: str) -> None:
    compiled = code(BY_NAME[instructions])
    assert compiled is not None and computes(compiled.lean_pass)


WRONG = {
    "one number of rows": (
        "product.h",
        "store(out + t * stride, total[t])",
        "store(out + t * stride, T == MOST - 1 && t == T - 1 ? all(0) : total[t])",
    ),
    "offsets of 4 bits": ("product.h", "sums[at] = scales[at] * float(total)", "sums[at] = 0"),
    "signs of 8 bits": ("avx2.h", "_mm256_cvtepi8_epi16", "_mm256_cvtepu8_epi16"),
    "odd columns of 16 bits": ("widened.h", "fma(x.odd, weights.odd,", "fma(x.even, weights.odd,"),
    "heads of 96": ("kernels.cpp", "case 3: score<3>", "case 3: score<2>"),
    "what is divided by": ("kernels.cpp", "over(sum[w], all(total))", "sum[w]"),
}


SAMPLE = ("one number of rows", "odd columns of 16 bits")
"""Of the things that go wrong, what the fast suite compiles: 2 s of CPU each."""


@needs_code
@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=() if what in SAMPLE else pytest.mark.slow) for what in WRONG]
)
def test_code_that_computes_something_else_is_not_used(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source with one thing wrong stands for a compiler that gets it wrong."""
    sources = (lean_compiler.SOURCE, *lean_compiler.SOURCE.parent.glob("*.h"))
    texts = {path.name: path.read_text() for path in sources}
    file, right, wrong = WRONG[what]
    assert texts[file].count(right) >= 1
    texts[file] = texts[file].replace(right, wrong)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(lean_compiler, "SOURCE", tmp_path / "kernels.cpp")
    monkeypatch.setattr(lean_compiler, "OPTIONS", ("-O1", *lean_compiler.OPTIONS[1:]))
    monkeypatch.setattr(lean_check, "code", lambda one: code(one, tmp_path / "kernels"))
    checked.cache_clear()
    assert checked("AVX2") == "what the compiler made computes something else"
    assert "; no machine code: what the compiler made computes something else)" in (
        LeanDecoder(model_of(Q4), instructions="AVX2").describe()
    )


@needs_code
def test_the_next_set_is_taken_where_the_best_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    if len(sets()) < 2:
        pytest.skip("a CPU with one set")
    good = lean_check.computes
    tried: list[Any] = []

    def second(run: Any) -> bool:
        tried.append(run)
        return len(tried) == 2 and good(run)

    monkeypatch.setattr(lean_check, "computes", second)
    checked.cache_clear()
    found = checked()
    assert not isinstance(found, str) and found[0] is sets()[1]
