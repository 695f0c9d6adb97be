"""4-bit checkpoints: a model is quantized once, kept in the cache, and loaded from there from then on.

Knows where they lie and what makes one valid: the source's revision or content, the quantization settings and
the version of bitsandbytes. Refuses to know how weights are read (`llms.models.weights`). For Mistral-7B
on an H100 that is 1.7 s instead of minutes.

Reading a checkpoint folder with transformers: the model and its tokenizer, never code, never the network.

Knows `from_pretrained` and BitsAndBytesConfig. Refuses to know names, caches and choices: it gets a folder
whose `Facts` have been checked. A missing or misshapen tensor is an error here; transformers alone would
fill it with random numbers and answer with garbage.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llms.errors import (
    DamagedCheckpoint,
    MachineError,
    NotEnoughMemory,
    QuantizationUnavailable,
    UnsupportedModel,
)
from llms.models.catalog import SMALL, Source
from llms.models.checkpoint import (
    TOKENIZERS,
    Facts,
    Notify,
    damage,
    locked,
    manifest,
    read,
    require_space,
    staging,
    weight_files,
)
from llms.models.memory import weight_bytes
from llms.quiet import quiet
from llms.tokenizer import PLAIN_CLASSES

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

_RECIPE = 1  # raise it when what is written changes


def quantized_path(source: Source, facts: Facts, quantization: str, dtype: str, cache: Path) -> Path:
    """Return where the 4-bit checkpoint of a source belongs, whether or not it is there."""
    key = {
        "source": _identity(source, facts),
        "quantization": quantization,
        "dtype": dtype,
        "double_quantization": True,
        "bitsandbytes": _version(quantization),
        "recipe": _RECIPE,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache / "quantized" / f"{slug(source)}-{quantization}-{digest[:10]}"


def keeps(facts: Facts, quantization: str, wish: bool | None) -> bool:
    """Tell whether a 4-bit checkpoint of a model is kept: as wished, else from a billion parameters on."""
    if facts.stored_quantization is not None or quantization not in ("nf4", "fp4"):
        return False
    return facts.parameters >= SMALL if wish is None else wish


def is_kept(source: Source, facts: Facts, quantization: str, dtype: str, cache: Path) -> bool:
    """Tell whether a source's 4-bit checkpoint is in the cache, whole."""
    return damage(quantized_path(source, facts, quantization, dtype, cache)) is None


def kept(source: Source, cache: Path) -> list[Path]:
    """List a source's 4-bit checkpoints in the cache, sorted; of its names' longer cousins none."""
    own = re.compile(re.escape(slug(source)) + r"-(nf4|fp4)-[0-9a-f]{10}")
    found = (cache / "quantized").glob("*")
    return sorted(path for path in found if path.is_dir() and own.fullmatch(path.name))


def slug(source: Source) -> str:
    """Return a source's name as one path component."""
    return source.name.replace("/", "--")


def quantized_weights(
    source: Source,
    facts: Facts,
    quantization: str,
    dtype: str,
    device: str,
    cache: Path,
    notify: Notify,
) -> PreTrainedModel:
    """Load a model in 4 bits from its checkpoint in the cache, making that first where it has to be.

    Where the cache has no room or cannot be written, the model is quantized all the same, and a line says
    that it was not kept.

    Raises:
        LLMError: What `llms.models.weights.read_weights` raises.
    """
    target = quantized_path(source, facts, quantization, dtype, cache)
    if damage(target) is None:
        try:
            return read_weights(read(target), quantization=quantization, dtype=dtype, device=device)
        except DamagedCheckpoint as error:
            notify(f"the 4-bit checkpoint of {source.name} is damaged ({error}); making it anew")
            shutil.rmtree(target, ignore_errors=True)
    try:
        with locked(target, notify):
            if damage(target) is None:  # another process made it while this one waited
                return read_weights(read(target), quantization=quantization, dtype=dtype, device=device)
            return _make(source, facts, quantization, dtype, device, target, notify)
    except MachineError as error:
        if isinstance(error, MemoryError):
            raise
        notify(f"the 4-bit checkpoint of {source.name} is not kept: {error}")
    return read_weights(facts, quantization=quantization, dtype=dtype, device=device)


