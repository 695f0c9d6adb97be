"""A checkpoint folder in the cache: written whole or not at all, one writer at a time, damage noticed.

Knows files, sizes, hashes, locks and disk space. Refuses to know models, tensors and the network.

A folder is built under another name beside its place (`staging`), gets a manifest with the size and SHA-256
of every file, is flushed to the disk and renamed into place. So a folder without its manifest was never
finished, and a kill at any moment leaves a `*.partial` folder that the next writer, which holds the lock,
removes. Sizes are checked at every start (cheap); hashes when a load failed or somebody asks.

What a checkpoint folder says about itself, read as data before anything of it is trusted.

Knows config.json, the headers of safetensors files and which tokenizer files there are. Refuses to import or
run anything that a checkpoint names, and to know torch: pickles, code beside the weights and kernels fetched
by name (CVE-2026-4372: a config.json alone got code to run, with `trust_remote_code` off) are refused here.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llms.errors import CacheNotWritable, DamagedCheckpoint, NoSpace, UnsupportedModel

MANIFEST = "manifest.json"
PARTIAL = ".partial"
Notify = Callable[[str], None]
"""Takes one line for the user; the caller decides where it goes (the command line: stderr)."""


def silent(_line: str) -> None:
    """Drop a notice."""


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Return the bytes that the files under a folder hold, links not followed; 0 where there is none."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def size_text(count: int) -> str:
    """Return a number of bytes as people read it: `14.5 GB`, `92.9 MB`, `462 kB`."""
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.0f} kB"


def manifest(folder: Path) -> dict[str, Any] | None:
    """Read a folder's manifest; None where there is none or it is not readable JSON."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def damage(folder: Path, *, hashes: bool = False) -> str | None:
    """Tell what is wrong with a checkpoint that has a manifest, in words; None when nothing is.

    Args:
        folder: The checkpoint.
        hashes: Compare the content of every file as well as its size (reads everything).
    """
    found = manifest(folder)
    if found is None:
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in found["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["size"]:
            return f"{name} has {size:,} bytes, expected {expected['size']:,}"
        if hashes and sha256_file(path) != expected["sha256"]:
            return f"{name} does not have the SHA-256 {expected['sha256'][:12]}… that was recorded for it"
    return None


def verify(folder: Path) -> None:
    """Compare every file of a checkpoint with its manifest, content included.

    Raises:
        DamagedCheckpoint: A file is missing, has another size, or other bytes.
    """
    if problem := damage(folder, hashes=True):
        raise DamagedCheckpoint(
            f"the checkpoint {str(folder)!r} is damaged: {problem}; delete the folder, the next start makes "
            "it anew"
        )


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write under a folder into this package's errors.

    Raises:
        NoSpace: The disk, a quota or a file-size limit is full.
        CacheNotWritable: No permission, a read-only disk, or a file stands where a folder must be.
    """
    try:
        yield
    except Exception as error:
        code = _errno(error)
        if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise NoSpace(_no_space(where)) from error
        if code in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}:
            raise CacheNotWritable(
                f"expected a cache folder that can be written, found {str(where)!r} refused ({error}); make "
                "it writable, or name another one with AGENT_CACHE_DIR or cache_dir="
            ) from error
        raise


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors writes in Rust and reports the operating system's number in the text alone.
    text = str(error)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if f"(os error {code})" in text or f"Errno {code}]" in text:
            return code
    return None


def _no_space(where: Path) -> str:
    existing = next((parent for parent in (where, *where.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    return (
        f"the disk is full: writing under {str(where)!r} failed with {free / 1e6:,.0f} MB free; what was "
        "half written is removed. Free some space, or name another folder with AGENT_CACHE_DIR or cache_dir="
    )


def require_space(where: Path, needed: int, what: str) -> None:
    """Refuse before starting what the disk has no room for.

    Args:
        where: The folder to write into; it need not exist yet.
        needed: Bytes to be written.
        what: What would be written, for the message.

    Raises:
        NoSpace: Less than `needed` is free.
    """
    existing = next((parent for parent in (where, *where.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise NoSpace(
            f"{what} needs {needed / 1e9:.2f} GB on the disk of {str(where)!r}, found {free / 1e9:.2f} GB "
            "free; free some space, or name another folder with AGENT_CACHE_DIR or cache_dir="
        )


@contextmanager
def locked(target: Path, notify: Notify = silent, timeout_s: float = 3600.0) -> Iterator[None]:
    """Hold the lock of a cache folder, across processes and threads; a dead holder's is freed by the kernel.

    Args:
        target: The folder that will be written; the lock lies beside it.
        notify: Told once when another process holds the lock.
        timeout_s: How long to wait for the other one, in seconds.

    Raises:
        CacheNotWritable: The cache cannot be written, or the other process did not finish in time.
    """
    path = target.with_name(f"{target.name}.lock")
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            notify(f"another process is preparing {target.name}; waiting for it")
            try:
                lock.acquire(timeout=timeout_s)
            except Timeout as error:
                raise CacheNotWritable(
                    f"expected the process that holds {str(path)!r} to finish within {timeout_s:g} s, it did "
                    "not; end it, then start again"
                ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(target: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Give a folder to build a checkpoint in, and put it in its place when the block ends without an error.

    The caller holds the target's lock. What stood at the target is replaced only by a finished folder.

    Args:
        target: Where the checkpoint belongs.
        facts: What its manifest says beside the files: source, settings, versions.

    Raises:
        NoSpace: The disk is full; nothing half-written stays.
        CacheNotWritable: The folder cannot be written.
    """
    part = target.with_name(target.name + PARTIAL)
    with disk_errors(target.parent):
        _remove(part)
        part.mkdir(parents=True)
        try:
            yield part
            _write_manifest(part, facts)
            _flush(part)
            old = target.with_name(target.name + ".old")
            _remove(old)
            if target.exists():
                target.rename(old)
            part.rename(target)
            _flush_folder(target.parent)
            _remove(old)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({**facts, "files": files}, indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)  # safetensors writes 0600, and a cache may be shared by several users
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Keys that make transformers fetch and run code, or that let a checkpoint speak for its user.
_CODE_KEYS = {"auto_map", "trust_remote_code", "custom_generate", "custom_pipelines"}
_KERNEL_KEYS = {
    "_attn_implementation",
    "_attn_implementation_internal",
    "attn_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "experts_implementation",
}
_ITEM_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
}
_NAME_BYTES = 100_000_000  # safetensors' own limit on the header


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A stored tensor: its name, shape and safetensors dtype name."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Return the number of its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A checkpoint folder as data.

    Attributes:
        folder: The folder.
        config: config.json.
        tensors: Every stored tensor.
        weight_bytes: Size of the weights' files in bytes.
        tokenizer: Whether the folder has a tokenizer.
        chat_template: Whether it has a chat template.
    """

    folder: Path
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]
    weight_bytes: int
    tokenizer: bool
    chat_template: bool

    @property
    def architecture(self) -> str:
        """Return the name of the model's class."""
        return str((self.config.get("architectures") or [""])[0])

    @property
    def parameters(self) -> int:
        """Return the number of weights; tied ones count once, packed 4-bit ones as what they stand for."""
        if self.stored_quantization is None:
            return sum(tensor.elements for tensor in self.tensors)
        return sum(_unpacked(tensor) for tensor in self.tensors)

    @property
    def context(self) -> int:
        """Return the longest sequence that the model was made for, in tokens."""
        return int(self.config.get("max_position_embeddings") or 2048)

    @property
    def sliding_window(self) -> int | None:
        """Return how far back attention reaches, in tokens; None for all the way."""
        window = self.config.get("sliding_window")
        return int(window) if window and self.config.get("use_sliding_window", True) else None

    @property
    def stored_dtype(self) -> str:
        """Return the dtype that most weights are stored in, as torch names it."""
        amounts: dict[str, int] = {}
        for tensor in self.tensors:
            amounts[tensor.dtype] = amounts.get(tensor.dtype, 0) + tensor.elements
        most = max(amounts, key=lambda name: amounts[name], default="BF16")
        return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")

    @property
    def stored_quantization(self) -> str | None:
        """Return "nf4", "fp4" or "int8" for a checkpoint that bitsandbytes has quantized already."""
        settings = self.config.get("quantization_config")
        if not settings:
            return None
        if settings.get("load_in_4bit"):
            return str(settings.get("bnb_4bit_quant_type", "fp4"))
        return "int8"

    @property
    def linears(self) -> Iterator[Tensor]:
        """Iterate over the matrices that quantization packs: all but embeddings and the output head."""
        for tensor in self.tensors:
            if len(tensor.shape) == 2 and tensor.name.endswith("proj.weight"):
                yield tensor


