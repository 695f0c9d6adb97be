"""What to load and how, and all that is decided about it before the first weight is read.

Knows the order of the decisions: model and device, source, checkpoint, quantization, type, decoder, memory.
Refuses to read weights (`llms.load`). `agent doctor` asks here what would run. Importing it does not import
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llms import choose as choosing
from llms.catalog import AUTO, Source, cache_dir, resolve
from llms.checkpoint.facts import Facts, read
from llms.checkpoint.folder import Notify, silent
from llms.checkpoint.quantized import is_kept, keeps
from llms.decoders import Kind, expected
from llms.errors import BadRequest, NotEnoughMemory
from llms.footprint import Setting
from llms.memory import Plan, plan
from llms.sources.fetch import Progress, no_progress
from llms.sources.sources import checkpoint_folder


@dataclass(frozen=True, kw_only=True)
class LoadSpec:
    """What to load and how; equal specs share one loaded model, so it is hashable.

    Attributes:
        model: `auto`, a catalog name, a Hub id, a checkpoint folder or a GGUF file.
        quantization: `auto`, `nf4`, `fp4`, `int8` or `none`.
        dtype: `bfloat16`, `float16` or `float32`: what is not quantized, and the computation; None for
            bfloat16
            (float16 on a GPU without it).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        revision: Branch, tag or commit of a Hub repository.
        adapter: Folder of a PEFT adapter to put on top.
        merge_adapter: Fold the adapter into the weights (faster, but not undone).
        window: Longest sequence in tokens; None for the longest that the model knows and memory allows.
        slots: How many sequences at the full window the memory plan makes room for.
        decoder: The kind of decoder that will run it, for the plan: `auto` or a name in `llms.load.KINDS`.
        cache_dir: The cache's root; None for the platform's.
        keep_quantized: Keep a 4-bit checkpoint in the cache; None: from a billion parameters on.
        require_gpu: Refuse to run on the CPU.
        notify: Takes a line for the user.
        progress: Told of downloads.
    """

    model: str = AUTO
    quantization: str = "auto"
    dtype: str | None = None
    device: str = "auto"
    revision: str | None = None
    adapter: str | Path | None = None
    merge_adapter: bool = False
    window: int | None = None
    slots: int = 1
    decoder: str = AUTO
    cache_dir: Path | None = None
    keep_quantized: bool | None = None
    require_gpu: bool = False
    notify: Notify = field(default=silent, compare=False)
    progress: Progress = field(default=no_progress, compare=False)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All that was decided before the first weight is read.

    Attributes:
        spec: What was asked for.
        cache: The cache's root.
        source: Where the model comes from.
        facts: What its checkpoint says of itself.
        quantization: `nf4`, `fp4`, `int8` or `none`.
        dtype: What is not quantized, and the KV cache.
        device: `cpu` or `cuda:N`.
        decoder: The kind of decoder that memory was planned for.
        memory: The plan.
        notice: The one line for the user about model, device and window; empty where there is nothing to say.
    """

    spec: LoadSpec
    cache: Path
    source: Source
    facts: Facts
    quantization: str
    dtype: str
    device: str
    decoder: str
    memory: Plan
    notice: str


def prepare(spec: LoadSpec, kinds: Sequence[Kind]) -> Prepared:
    """Decide everything, fetching the embedded model first where it is missing; no weight is read.

    Args:
        spec: What to load and how.
        kinds: The decoders there are, best first.

    Raises:
        LLMError: What `llms.load.load` raises before it reads weights.
    """
    if spec.window is not None and spec.window < 1:
        raise BadRequest(f"expected window to be at least 1 token, found {spec.window!r}")
    if spec.slots < 1:
        raise BadRequest(f"expected slots to be at least 1, found {spec.slots!r}")
    cache = Path(spec.cache_dir) if spec.cache_dir else cache_dir()
    choice = choosing.choose(spec.model, spec.device, require_gpu=spec.require_gpu, cache=cache)
    source = resolve(choice.model, spec.revision)
    facts = read(checkpoint_folder(source, cache, notify=spec.notify, progress=spec.progress))
    quantization = choosing.quantization(
        spec.quantization, parameters=facts.parameters, stored=facts.stored_quantization
    )
    dtype = choosing.dtype(spec.dtype, quantization, choice.device)
    longest = choosing.longest(source, facts.context)
    ready = keeps(facts, quantization, spec.keep_quantized) and is_kept(
        source, facts, quantization, dtype, cache
    )
    setting = Setting(
        quantization=quantization,
        dtype=dtype,
        device=choice.device,
        window=spec.window or longest,
        slots=spec.slots,
        adapter=spec.adapter is not None and not spec.merge_adapter,
    )
    likely = expected(kinds, facts, setting, spec.decoder)
    kind, memory = _planned(likely, facts, setting, spec.window is None, longest, source.name, ready)
    return Prepared(
        spec=spec,
        cache=cache,
        source=source,
        facts=facts,
        quantization=quantization,
        dtype=dtype,
        device=choice.device,
        decoder=kind.name,
        memory=memory,
        notice=choosing.notice(source.name, choice, quantization, dtype, memory, longest),
    )


def _planned(
    kinds: Sequence[Kind],
    facts: Facts,
    setting: Setting,
    narrow: bool,
    longest: int,
    name: str,
    ready: bool,
) -> tuple[Kind, Plan]:
    """Plan for the best decoder that has room; where none has, the last one's refusal has the numbers."""
    for kind in kinds:
        try:
            return kind, plan(
                facts,
                setting,
                longest=longest,
                narrow=narrow,
                name=name,
                ready=ready,
                footprint=kind.footprint,
            )
        except NotEnoughMemory:
            if kind is kinds[-1]:
                raise
    raise AssertionError("the last kind serves every model")
