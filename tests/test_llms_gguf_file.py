"""GGUF headers that lie: each gives an error that names the file and the key or the tensor, at no cost."""

from __future__ import annotations

import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from cpu_sets import needs_kernels
from gguf_files import write_gguf

from llms.decoders.cpu.decoder import CpuDecoder
from llms.errors import DamagedCheckpoint, LLMError, ModelError, UnsupportedModel
from llms.models.gguf_file import GgufFile
from llms.models.gguf_model import GgufModel
from llms.models.gguf_tokenizer import LONGEST_TEMPLATE, end_ids, read_gguf_tokenizer
from llms.models.load import load
from llms.params import LoadSettings


@pytest.fixture(scope="module", name="whole")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, architecture="qwen2", intermediate_size=256, num_hidden_layers=1)
    return path.read_bytes()


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def header(tensors: bytes = b"", entries: bytes = b"", counts: tuple[int, int] = (0, 0)) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + entries + tensors + bytes(4096)


def tensor(name: str, shape: tuple[int, ...], kind: int, start: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, start)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "another magic": (b"GGML" + bytes(100), "GGUF file"),
    "nothing": (b"", "no bytes"),
    "only the magic": (b"GGUF", "version"),
    "many tensors": (header(counts=(2**63, 0)), "number of tensors"),
    "many entries": (header(counts=(0, 2**60)), "number of metadata entries"),
    "a long key": (header(entries=struct.pack("<Q", 2**40), counts=(0, 1)), "length of key 0"),
    "a long text": (
        header(entries=text("a.key") + struct.pack("<IQ", 8, 2**50), counts=(0, 1)), "a.key",
    ),
    "a text beyond the file": (
        header(entries=text("a.key") + struct.pack("<IQ", 8, 2**20), counts=(0, 1)), "a.key",
    ),
    "a long array": (
        header(entries=text("a.key") + struct.pack("<IIQ", 9, 4, 2**61), counts=(0, 1)), "a.key",
    ),
    "an array beyond the file": (
        header(entries=text("a.key") + struct.pack("<IIQ", 9, 4, 2**20), counts=(0, 1)), "a.key",
    ),
    "strings beyond the file": (
        header(entries=text("a.key") + struct.pack("<IIQ", 9, 8, 2**21), counts=(0, 1)), "a.key",
    ),
    "one long string in an array": (
        header(entries=text("a.key") + struct.pack("<IIQQ", 9, 8, 1, 2**63), counts=(0, 1)), "a.key",
    ),
    "an array of arrays": (
        header(entries=text("a.key") + struct.pack("<IIQ", 9, 9, 1), counts=(0, 1)), "a.key",
    ),
    "an unknown type": (header(entries=text("a.key") + struct.pack("<I", 77), counts=(0, 1)), "a.key"),
    "a key twice": (
        header(entries=2 * (text("a.key") + struct.pack("<IB", 0, 1)), counts=(0, 2)), "a.key",
    ),
    "five dimensions": (header(tensor("t", (1, 1, 1, 1, 1), 0, 0), counts=(1, 0)), "dimensions of 't'"),
    "no dimension": (header(tensor("t", (), 0, 0), counts=(1, 0)), "shape for 't'"),
    "a dimension of nothing": (header(tensor("t", (0, 4), 0, 0), counts=(1, 0)), "shape for 't'"),
    "a product that overflows": (header(tensor("t", (2**30, 2**30), 0, 0), counts=(1, 0)), "shape for 't'"),
    "a place beyond the file": (header(tensor("t", (4,), 0, 2**40), counts=(1, 0)), "'t' within the file"),
    "an end beyond the file": (header(tensor("t", (2**20,), 0, 0), counts=(1, 0)), "'t' within the file"),
    "a place that is not aligned": (header(tensor("t", (4,), 0, 3), counts=(1, 0)), "'t' at a multiple"),
    "half a block": (header(tensor("t", (100,), 12, 0), counts=(1, 0)), "multiple of 256"),
    "tensors that overlap": (
        header(tensor("t", (64,), 0, 0) + tensor("u", (64,), 0, 32), counts=(2, 0)), "overlap",
    ),
    "a tensor twice": (header(2 * tensor("t", (4,), 0, 0), counts=(2, 0)), "'t' twice"),
    "an alignment of 3": (
        header(entries=text("general.alignment") + struct.pack("<II", 4, 3), counts=(0, 1)), "alignment",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    data, what = HOSTILE[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint) as caught:
        GgufFile.open(path)
    assert "bad.gguf" in str(caught.value) and what in str(caught.value)


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.gguf"
    path.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))  # big-endian
    with pytest.raises(UnsupportedModel, match="version 2 or 3, little-endian"):
        GgufFile.open(path)