def _make(
    source: Source,
    facts: Facts,
    quantization: str,
    dtype: str,
    device: str,
    target: Path,
    notify: Notify,
) -> PreTrainedModel:
    require_space(
        target.parent,
        weight_bytes(facts, quantization, dtype) + 2**26,
        f"the 4-bit checkpoint of {source.name}",
    )
    notify(f"quantizing {source.name} to {quantization}, once; the next start loads it from {target}")
    model = read_weights(facts, quantization=quantization, dtype=dtype, device=device)
    with staging(target, {"model": source.name, "source": _identity(source, facts)}) as folder, quiet():
        model.save_pretrained(folder)
    return model


def _version(quantization: str) -> str:
    try:
        return importlib.metadata.version("bitsandbytes")
    except importlib.metadata.PackageNotFoundError as error:
        raise QuantizationUnavailable(
            f"expected bitsandbytes for {quantization}, found it missing; `pip install bitsandbytes`, or do "
            "without: --quantization none"
        ) from error


def _identity(source: Source, facts: Facts) -> str:
    if source.kind == "hub":
        return f"{source.location}@{facts.folder.name}"  # the snapshot's folder is named by its commit
    if (found := manifest(facts.folder)) is not None:
        return json.dumps(found["files"], sort_keys=True)
    files = ((path, path.stat()) for path in weight_files(facts.folder))
    return json.dumps([[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in files])


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MISTRAL_TYPES = ("mistral", "mistral3", "ministral", "pixtral", "voxtral")


def bits_and_bytes(quantization: str, dtype: str) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings: for `nf4` those of the QLoRA recipe (arXiv:2305.14314).

    Args:
        quantization: `nf4` or `fp4` (4 bits, double quantization), or `int8`.
        dtype: What it computes in.
    """
    import torch
    from transformers import BitsAndBytesConfig

    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def read_weights(facts: Facts, *, quantization: str, dtype: str, device: str) -> PreTrainedModel:
    """Load a checkpoint's weights onto a device, quantizing them on the way where asked.

    Args:
        facts: The checkpoint, checked.
        quantization: `nf4`, `fp4`, `int8` or `none`; for a stored quantization that one.
        dtype: `bfloat16`, `float16` or `float32`.
        device: `cpu` or `cuda:N`.

    Raises:
        DamagedCheckpoint: A tensor is missing or has another shape than the configuration says.
        UnsupportedModel: transformers has no such architecture.
        NotEnoughMemory: The device ran out while loading.
        QuantizationUnavailable: bitsandbytes is missing or does not run here.
    """
    import torch

    settings: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": "sdpa",
        "local_files_only": True,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if quantization != "none" or device != "cpu":
        settings["device_map"] = {"": device}
    if quantization != "none" and facts.stored_quantization is None:
        settings["quantization_config"] = bits_and_bytes(quantization, dtype)
    architecture = _architecture(facts)
    converts = device == "cpu" and (quantization, dtype) != (
        facts.stored_quantization or "none",
        facts.stored_dtype,
    )
    with quiet(), _frugal() if converts else nullcontext():
        try:
            model, info = architecture.from_pretrained(str(facts.folder), **settings)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise NotEnoughMemory(
                f"{device} ran out of memory while {str(facts.folder)!r} was loading ({error}); end other "
                "programs, or use --quantization nf4 or a smaller model"
            ) from error
        except (ImportError, NotImplementedError) as error:
            raise QuantizationUnavailable(
                f"expected bitsandbytes to load {quantization} on {device}, found: {error}; `agent doctor` "
                "says what to mend, --quantization none does without"
            ) from error
        except Exception as error:
            raise DamagedCheckpoint(
                f"expected {facts.architecture} in {str(facts.folder)!r}, found weights that do not load: "
                f"{error}; fetch it again"
            ) from error
    _check_complete(info, facts)
    if converts:
        _let_go_of_the_file(model)
    elif device == "cpu" and quantization != "none":
        _settle()
    return model.eval()


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer.

    Raises:
        UnsupportedModel: There is none, or one that transformers cannot read.
    """
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UnsupportedModel(
            f"expected a tokenizer ({', '.join(TOKENIZERS)}) in {str(folder)!r}, found none; copy it from "
            "the base model's repository"
        )
    settings: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    settings |= _mistral_regex(folder)
    with quiet():
        try:
            if _config(folder / "tokenizer_config.json").get("tokenizer_class") in PLAIN_CLASSES:
                from transformers import PreTrainedTokenizerFast  # AutoTokenizer imports 0.5 s of others

                return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(str(folder), **settings)
        except Exception as error:
            raise UnsupportedModel(
                f"expected a tokenizer in {str(folder)!r}, found one that does not load: {error}; copy "
                "tokenizer.json and tokenizer_config.json from the base model's repository"
            ) from error


def _architecture(facts: Facts) -> Any:
    import transformers

    name = facts.architecture
    if not name:
        return transformers.AutoModelForCausalLM
    # Only classes that transformers itself ships: the name is data from the checkpoint.
    found = getattr(transformers, name, None) if name.isidentifier() else None
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        raise UnsupportedModel(
            f"expected an architecture of transformers {transformers.__version__}, found {name!r} in "
            f"{str(facts.folder / 'config.json')!r}; update transformers, or take another model"
        )
    return found


@contextmanager
def _frugal() -> Iterator[None]:
    """Keep the host's peak near the file plus the weights while weights are converted.

    Two habits cost more (measured for the embedded model in NF4: 550 to 790 MB instead of 410, from run to
    run): transformers reads tensors ahead in threads, so that much of the file waits for its turn (its own
    switch ends that), and glibc keeps the freed intermediate results of quantization for itself.
    """
    name = "HF_DEACTIVATE_ASYNC_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    _malloc("mallopt", _MMAP_THRESHOLD, 1 << 20)
    try:
        yield
    finally:
        _settle()
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before


def _settle() -> None:
    """Set what glibc arrives at by itself in a process that has freed large blocks.

    Left to itself it arrives there late and by chance: unpacking matrices for the first prompt of the
    embedded model in NF4 then takes 285 to 440 MB from run to run, with this 283 to 302.
    """
    _malloc("mallopt", _MMAP_THRESHOLD, 32 << 20)
    _malloc("mallopt", _TRIM_THRESHOLD, 64 << 20)


def _malloc(function: str, *arguments: int) -> None:
    with suppress(OSError, AttributeError):  # glibc alone has these
        getattr(ctypes.CDLL(None), function)(*arguments)


def _let_go_of_the_file(model: PreTrainedModel) -> None:
    """Copy the tensors that still lie in the mapped file, as one of them keeps the whole file in memory."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.clone()
    gc.collect()
    _malloc("malloc_trim", 0)


def _check_complete(info: Any, facts: Facts) -> None:
    missing = sorted(getattr(info, "missing_keys", None) or info["missing_keys"])
    mismatched = sorted(str(key) for key in getattr(info, "mismatched_keys", None) or info["mismatched_keys"])
    if missing or mismatched:
        what = f"{len(missing)} missing ({missing[:3]})" if missing else f"{mismatched[:3]} of another shape"
        raise DamagedCheckpoint(
            f"expected every tensor of {facts.architecture} in {str(facts.folder)!r}, found {what}; fetch it "
            "again"
        )


def _mistral_regex(folder: Path) -> dict[str, bool]:
    # transformers doubts the tokenizer of every Mistral checkpoint written before its version 5, and offers
    # a mend that is right for the tekken tokenizers and wrong for the SentencePiece ones (Mistral-7B v0.1 to
    # v0.3).
    config = _config(folder / "config.json")
    version = str(config.get("transformers_version") or "0")
    if config.get("model_type") not in _MISTRAL_TYPES or int(version.split(".")[0] or 0) >= 5:
        return {}
    tokenizer = _config(folder / "tokenizer.json")
    sentencepiece = not tokenizer or bool(tokenizer.get("model", {}).get("byte_fallback"))
    return {"fix_mistral_regex": not sentencepiece}


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
