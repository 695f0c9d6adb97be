"""FolderCache: bounded in bytes, evicts the least recently used, safe with several processes."""

from __future__ import annotations

import os
from pathlib import Path

from chains.summarize.cache import PRUNE_SHARE, STALE_S, FolderCache, cache_key


def aged(cache: FolderCache, name: str, age_s: float) -> None:
    """Set the time since a value was last used."""
    path = cache.folder / f"{name}.json"
    then = path.stat().st_mtime - age_s
    os.utime(path, (then, then))


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path / "kept", max_bytes=350)
    for index, name in enumerate("abc"):
        cache[name] = name * 100
        aged(cache, name, 1000 - index)
    assert cache["a"] == "a" * 100  # reading it makes it more recent than b and c
    cache["d"] = "d" * 100
    assert set(cache) == {"a", "c", "d"}
    cache["e"] = "e" * 100
    assert set(cache) == {"a", "d", "e"}


def test_a_folder_that_grew_too_large_is_cut_at_the_next_run_s_first_write(tmp_path: Path) -> None:
    roomy = FolderCache(tmp_path)
    for index in range(40):
        roomy[f"k{index:02}"] = "x" * 1000
        aged(roomy, f"k{index:02}", 4000 - index)
    assert len(roomy) == 40
    tight = FolderCache(tmp_path, max_bytes=10_000)
    assert tight["k05"] == "x" * 1000
    tight["new"] = "y"
    assert set(tight) == {"new", "k05", *(f"k{index}" for index in range(32, 40))}


def test_the_bound_holds_however_much_is_written(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, max_bytes=20_000)
    for index in range(200):
        cache[cache_key(index)] = "z" * 500
        assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= 20_000 * (1 + 1 / PRUNE_SHARE) + 1000
    assert len(cache) > 30


def test_the_value_just_written_stays_even_where_it_is_larger_than_all(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, max_bytes=100)
    cache["small"] = "s"
    cache["large"] = "l" * 1000
    assert set(cache) == {"large"} and cache["large"] == "l" * 1000
    cache["next"] = "n" * 90
    assert set(cache) == {"next"}


def test_what_the_killed_left_half_written_goes_too(tmp_path: Path) -> None:
    for name, age_s in (("old.1.part", STALE_S + 60), ("new.2.part", 0.0)):
        (tmp_path / name).write_text("half")
        then = (tmp_path / name).stat().st_mtime - age_s
        os.utime(tmp_path / name, (then, then))
    FolderCache(tmp_path)["k"] = "v"
    assert {path.name for path in tmp_path.iterdir()} == {"k.json", "new.2.part"}


def test_another_process_may_delete_what_is_looked_at(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path, max_bytes=10)
    cache["a"] = "a" * 20
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    cache["b"] = "b" * 20
    assert cache["b"] == "b" * 20 and "a" not in cache