def changed(whole: bytes, key: str, change: Callable[[bytearray, int], None]) -> bytes:
    """Return a file in which the bytes after a key are changed."""
    data = bytearray(whole)
    change(data, whole.index(text(key)) + len(text(key)))
    return bytes(data)


def number(value: int) -> Callable[[bytearray, int], None]:
    def change(data: bytearray, at: int) -> None:
        data[at + 4 : at + 8] = struct.pack("<I", value)

    return change


LIES: dict[str, tuple[str, int]] = {
    "no heads": ("qwen2.attention.head_count", 0),
    "more heads of keys than heads": ("qwen2.attention.head_count_kv", 1000),
    "heads of keys that do not divide": ("qwen2.attention.head_count_kv", 3),
    "another width": ("qwen2.embedding_length", 512),
    "a huge width": ("qwen2.embedding_length", 2**32 - 1),
    "more layers": ("qwen2.block_count", 4000),
    "too many layers": ("qwen2.block_count", 2**31),
    "no context": ("qwen2.context_length", 0),
    "another inner width": ("qwen2.feed_forward_length", 999),
    "heads of another size": ("qwen2.attention.key_length", 128),
    "an end beyond the vocabulary": ("tokenizer.ggml.eos_token_id", 300),
}


@pytest.mark.parametrize("name", LIES)
def test_a_size_that_lies_is_refused(name: str, whole: bytes, tmp_path: Path) -> None:
    key, value = LIES[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(changed(whole, key, number(value)))
    with pytest.raises(ModelError, match=r"bad\.gguf"):
        load(LoadSettings(model=str(path), device="cpu", decoder="lean", cache_dir=tmp_path / "cache"))


@pytest.mark.parametrize("keep", [5, 60, 3_000, 9_000, -1, -70_000])
def test_a_file_cut_short_is_refused(keep: int, whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(whole[:keep] if keep > 0 else whole[: len(whole) + keep])
    with pytest.raises(DamagedCheckpoint, match=r"short\.gguf"):
        GgufModel.open(path)


def test_a_type_of_block_that_we_lack_is_named(whole: bytes, tmp_path: Path) -> None:
    data, name = bytearray(whole), text("blk.0.attn_output.weight")
    at = whole.index(name) + len(name) + 4 + 16
    data[at : at + 4] = struct.pack("<I", 19)
    path = tmp_path / "iq.gguf"
    path.write_bytes(data)
    with pytest.raises(UnsupportedModel, match=r"IQ1_S in tensor 'blk\.0\.attn_output\.weight'"):
        GgufModel.open(path)


def test_a_template_of_two_megabytes_is_refused(whole: bytes, tmp_path: Path) -> None:
    key = text("tokenizer.chat_template") + struct.pack("<I", 8)
    at = whole.index(key) + len(key)
    length = struct.unpack_from("<Q", whole, at)[0]
    huge = text("x" * (2 * LONGEST_TEMPLATE))
    data = whole[:at] + huge + bytes(-(len(huge) - 8 - length) % 32) + whole[at + 8 + length :]
    path = tmp_path / "huge.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError):
        file = GgufFile.open(path)
        read_gguf_tokenizer(file)


def mutated(whole: bytes, seed: int) -> bytes:
    """Return a file in which one to four places of the header are overwritten, or its end is missing."""
    chance, data = random.Random(seed), bytearray(whole)
    end = whole.index(b"blk.0.ffn_down") + 200
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(4, end)
        size = chance.choice((1, 1, 4, 8))
        value = chance.choice((0, 1, 2**8 - 1, 2**31, 2**32 - 1, 2**63 - 1, chance.getrandbits(64)))
        data[at : at + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    return bytes(data[: chance.randrange(len(data))] if chance.random() < 0.1 else data)


def run_mutations(whole: bytes, seeds: range, folder: Path) -> None:
    """Every mutation either runs or is refused with an error of ours; memory stays within 300 MB."""
    path, before = folder / "mutated.gguf", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ran = refused = 0
    for seed in seeds:
        path.write_bytes(mutated(whole, seed))
        try:
            model = GgufModel.open(path)
            read_gguf_tokenizer(model.file)
            end_ids(model.file)
            CpuDecoder(model, max_slots=1, window=64).prefill(0, [1, 2, 3])
            ran += 1
        except LLMError as error:
            assert "mutated.gguf" in str(error) or "that the CPU decoder serves" in str(error), (seed, error)
            refused += 1
    assert refused > len(seeds) // 4 and ran + refused == len(seeds)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


@needs_kernels
def test_a_hundred_mutations_crash_nothing(whole: bytes, tmp_path: Path) -> None:
    run_mutations(whole, range(100), tmp_path)


@needs_kernels
@pytest.mark.slow
def test_a_thousand_mutations_crash_nothing(whole: bytes, tmp_path: Path) -> None:
    run_mutations(whole, range(100, 1100), tmp_path)
