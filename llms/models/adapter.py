"""PEFT adapters (LoRA and its relatives) on top of a loaded model.

Pickles, and adapters that were trained on another base model, are refused. Nothing is fetched.

    >>> adapted = apply_adapter(model, Path("my-lora"), source)  # doctest: +SKIP
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llms.errors import AdapterMismatch, DamagedCheckpoint, UnsupportedModel
from llms.models.catalog import Source, find
from llms.models.checkpoint import check_config
from llms.quiet import quiet

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def apply_adapter(model: Any, folder: Path, source: Source | None, *, merge: bool = False) -> Any:
    """Return a model with an adapter: a PEFT model, or the plain model with the adapter folded in.

    Args:
        model: The loaded base model.
        folder: The adapter's folder.
        source: The base model's source; None if the caller handed the model over.
        merge: Fold the adapter into the weights.

    Raises:
        DamagedCheckpoint: A file is missing or malformed.
        UnsupportedModel: The weights are pickled, or the configuration asks for code.
        AdapterMismatch: The adapter was trained on another base model.
    """
    config = read_adapter(folder)
    _check_base(config, source, folder)
    _check_shapes(model, folder)
    from peft import PeftModel

    with quiet():
        try:
            adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=False, local_files_only=True)
        except (RuntimeError, ValueError, KeyError) as error:
            raise AdapterMismatch(
                f"expected an adapter for {_name(source)}, found one in {str(folder)!r} that does not fit "
                f"it: {error}; load the base model that it was trained on"
            ) from error
        return adapted.merge_and_unload() if merge else adapted


def read_adapter(folder: Path) -> dict[str, Any]:
    """Return an adapter's configuration, after a check that its files exist.

    Raises:
        DamagedCheckpoint: The folder, its configuration or its weights are missing or malformed.
        UnsupportedModel: The weights are pickled, or the configuration asks for code.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedCheckpoint(
            f"expected a PEFT adapter folder with {CONFIG}, found {str(folder)!r}: {error}; give the folder "
            "that `save_pretrained` wrote"
        ) from error
    if not isinstance(config, dict):
        raise DamagedCheckpoint(f"expected a JSON object in {str(path)!r}, found {type(config).__name__}")
    check_config(config, str(path))
    if not (folder / WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            raise UnsupportedModel(
                f"expected {WEIGHTS} in {str(folder)!r}, found only a pickle (adapter_model.bin), which can "
                "run code when opened; save the adapter again with safe_serialization=True"
            )
        raise DamagedCheckpoint(
            f"expected {WEIGHTS} in {str(folder)!r}, found none; copy it from the training run"
        )
    return config


def _check_base(config: dict[str, Any], source: Source | None, folder: Path) -> None:
    base = config.get("base_model_name_or_path")
    if not base or source is None:
        return
    trained_on = find(str(base))
    if Path(str(base)).exists() and source.kind in ("folder", "gguf"):
        same = Path(str(base)).resolve() == Path(source.location)
        if same:
            return
    # A path of another machine says nothing, so the shapes decide then. Two different Hub ids say enough.
    if trained_on is not None and source.entry is not None and trained_on.repo != source.entry.repo:
        raise AdapterMismatch(
            f"expected an adapter for {source.name}, found one for {base!r} in {str(folder)!r}; load it with "
            f'model="{trained_on.name}"'
        )
    hub_id = str(base).count("/") == 1 and not str(base).startswith((".", "/", "~"))
    other = hub_id and source.kind == "hub" and str(base).lower() != source.location.lower()
    if other and trained_on is None:
        raise AdapterMismatch(
            f"expected an adapter for {source.location!r}, found one for {base!r} in {str(folder)!r}; load "
            f'it with model="{base}"'
        )


def _check_shapes(model: Any, folder: Path) -> None:
    """Refuse LoRA matrices whose outer sizes differ from those of the layers that they name."""
    from safetensors import SafetensorError, safe_open

    modules = dict(model.named_modules())
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except SafetensorError as error:
        raise DamagedCheckpoint(
            f"expected whole safetensors in {str(folder / WEIGHTS)!r}, found: {error}; copy the file again"
        ) from error
    for key, shape in shapes.items():
        name, _, side = key.removeprefix("base_model.model.").partition(".lora_")
        if not side or len(shape) != 2:
            continue
        layer = modules.get(name)
        inside, outside = getattr(layer, "in_features", None), getattr(layer, "out_features", None)
        wanted, found = (inside, shape[1]) if side.startswith("A") else (outside, shape[0])
        if layer is None or (wanted is not None and wanted != found):
            what = (
                f"no layer {name!r}"
                if layer is None
                else f"{name!r} of size {wanted}, the adapter's is {found}"
            )
            raise AdapterMismatch(
                f"the adapter in {str(folder)!r} belongs to another base model: this one has {what}; load "
                "the base model that it was trained on"
            )


def _name(source: Source | None) -> str:
    return source.name if source else "this model"
