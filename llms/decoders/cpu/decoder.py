"""The CPU decoder: one call of compiled code runs a whole forward pass of a small Mistral-like model.

It takes models in bf16 and reads their weights in 4, 8 or 16 bits, whichever loses nothing. It rounds less
often than transformers does in bf16: activations keep 16 bits and every sum is in fp32 or int32. A token's
logits have the same bits in any batch and with any number of threads. The kernels read and write the pages of
the same `SlotStore` that the reference decoder uses.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn

from llms.decoders.base import StepResult, rows_of
from llms.decoders.cpu import LARGEST, gguf_unsuitable, native, suits
from llms.decoders.cpu.native import BatchStruct, Forward, ModelStruct
from llms.decoders.cpu.parameters import Parameters, of_gguf, of_weights
from llms.decoders.cpu.weights import BlockFile, pack_model
from llms.decoders.kv_store import KVShape, SlotStore, StoredSlots
from llms.decoders.reference_plan import PAGE, PREFILL_CHUNK
from llms.decoders.sampling import Sampling, sample, sample_each
from llms.errors import UnsupportedModel
from llms.models.gguf_model import GgufModel
from llms.models.weights import ModelWeights, sliding_window
from llms.threads import bound_spinning

CLASSES = ("MistralForCausalLM", "LlamaForCausalLM")
"""Classes whose layer the kernels implement. `unsupported` checks what may differ inside one."""

MODULES = (
    "transformers.models.mistral.",
    "transformers.models.llama.",
    "transformers.activations",
    "torch.nn.modules.activation",
)
"""Where the modules of such a layer are defined; a Linear must be PyTorch's own."""

ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position only."""


class CpuDecoder(StoredSlots):
    """Decode a small model on the CPU; `llms.decoders.base.Decoder` describes the methods.

        >>> decoder = CpuDecoder(load(LoadSettings(model="smollm2-135m")).weights)  # doctest: +SKIP
        >>> logits = decoder.prefill(0, [1, 4093, 198])  # doctest: +SKIP
        >>> decoder.step([0], [[int(logits.argmax())]]).logits.shape  # doctest: +SKIP
        torch.Size([1, 49152])

    Args:
        weights: Weights that `unsupported` has nothing against. Later changes of them have no effect.
        window: Longest sequence that a slot holds, in tokens; by default the model's
            `max_position_embeddings`.
        max_slots: Number of slots.
        blocks: The file that keeps the packed weights. If None, the weights are packed anew.
        instructions: Name of the only instruction set to use, one of `native.SETS`; by default the best that
            this CPU has.

    Raises:
        UnsupportedModel: The model is not supported, or there are no kernels for this CPU.
        ValueError: There is no such instruction set.
    """

    def __init__(
        self,
        weights: ModelWeights | GgufModel,
        *,
        window: int | None = None,
        max_slots: int = 64,
        blocks: BlockFile | None = None,
        instructions: str | None = None,
    ) -> None:
        reason, kernels = unsupported(weights), native.load(instructions)
        if reason or isinstance(kernels, str):
            raise UnsupportedModel(f"expected a model that the CPU decoder serves, found {reason or kernels}")
        config = weights.config
        bound_spinning()
        self.window = int(window or config["max_position_embeddings"])
        self.max_slots = max_slots
        self.ragged = True
        self.device = torch.device("cpu")
        self._instructions = kernels.instructions.name
        if isinstance(weights, GgufModel):
            parameters = of_gguf(weights, self.window)
        else:
            parameters = of_weights(weights, packed_weights(weights, blocks), self.window)
        self.vocab_size, self._label = parameters.vocabulary, parameters.label
        self._kernels = CpuKernels(kernels.forward, parameters)
        shape = KVShape(
            layers=config["num_hidden_layers"],
            heads=config["num_key_value_heads"],
            dim=parameters.head_dim,
            dtype=torch.bfloat16,
            device=self.device,
        )
        self.bytes_per_token = shape.bytes_per_token
        self._store = SlotStore(shape, max_slots)

    def describe(self) -> str:
        """Return one line for people: which decoder this is, and what it runs on."""
        return f"lean (native code for {self._instructions}, {self._label} weights) on cpu"

    @torch.inference_mode()
    def prefill(self, slot: int, tokens: Sequence[int]) -> Tensor:
        """Append tokens in chunks of `PREFILL_CHUNK`; return fp32 [V], the logits after the last."""
        tokens = list(tokens)
        self._check([slot], [tokens])
        chunks = [tokens[start : start + PREFILL_CHUNK] for start in range(0, len(tokens), PREFILL_CHUNK)]
        with self._restoring([slot]):
            for chunk in chunks[:-1]:
                self._forward([slot], [chunk], [])
            return self._forward([slot], [chunks[-1]], [len(chunks[-1]) - 1])[0]

    @torch.inference_mode()
    def step(
        self,
        slots: Sequence[int],
        tokens: Sequence[Sequence[int]] | Tensor,
        sampling: Sequence[Sampling] | None = None,
        all_logits: bool = False,
        given: Tensor | None = None,
    ) -> StepResult:
        """Append 1..k tokens to each slot in one pass."""
        lists, given = rows_of(tokens, given)
        if given is not None:
            lists[: len(given)] = [[int(t)] for t in given.tolist()]
        self._check(slots, lists)
        if sampling is not None:
            self._check_sampling(sampling, len(slots))
        counts = [len(row) for row in lists]
        ends = list(accumulate(counts))
        with self._restoring(slots):
            logits = self._forward(slots, lists, range(ends[-1]) if all_logits else [end - 1 for end in ends])
            rows = list(torch.split(logits, counts)) if all_logits else logits
            if sampling is None:
                return StepResult(rows)
            before = (
                [self._store.lengths[slot] for slot in slots],
                [self._store.tokens[slot] for slot in slots],
            )
            if isinstance(rows, list):
                return StepResult(rows, *sample_each(rows, sampling, *before))
            return StepResult(rows, sample(rows, sampling, *before))

    def _forward(self, slots: Sequence[int], tokens: Sequence[list[int]], keep: Sequence[int]) -> Tensor:
        """Run one pass and append the tokens; return fp32 [kept, V].

        Args:
            slots: The slots.
            tokens: The tokens of each slot.
            keep: Which tokens give logits, counted over all slots.
        """
        store = self._store
        for slot, row in zip(slots, tokens, strict=True):
            store.reserve(slot, len(row))
        spans = [
            range(store.lengths[slot], store.lengths[slot] + len(row))
            for slot, row in zip(slots, tokens, strict=True)
        ]
        tables = [[store.addresses(slot)] * len(row) for slot, row in zip(slots, tokens, strict=True)]
        logits = self._kernels(
            array("q", chain(*tokens)),
            array("q", chain(*spans)),
            array("q", chain(*tables)),
            array("q", keep),
        )
        for slot, row in zip(slots, tokens, strict=True):
            store.append(slot, row)
        return logits


class CpuKernels:
    """Calls the compiled code with the weights of one model.

    Args:
        forward: The compiled code.
        parameters: The weights.
    """

    def __init__(self, forward: Forward, parameters: Parameters) -> None:
        self._forward, self._parameters = forward, parameters
        config = parameters.config
        self._model = ModelStruct(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=parameters.head_dim,
            sliding_window=sliding_window(config),
            threads=1,
            epsilon=config["rms_norm_eps"],
            layer=parameters.layers,
            norm=parameters.norm,
            head=parameters.head,
            embedding=parameters.embedding,
            embedding_type=parameters.embedding_type,
            cos=parameters.cos.data_ptr(),
            sin=parameters.sin.data_ptr(),
        )

    def __call__(self, ids: array[int], positions: array[int], pages: array[int], keep: array[int]) -> Tensor:
        """Run one pass, which writes to the KV cache; return the logits fp32 [kept, vocabulary].

        Args:
            ids: The tokens.
            positions: The position of each token in its sequence.
            pages: The address of its sequence's page table, with room for the tokens (`SlotStore.addresses`).
            keep: Indexes of the tokens that give logits.

        Raises:
            MemoryError: There was no memory for the pass. The KV cache is as before.
        """
        logits = torch.empty(len(keep), self._parameters.padded)
        batch = BatchStruct(
            count=len(ids),
            kept=len(keep),
            ids=ids.buffer_info()[0],
            positions=positions.buffer_info()[0],
            pages=pages.buffer_info()[0],
            keep=keep.buffer_info()[0],
            logits=logits.data_ptr(),
        )
        self._model.threads = torch.get_num_threads()
        self._forward(self._model, batch)
        return logits[:, : self._parameters.vocabulary]


def packed_weights(weights: ModelWeights, blocks: BlockFile | None = None) -> Mapping[str, Tensor]:
    """Return the packed weights: those in the file, else new ones, which are written to it."""
    found = blocks.read() if blocks else None
    if found:
        return found
    found = pack_model(weights)
    if blocks:
        blocks.write(found)
    return found


def unsupported(weights: ModelWeights | GgufModel) -> str | None:
    """Return why the CPU decoder does not take weights of its layout, in a few words; None if it does."""
    if isinstance(weights, GgufModel):
        return gguf_unsuitable(weights) or native.missing()
    dtypes = {tensor.dtype for tensor in weights.tensors.values()}
    if dtypes != {torch.bfloat16}:
        return f"weights in {', '.join(sorted(map(str, dtypes)))}, not all in bfloat16"
    if (size := weights.parameters) > LARGEST:
        return f"{size:,} weights, more than {LARGEST:,}"
    if not suits(weights.config):
        return "sizes that the kernels do not support"
    return native.missing()


def other_architecture(model: Any) -> str | None:
    """Return how a transformers model differs from those that the kernels implement."""
    kind = type(model).__name__
    if kind not in CLASSES:
        return f"a {kind}, not one of {', '.join(CLASSES)}"
    if (devices := {str(p.device) for p in model.parameters()}) != {"cpu"}:
        return f"weights on {', '.join(sorted(devices))}, not all on cpu"
    if reason := next((reason for layer in model.model.layers if (reason := _other_layer(layer))), None):
        return reason
    config = model.config
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in ROTARY:
        return f"rope_type {rotary!r}"
    if len(set(getattr(config, "layer_types", None) or ())) > 1:
        return "layers of several kinds of attention"
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act!r}"
    return None


def _other_layer(layer: Any) -> str | None:
    """Return what a layer has that Mistral's has not; adapters and quantizers insert other modules."""
    for module in layer.modules():
        kind = type(module)
        if kind is nn.Linear and module.bias is not None:
            return "a Linear with a bias"
        if kind is not nn.Linear and not kind.__module__.startswith(MODULES):
            return f"a layer with {kind.__name__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return "a layer with a forward hook"
    return None


assert native.PAGE == PAGE
