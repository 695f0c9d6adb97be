"""The models of this process: calls that need the same one share it, and all of them can be unloaded.

>>> import llms
>>> llms.unload_all()
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from llms.models.catalog import AUTO, PREFERRED, Source, resolve
from llms.models.checkpoint import Checkpoint
from llms.models.gpu import gpus
from llms.models.load import (
    DECODERS,
    cache_of,
    choose_dtype,
    choose_model,
    choose_quantization,
    expected_decoders,
    load,
    longest_window,
)
from llms.params import LoadSettings
from llms.runtime import RUNTIMES, Runtime


@dataclass(frozen=True, eq=False)
class SharedModel:
    """A shared runtime, and what its model really is, whether or not it is in memory now.

    Attributes:
        runtime: The runtime.
        settings: The settings that it was loaded with.
        source: The model's source.
        checkpoint: The checkpoint that was read.
        device: The device of the weights.
        quantization: How the weights are stored.
        dtype: The dtype of the computation.
        window: Longest sequence in tokens.
        decoder: The name of the decoder that memory was planned for.
    """

    runtime: Runtime
    settings: LoadSettings
    source: Source
    checkpoint: Checkpoint
    device: str
    quantization: str
    dtype: str
    window: int
    decoder: str

    @classmethod
    def of(cls, runtime: Runtime, settings: LoadSettings) -> SharedModel | None:
        """Return the description of a runtime; None if its model has no checkpoint."""
        loaded = runtime.loaded
        if loaded.source is None or loaded.checkpoint is None:
            return None
        return cls(
            runtime=runtime,
            settings=settings,
            source=loaded.source,
            checkpoint=loaded.checkpoint,
            device=str(loaded.device),
            quantization=loaded.quantization,
            dtype=str(loaded.dtype).removeprefix("torch."),
            window=loaded.window,
            decoder=loaded.decoder,
        )

    def serves(self, asked: LoadSettings, max_slots: int) -> bool:
        """Return whether loading with other settings would load this very model.

        Args:
            asked: The settings, with a model's name in place of `auto`.
            max_slots: Number of slots.
        """
        mine = self.settings
        same = (asked.merge_adapter, asked.slots, max_slots, asked.keep_quantized)
        if same != (mine.merge_adapter, mine.slots, self.runtime.max_slots, mine.keep_quantized):
            return False
        if _path(asked.adapter) != _path(mine.adapter) or resolve(asked.model, asked.revision) != self.source:
            return False
        quantization = choose_quantization(
            asked.quantization,
            parameters=self.checkpoint.parameters,
            stored=self.checkpoint.stored_quantization,
        )
        return (
            self._on(asked)
            and quantization == self.quantization
            and choose_dtype(asked.dtype, quantization, self.device) == self.dtype
            and (asked.window == mine.window or asked.window == self.window or self._whole_window(asked))
            and (asked.decoder == mine.decoder or asked.decoder == self.decoder or self._best(asked))
        )

    def _on(self, asked: LoadSettings) -> bool:
        """Return whether the model is on the device that is asked for."""
        if self.device == "cpu":
            return not asked.require_gpu and (asked.device == "cpu" or (asked.device == AUTO and not gpus()))
        return asked.device in (AUTO, "cuda", self.device)

    def _whole_window(self, asked: LoadSettings) -> bool:
        return asked.window is None and self.window == longest_window(self.source, self.checkpoint)

    def _best(self, asked: LoadSettings) -> bool:
        """Return whether `auto` chooses the decoder of this model."""
        if asked.decoder != AUTO:
            return False
        decided = replace(asked, device=self.device, quantization=self.quantization, dtype=self.dtype)
        return expected_decoders(DECODERS, self.checkpoint, decided)[0].NAME == self.decoder


_shared: list[SharedModel] = []
_known: dict[tuple[LoadSettings, int], Runtime] = {}
_loading = threading.RLock()


def shared(settings: LoadSettings, *, max_slots: int) -> Runtime:
    """Return the runtime that serves these settings, loaded on first use; other threads wait for it.

    Settings that load the same model share it, however they say so: `auto` and the name of the model that it
    chooses, a device and the one that is there, a default and its value.
    """
    found = find_shared(settings, max_slots=max_slots)
    if found is not None:
        return found
    with _loading:
        found = find_shared(settings, max_slots=max_slots)
        if found is None:
            found = Runtime(
                load(settings),
                decoder=settings.decoder,
                max_slots=max_slots,
                reload=lambda: load(settings),
            )
            if (described := SharedModel.of(found, settings)) is not None:
                _shared.append(described)
            _known[settings, max_slots] = found
        return found


def find_shared(settings: LoadSettings, *, max_slots: int) -> Runtime | None:
    """Return the runtime that serves these settings if it has been loaded already, else None."""
    known = _known.get((settings, max_slots))
    if known is not None or not _shared:
        return known
    for asked in _named(settings):
        for one in list(_shared):
            if one.serves(asked, max_slots):
                return _known.setdefault((settings, max_slots), one.runtime)
    return None


def _named(settings: LoadSettings) -> list[LoadSettings]:
    """Return the settings with a model in place of `auto`; the preferred one first, if it is loaded."""
    if settings.model != AUTO:
        return [settings]
    chosen, _ = choose_model(settings, cache_of(settings))
    on_gpu = replace(settings, model=PREFERRED)  # Its own weights fill the memory that `auto` asks for.
    named = [replace(settings, model=chosen.model)]
    return named if settings.device == "cpu" else [on_gpu, *named]


def unload_all() -> None:
    """Unload every model of this process; see `Runtime.unload`. The next use of one loads it again.

    >>> import llms
    >>> llms.unload_all()
    """
    for runtime in list(RUNTIMES):
        runtime.unload()


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder).resolve()


def _after_fork() -> None:
    """Make loaded models usable in a forked child, which has the weights but none of the other threads.

    The threads of libgomp are gone, too, and a forward pass would wait for them forever. So the child
    computes with one thread.
    """
    global _loading
    _loading = threading.RLock()
    for runtime in list(RUNTIMES):
        runtime.forked()
    if RUNTIMES and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_after_fork)
