"""The lean decoder: Mistral- and Llama-like models on the CPU, without transformers' walk through modules.

Knows one layer layout and PyTorch's operators; refuses to know text, templates and scheduling. Slots, caches
and batch shapes are the reference decoder's; only the pass over the layers is its own. One token of a 135M
model is thirty layers of tiny products: what counts is how few operators there are, that q, k and v (gate and
up) are one product, and how the weights lie in memory (see `llms.lean.weights`).

In fp32 it computes what transformers computes, rounding aside. In bf16 it rounds less often, and the whole
pass is one call of machine code where that can be had (see `llms.lean.machine`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llms.decoders.reference import Plan, ReferenceDecoder
from llms.errors import UnsupportedModel
from llms.lean import plan as lean_plan
from llms.lean.attention import Attention
from llms.lean.check import checked
from llms.lean.codes import CodeFile
from llms.lean.machine import Machine, packed
from llms.lean.plan import LARGEST
from llms.lean.weights import FEW_ROWS, Product, four_bit_kernel, on_lattice
from llms.models.skeleton import Skeleton

NOTHING = -1
"""What to keep of the logits where a pass only fills the cache."""

KINDS = ("MistralForCausalLM", "LlamaForCausalLM")
"""Classes whose layer this decoder implements; what differs inside one is checked by `why_not`."""

MODULES = (
    "transformers.models.mistral.",
    "transformers.models.llama.",
    "transformers.activations",
    "torch.nn.modules.activation",
)
"""Where the modules of a layer come from; a Linear must be PyTorch's own."""

ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings whose angles depend on the position alone."""


class Norm:
    """Divides rows by their root mean square, times a gain (Zhang and Sennrich 2019).

    x beside -x has the mean 0, and x's mean square as its variance: on the CPU `layer_norm` is one kernel and
    `rms_norm` eight (8 us against 13 for one row of 576, 12 against 16 for eight, 75 against 52 for 128).
    """

    ONE_KERNEL = 16
    """Rows up to which the one kernel is faster."""

    def __init__(self, norm: Any) -> None:
        """Take gain and epsilon of a norm of transformers."""
        self._gain = norm.weight.detach()
        self._twice = torch.cat((self._gain, self._gain))
        self._eps = float(norm.variance_epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalize x [m, width]."""
        if x.shape[0] > self.ONE_KERNEL:
            return F.rms_norm(x, self._gain.shape, self._gain, self._eps)
        both = F.layer_norm(torch.cat((x, -x), -1), self._twice.shape, self._twice, None, self._eps)
        return both[:, : x.shape[1]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    """One layer: four products and two norms."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product
    before_attention: Norm
    before_mlp: Norm


class LeanDecoder(ReferenceDecoder):
    """Decode on the CPU over joined and reordered copies of the weights; see `llms.decoders.base.Decoder`.

    Args:
        model: A model that `why_not` has nothing against. Weights that change afterwards are not seen.
        window: Longest sequence a slot holds, in tokens; default: the model's `max_position_embeddings`.
        max_slots: Number of slots.
        codes: Where 4-bit codes are kept; None: nowhere, they are found anew when they are first needed.
        four_bit: Whether to read weights on a 4-bit lattice as such (see `llms.lean.weights`); None: where
            the weights of every layer lie on one, and this CPU has the kernel.
        machine: Whether to run machine code where it can be had: for bf16 weights in shapes that it was
            written for, on a machine for which `llms.lean.compiler` has it. It reads weights in as few bits
            as lose nothing.
        instructions: Name of the only set of `llms.lean.compiler.SETS` that machine code may be made of;
            None: the best that this CPU has.

    Raises:
        UnsupportedModel: `why_not` has something against the model.
        ValueError: There is no such instruction set.
    """

    def __init__(
        self,
        model: Any,
        *,
        window: int | None = None,
        max_slots: int = 64,
        codes: CodeFile | None = None,
        four_bit: bool | None = None,
        machine: bool = True,
        instructions: str | None = None,
    ) -> None:
        if reason := why_not(model):
            raise UnsupportedModel(f"Expected a model that the lean decoder serves, found {reason}.")
        super().__init__(model, window=window, max_slots=max_slots)
        inner = model.model
        self._heads = int(self._config.num_attention_heads)
        self._embedding, self._norm = inner.embed_tokens.weight.detach(), Norm(inner.norm)
        self._cos, self._sin = self._rotation(inner.rotary_emb)
        self._codes, self._lacking, self._instructions = codes, "", ""
        self._machine = self._find_machine(instructions) if machine and four_bit is not False else None
        if self._machine:
            self.four_bit = self._machine.four_bit
            return
        self.four_bit = _is_four_bit(model) if four_bit is None else four_bit
        self._layers = [_layer(layer, self.four_bit) for layer in inner.layers]
        self._head = Product([model.lm_head.weight])
        self._coded = not self.four_bit

    def describe(self) -> str:
        """Return one line for people: which decoder this is, and on what it runs."""
        weights = "4-bit weights" if self.four_bit else str(self._embedding.dtype).removeprefix("torch.")
        how = f"machine code for {self._instructions}" if self._machine else "own forward pass"
        return f"lean ({how}, {weights}{self._lacking}) on {self.device}"

    @torch.inference_mode()
    def _rotation(self, rotary: Any) -> tuple[Tensor, Tensor]:
        """Return cosines and signed sines [window, 1, head dim] of every position.

        The first half of the sines is negated, so that x cos + roll(x) sin rotates.
        """
        cos, sin = rotary(self._embedding[:1], torch.arange(self.window)[None])
        low, high = sin.transpose(0, 1).chunk(2, -1)
        return cos.transpose(0, 1).contiguous(), torch.cat([-low, high], -1)

    def _forward(self, slots: list[int], tokens: list[list[int]], keep: int) -> list[Tensor]:
        """Run the last token of a lone prompt as a step of its own, where steps read the weights in 4 bits.

        So a prompt that is cached but for its last token goes on with the very same bits as one that is not:
        the same seed gives the same answer again.
        """
        if self.four_bit and not self._machine and keep and len(slots) == 1 and len(tokens[0]) > FEW_ROWS:
            super()._forward(slots, [tokens[0][:-1]], NOTHING)
            tokens = [tokens[0][-1:]]
        return super()._forward(slots, tokens, keep)

    def _find_codes(self) -> None:
        """Have every product read 4-bit codes: the kept ones, else new ones, which are kept."""
        products = {
            f"{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self._layers)
            for name in ("qkv", "out", "gate_up", "down")
        }
        kept = self._codes.read() if self._codes else None
        for name, product in products.items():
            product.codes = (kept[name], kept[f"{name}.scales"]) if kept else product.encode()
        if self._codes and not kept:
            found = {name: product.codes[0] for name, product in products.items()}
            found |= {f"{name}.scales": product.codes[1] for name, product in products.items()}
            self._codes.write(found)
        self._coded = True

    def _find_machine(self, instructions: str | None) -> Machine | None:
        """Set up the machine code over packed weights: the kept ones, else new ones, which are kept."""
        if self._kv.shape.dtype != torch.bfloat16 or not lean_plan.suits(self._config.to_dict()):
            return None
        if isinstance(compiled := checked(instructions), str):
            self._lacking = f"; no machine code: {compiled}"
            return None
        self._instructions = compiled[0].name
        file = CodeFile(self._codes.folder, blocks=True) if self._codes else None
        found = file.read() if file else None
        if not found:
            found = packed(self._model)
            if file:
                file.write(found)
        return Machine(compiled[1], self._model, found, self._cos, self._sin, sliding=self._sliding)

    def _pass(self, ids: Tensor, positions: Tensor, plan: Plan, keep: int) -> Tensor:
        if self._machine:
            return self._machine(ids, positions, plan, self._kv, keep)
        n, k = ids.shape
        if not self._coded and n * k <= FEW_ROWS:
            self._find_codes()
        places = positions.reshape(-1)
        x, cos, sin = F.embedding(ids.reshape(-1), self._embedding), self._cos[places], self._sin[places]
        sight = self._sight(positions, plan)
        attend = Attention(self._kv, plan, sight and sight[1], heads=self._heads)
        for index, layer in enumerate(self._layers):
            qkv = layer.qkv(layer.before_attention(x)).view(n * k, -1, cos.shape[-1])
            q, new_keys, new_values = (t.view(n, k, *t.shape[1:]) for t in self._rotated(qkv, cos, sin))
            x = x + layer.out(attend(index, q, new_keys, new_values))
            gate, up = layer.gate_up(layer.before_mlp(x)).chunk(2, -1)
            x += layer.down(F.silu(gate).mul_(up))
        if keep == NOTHING:
            return x.new_empty(n, 0, self.vocab_size)
        if keep:
            x = x.view(n, k, -1)[:, k - keep :].flatten(0, 1)
        return self._head(self._norm(x)).view(n, -1, self.vocab_size)

    def _rotated(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split [m, heads + 2 kv heads, dim] into rotated queries, rotated keys, and values."""
        turned = self._heads + self._kv.shape.heads
        qk = qkv[:, :turned]
        qk = torch.addcmul(qk * cos, qk.roll(cos.shape[-1] // 2, -1), sin)
        return qk[:, : self._heads], qk[:, self._heads :], qkv[:, turned:]


def why_not(model: Any) -> str | None:
    """Return why the lean decoder does not take a model, in a few words; None where it does."""
    if isinstance(model, Skeleton):
        return None  # one is made of what fits alone
    kind = type(model).__name__
    if kind not in KINDS:
        return f"a {kind}, not one of {', '.join(KINDS)}"
    if (places := {str(p.device) for p in model.parameters()}) != {"cpu"}:
        return f"weights on {', '.join(sorted(places))}, not all on cpu"
    if other := next((reason for layer in model.model.layers if (reason := _odd_layer(layer))), None):
        return other
    dtypes = {p.dtype for p in model.parameters()}
    if dtypes not in ({torch.float32}, {torch.bfloat16}):
        return f"weights in {', '.join(sorted(map(str, dtypes)))}, not all in float32 or all in bfloat16"
    if (size := sum(p.numel() for p in model.parameters())) > LARGEST:
        return f"{size:,} weights, more than {LARGEST:,}"
    return _odd_config(model.config)


def _odd_layer(layer: Any) -> str | None:
    """Name what a layer has that Mistral's has not: what adapters and quantizers put in is of other types."""
    for module in layer.modules():
        kind = type(module)
        if kind is nn.Linear and module.bias is not None:
            return "a Linear with a bias"
        if kind is not nn.Linear and not kind.__module__.startswith(MODULES):
            return f"a layer with {kind.__name__}"
        if module._forward_hooks or module._forward_pre_hooks:
            return "a layer with a forward hook"
    return None


def _odd_config(config: Any) -> str | None:
    rotary = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in ROTARY:
        return f"rope_type {rotary!r}"
    if len(set(getattr(config, "layer_types", None) or ())) > 1:
        return "layers of several kinds of attention"
    if config.hidden_act != "silu":
        return f"hidden_act {config.hidden_act!r}"
    return None


def _layer(layer: Any, four_bit: bool) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp

    def product(*linears: nn.Linear) -> Product:
        return Product([linear.weight for linear in linears], four_bit=four_bit)

    return _Layer(
        qkv=product(attention.q_proj, attention.k_proj, attention.v_proj),
        out=product(attention.o_proj),
        gate_up=product(mlp.gate_proj, mlp.up_proj),
        down=product(mlp.down_proj),
        before_attention=Norm(layer.input_layernorm),
        before_mlp=Norm(layer.post_attention_layernorm),
    )


def _is_four_bit(model: Any) -> bool:
    return four_bit_kernel() and all(on_lattice(w) for layer in model.model.layers for w in _matrices(layer))


def _matrices(layer: Any) -> Iterator[Tensor]:
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        yield getattr(layer.self_attn, name).weight
    for name in ("gate_proj", "up_proj", "down_proj"):
        yield getattr(layer.mlp, name).weight