def read(folder: Path) -> Facts:
    """Read a checkpoint folder and refuse what must not or cannot be loaded.

    Args:
        folder: A folder as `save_pretrained` writes it.

    Raises:
        DamagedCheckpoint: config.json or a weights file is missing, cut short or malformed.
        UnsupportedModel: Only pickles, code in the configuration, no tokenizer-independent decoder, or a
            quantization that is not bitsandbytes'.
    """
    config = _json(folder / "config.json")
    check_config(config, str(folder / "config.json"))
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file():
            check_config(_json(folder / name), str(folder / name))
    _check_quantization(config, folder)
    files = weight_files(folder)
    tensors = tuple(tensor for file in files for tensor in _tensors(file))
    return Facts(
        folder=folder,
        config=config,
        tensors=tensors,
        weight_bytes=sum(file.stat().st_size for file in files),
        tokenizer=any((folder / name).is_file() for name in TOKENIZERS),
        chat_template=_has_template(folder),
    )


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuse a configuration that asks for code, and an architecture that is no decoder.

    Args:
        config: The parsed JSON of config.json, tokenizer_config.json or generation_config.json.
        where: How to name the file in the message.

    Raises:
        UnsupportedModel: It names code or a kernel to fetch, or an architecture other than a causal decoder.
    """
    for key, value in _walk(config):
        kernel = key in _KERNEL_KEYS and isinstance(value, str) and "/" in value
        if kernel or (key in _CODE_KEYS and value):
            raise UnsupportedModel(
                f"refused {where!r}: it asks for code to be run (found {key}={value!r}), which this program "
                "never does; take a model whose architecture transformers ships, or a copy without that key"
            )
    architectures = config.get("architectures")
    if architectures and not any(
        str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in architectures
    ):
        raise UnsupportedModel(
            f"expected a decoder-only language model (…ForCausalLM), found architectures={architectures!r} "
            f"in {where!r}; take a text-generation model"
        )


def weight_files(folder: Path) -> list[Path]:
    """List a checkpoint's safetensors files.

    Raises:
        DamagedCheckpoint: A file that the index names is missing, or there are no weights at all.
        UnsupportedModel: There are only pickles.
    """
    if (folder / INDEX).is_file():
        named = _json(folder / INDEX).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise DamagedCheckpoint(_damaged(folder / INDEX, "it has no weight_map"))
        files = [folder / name for name in sorted(set(named.values()))]
        outside = [file for file in files if file.parent != folder]
        missing = [file.name for file in files if not file.is_file()]
        if outside or missing:
            wrong = f"it names files outside the folder: {outside!r}" if outside else f"missing: {missing!r}"
            raise DamagedCheckpoint(_damaged(folder / INDEX, wrong))
        return files
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise UnsupportedModel(
            f"expected safetensors weights in {str(folder)!r}, found only pickles "
            f"({', '.join(pickles[:3])}), which can run code when opened; take a repository or revision that "
            "has model.safetensors"
        )
    raise DamagedCheckpoint(_damaged(folder, f"no {WEIGHTS} and no {INDEX}"))


def _tensors(file: Path) -> Iterator[Tensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, _NAME_BYTES):
            raise DamagedCheckpoint(_damaged(file, f"{size:,} bytes, too short for its header"))
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DamagedCheckpoint(_damaged(file, f"its header is not safetensors': {error}")) from error
    if size != 8 + length + end:
        raise DamagedCheckpoint(_damaged(file, f"{size:,} bytes, expected {8 + length + end:,}"))
    for name, entry in entries.items():
        yield Tensor(name=name, shape=tuple(entry["shape"]), dtype=entry["dtype"])


def _unpacked(tensor: Tensor) -> int:
    if tensor.dtype == "U8" and tensor.name.endswith(".weight"):
        return 2 * tensor.elements
    side = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", "bitsandbytes__nf4")
    return (
        0 if tensor.name.endswith((*side, "bitsandbytes__fp4", ".SCB", ".weight_format")) else tensor.elements
    )


def item_bytes(dtype: str) -> int:
    """Return the size of one element of a safetensors dtype, in bytes."""
    return _ITEM_BYTES.get(dtype, 1)


def _check_quantization(config: dict[str, Any], folder: Path) -> None:
    settings = config.get("quantization_config")
    if not settings:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    four_or_eight = isinstance(settings, dict) and (
        settings.get("load_in_4bit") or settings.get("load_in_8bit")
    )
    if method not in ("bitsandbytes", None) or not four_or_eight:
        raise UnsupportedModel(
            f"expected unquantized weights or bitsandbytes' 4 or 8 bits, found quant_method={method!r} in "
            f"{str(folder)!r}; take the original repository, it is quantized here"
        )


def _has_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(_json(path).get("chat_template"))


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DamagedCheckpoint(_damaged(path.parent, f"{path.name} is missing")) from None
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(_damaged(path, str(error))) from error
    if not isinstance(found, dict):
        raise DamagedCheckpoint(_damaged(path, f"a JSON object was expected, found {type(found).__name__}"))
    return found


def _damaged(path: Path, reason: str) -> str:
    return (
        f"expected a whole checkpoint, found {str(path)!r} unusable: {reason}; fetch it again "
        f"(`agent models pull NAME`), or copy the missing file"
    )
