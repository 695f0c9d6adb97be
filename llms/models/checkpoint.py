"""Checkpoint folders: read as data before anything in them is trusted, and written whole or not at all.

`Checkpoint.open` reads config.json and the headers of the safetensors files, and refuses what must not or
cannot be loaded. Nothing that a checkpoint names is imported or run: pickles, code next to the weights and
kernels fetched by name are refused (CVE-2026-4372: a config.json alone ran code with `trust_remote_code`
off).

    >>> from pathlib import Path
    >>> from llms.models.checkpoint import Checkpoint
    >>> checkpoint = Checkpoint.open(Path("SmolLM2-135M"))  # doctest: +SKIP
    >>> checkpoint.architecture, checkpoint.parameters      # doctest: +SKIP
    ('LlamaForCausalLM', 134515008)

A folder in the cache is built under another name next to its place (`staging`), gets a manifest with the size
and SHA-256 of every file, is flushed to the disk, and is renamed into place. A folder without its manifest
was therefore never finished, and a kill at any moment leaves a `*.partial` folder, which the next writer
removes while it holds the lock. Sizes are checked at every start, which is cheap; hashes are checked when a
load has failed or when the caller asks.

Importing this module does not import torch.
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
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from llms.errors import CacheNotWritable, DamagedCheckpoint, NoSpace, UnsupportedModel

if TYPE_CHECKING:
    from torch import Tensor

    from llms.models.gguf_model import GgufModel

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MANIFEST = "manifest.json"
PARTIAL = ".partial"
GGUF = "gguf"
"""The quantization of a GGUF file, whose matrices may have different types."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")

_CODE_KEYS = {"auto_map", "trust_remote_code", "custom_generate", "custom_pipelines"}
"""Keys that make transformers fetch and run code, or that consent to it in the user's name."""
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
_MAX_HEADER_BYTES = 100_000_000
"""safetensors' own limit."""
_QUANTIZATION_STATE = (
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    "bitsandbytes__nf4",
    "bitsandbytes__fp4",
    ".SCB",
    ".weight_format",
)
"""Ends of the names under which bitsandbytes stores scales and code books."""

Notify = Callable[[str], None]
"""Receives one line for the user; the caller decides where it is shown (the command line: stderr)."""


Progress = Callable[[str, int, int], None]
"""Receives the progress of a download: what is fetched, bytes so far, bytes in total."""


def silent(_line: str) -> None:
    """Drop a notice."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Drop a progress report."""


# ---- Reading ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """Name, shape and safetensors dtype of a stored tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """Return the number of its elements."""
        return math.prod(self.shape)

    @property
    def weights(self) -> int:
        """Return the number of weights that it encodes: two a byte in a matrix stored in 4 bits."""
        if self.name.endswith(_QUANTIZATION_STATE):
            return 0
        return 2 * self.elements if self.dtype == "U8" and self.name.endswith(".weight") else self.elements

    @property
    def item_bytes(self) -> int:
        """Return the size of one element in bytes."""
        return _ITEM_BYTES.get(self.dtype, 1)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint folder, described by its configuration and the headers of its weights.

    Attributes:
        folder: The folder.
        config: The content of config.json.
        headers: Every stored tensor.
        weight_bytes: Size of the weight files in bytes.
        tokenizer: Whether the folder has a tokenizer.
        chat_template: Whether it has a chat template.
        gguf: The model of a GGUF file, which is then the `folder`; None for a folder.
    """

    folder: Path
    config: dict[str, Any]
    headers: tuple[TensorHeader, ...]
    weight_bytes: int
    tokenizer: bool
    chat_template: bool
    gguf: GgufModel | None = None

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read a folder as `save_pretrained` writes it; refuse what must not or cannot be loaded.

        Raises:
            DamagedCheckpoint: config.json or a weight file is missing, cut short or malformed.
            UnsupportedModel: Only pickles, code in the configuration, an architecture that is not a causal
                decoder, or a quantization other than bitsandbytes'.
        """
        config = _json(folder / "config.json")
        check_config(config, str(folder / "config.json"))
        for name in ("tokenizer_config.json", "generation_config.json"):
            if (folder / name).is_file():
                check_config(_json(folder / name), str(folder / name))
        _check_quantization(config, folder)
        files = weight_files(folder)
        return cls(
            folder=folder,
            config=config,
            headers=tuple(header for file in files for header in _headers(file)),
            weight_bytes=sum(file.stat().st_size for file in files),
            tokenizer=any((folder / name).is_file() for name in TOKENIZERS),
            chat_template=_has_template(folder),
        )

    @classmethod
    def of_gguf(cls, path: Path) -> Checkpoint:
        """Describe a GGUF file that is read in place.

        Raises:
            DamagedCheckpoint: The file is cut short or contradicts itself.
            UnsupportedModel: Its architecture or a type of its blocks cannot be read in place.
            OSError: It cannot be read.
        """
        from llms.models.gguf_model import GgufModel

        model = GgufModel.open(path)
        return cls(
            folder=path,
            config=dict(model.config),
            headers=tuple(
                TensorHeader(name=name, shape=tensor.shape, dtype=tensor.type)
                for name, tensor in model.tensors.items()
            ),
            weight_bytes=path.stat().st_size,
            tokenizer=True,
            chat_template="tokenizer.chat_template" in model.file.metadata,
            gguf=model,
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the stored tensors by name. They lie in the mapped file and take memory once they are read.

        Raises:
            DamagedCheckpoint: A file is missing.
            OSError, safetensors.SafetensorError: A file has changed since the checkpoint was opened.
        """
        from safetensors import safe_open

        found: dict[str, Tensor] = {}
        for file in weight_files(self.folder):
            with safe_open(file, "pt") as stream:
                found |= {name: stream.get_tensor(name) for name in stream.keys()}
        return found

    @property
    def architecture(self) -> str:
        """Return the name of the model's class; empty if config.json names none."""
        return str((self.config.get("architectures") or [""])[0])

    @property
    def parameters(self) -> int:
        """Return the number of weights. Tied ones count once; packed 4-bit ones count as what they encode."""
        if self.stored_quantization is None:
            return sum(header.elements for header in self.headers)
        return sum(header.weights for header in self.headers)

    @property
    def context(self) -> int:
        """Return the longest sequence that the model was made for, in tokens."""
        return int(self.config.get("max_position_embeddings") or 2048)

    @property
    def sliding_window(self) -> int | None:
        """Return how many tokens back attention reaches; None if it reaches all of them."""
        window = self.config.get("sliding_window")
        return int(window) if window and self.config.get("use_sliding_window", True) else None

    @property
    def stored_dtype(self) -> str:
        """Return the dtype that most weights are stored in, by torch's name."""
        amounts: dict[str, int] = {}
        for header in self.headers:
            amounts[header.dtype] = amounts.get(header.dtype, 0) + header.elements
        most = max(amounts, key=lambda name: amounts[name], default="BF16")
        return {"F32": "float32", "F16": "float16"}.get(most, "bfloat16")

    @property
    def stored_quantization(self) -> str | None:
        """Return "nf4", "fp4" or "int8" if bitsandbytes quantized it, "gguf" for a GGUF file, else None."""
        if self.gguf is not None:
            return GGUF
        settings = self.config.get("quantization_config")
        if not settings:
            return None
        if settings.get("load_in_4bit"):
            return str(settings.get("bnb_4bit_quant_type", "fp4"))
        return "int8"

    @property
    def linears(self) -> Iterator[TensorHeader]:
        """Iterate over the matrices that quantization packs: all but the embedding and the output head."""
        for header in self.headers:
            if len(header.shape) == 2 and header.name.endswith("proj.weight"):
                yield header


def check_config(config: dict[str, Any], where: str) -> None:
    """Refuse a configuration that asks for code, or an architecture that is not a causal decoder.

    Args:
        config: The parsed JSON of config.json, tokenizer_config.json or generation_config.json.
        where: The name of the file in the message.

    Raises:
        UnsupportedModel: It names code or a kernel to fetch, or an architecture that is not a causal decoder.
    """
    for key, value in _walk(config):
        kernel = key in _KERNEL_KEYS and isinstance(value, str) and "/" in value
        if kernel or (key in _CODE_KEYS and value):
            raise UnsupportedModel(
                f"refused {where!r}: it asks for code to be run (found {key}={value!r}), which never "
                "happens here; take a model whose architecture transformers ships, or a copy without that key"
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
    """Return a checkpoint's safetensors files.

    Raises:
        DamagedCheckpoint: A file that the index names is missing, or there are no weights.
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


def _headers(file: Path) -> Iterator[TensorHeader]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise DamagedCheckpoint(_damaged(file, f"{size:,} bytes, too short for its header"))
        try:
            header = json.loads(stream.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise DamagedCheckpoint(
                _damaged(file, f"the header is not one of safetensors: {error}")
            ) from error
    if size != 8 + length + end:
        raise DamagedCheckpoint(_damaged(file, f"{size:,} bytes, expected {8 + length + end:,}"))
    for name, entry in entries.items():
        yield TensorHeader(name=name, shape=tuple(entry["shape"]), dtype=entry["dtype"])


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
        "(`llms.models.pull(NAME)`), or copy the missing file"
    )


# ---- Integrity ----------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_bytes(folder: Path) -> int:
    """Return the size of the files under a folder, links not followed; 0 if there is no folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def size_text(count: int) -> str:
    """Return a number of bytes for people: `14.5 GB`, `92.9 MB`, `462 kB`.

    >>> size_text(92_871_040)
    '92.9 MB'
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1000:.0f} kB"


def manifest(folder: Path) -> dict[str, Any] | None:
    """Return a folder's manifest; None if there is none or it is not readable JSON."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else None


def damage(folder: Path, *, hashes: bool = False) -> str | None:
    """Return what is wrong with a checkpoint that has a manifest; None if nothing is.

    Args:
        folder: The checkpoint.
        hashes: Compare the content of every file as well as its size. This reads every byte.
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
    """Compare every file of a checkpoint with its manifest, including the content.

    Raises:
        DamagedCheckpoint: A file is missing or has another size or content.
    """
    if problem := damage(folder, hashes=True):
        raise DamagedCheckpoint(
            f"the checkpoint {str(folder)!r} is damaged: {problem}; delete the folder, the next start makes "
            "it again"
        )


# ---- Writing ----------------------------------------------------------------------


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Translate the operating system's refusals to write under a folder into this package's errors.

    Raises:
        NoSpace: The disk, a quota or a file-size limit is full.
        CacheNotWritable: No permission, a read-only disk, or a file in the place of a folder.
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
                "it writable, or give another one as cache_dir= or in AGENT_CACHE_DIR"
            ) from error
        raise


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors is written in Rust and reports the operating system's error number only in its text.
    text = str(error)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if f"(os error {code})" in text or f"Errno {code}]" in text:
            return code
    return None


def _no_space(where: Path) -> str:
    existing = next((parent for parent in (where, *where.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    return (
        f"the disk is full: writing under {str(where)!r} failed with {free / 1e6:,.0f} MB free; the "
        "unfinished files are removed. Free some space, or give another folder as cache_dir= or in "
        "AGENT_CACHE_DIR"
    )


def require_space(where: Path, needed: int, what: str) -> None:
    """Refuse to start writing if the disk has less free space than that takes.

    Args:
        where: The folder to write into; it need not exist yet.
        needed: Bytes to be written.
        what: The subject of the message.

    Raises:
        NoSpace: Fewer than `needed` bytes are free.
    """
    existing = next((parent for parent in (where, *where.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise NoSpace(
            f"{what} needs {needed / 1e9:.2f} GB on the disk of {str(where)!r}, found {free / 1e9:.2f} GB "
            "free; free some space, or give another folder as cache_dir= or in AGENT_CACHE_DIR"
        )


@contextmanager
def locked(target: Path, notify: Notify = silent, timeout_s: float = 3600.0) -> Iterator[None]:
    """Hold the lock of a cache folder against other processes and threads; the kernel frees a dead holder's.

    Args:
        target: The folder that will be written; the lock file lies next to it.
        notify: Called once if another process holds the lock.
        timeout_s: How long to wait for the other process, in seconds.

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
                    f"expected the process that holds {str(path)!r} to finish within {timeout_s:g} s, found "
                    "it still running; end it, then start again"
                ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(target: Path, facts: Mapping[str, Any]) -> Iterator[Path]:
    """Yield a folder to build a checkpoint in, and move it into place if the block ends without an error.

        >>> with locked(target), staging(target, {"model": "tiny"}) as folder:  # doctest: +SKIP
        ...     model.save_pretrained(folder)

    The caller holds the target's lock. Only a finished folder replaces the old one.

    Args:
        target: The checkpoint's place.
        facts: What the manifest says in addition to the files: source, settings, versions.

    Raises:
        NoSpace: The disk is full; no unfinished file stays.
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
            path.chmod(0o644)  # safetensors writes 0600, and several users may share a cache
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
