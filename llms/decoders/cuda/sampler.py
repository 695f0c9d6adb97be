"""The state of the sampling kernel between steps: every slot's tokens, for the penalty, and its logit biases.

Nothing here waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llms.decoders.cuda.machine import Machine, Sample
from llms.decoders.sampling import MOST_BIASES


class Sampler:
    """Buffers of the sampling kernel.

    Args:
        machine: Compiled kernels.
        slots: Number of slots, including the spare slot of unused columns.
        window: Longest sequence that a slot holds, in tokens.
        meta: int32 [fields, 64], the description of each column.
        fields: Names of its rows.

    Attributes:
        history: int32 [slots, window], the tokens of each slot; the kernel adds those of its own columns.
    """

    def __init__(
        self, machine: Machine, *, slots: int, window: int, meta: Tensor, fields: Sequence[str]
    ) -> None:
        device = machine.device
        self._machine, self._meta, self._fields = machine, meta, fields
        self.history = torch.zeros(slots, window, dtype=torch.int32, device=device)
        self._bias_ids = torch.zeros(slots, MOST_BIASES, dtype=torch.int32, device=device)
        self._bias_values = torch.zeros(slots, MOST_BIASES, dtype=torch.float32, device=device)
        self._wide = torch.zeros(machine.columns, machine.shape.vocabulary, device=device)
        self._biases: dict[int, tuple[tuple[int, float], ...]] = {}

    def note(self, slot: int, first: int, tokens: Tensor) -> None:
        """Record tokens that were not appended by a step."""
        self.history[slot, first : first + len(tokens)] = tokens

    def fork(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a slot."""
        if source != target and length:
            self.history[target, :length] = self.history[source, :length]

    def bias(self, slot: int, biases: tuple[tuple[int, float], ...]) -> None:
        """Set the biases of a slot's next columns; they are uploaded only if they have changed."""
        if not biases or self._biases.get(slot) == biases:
            return
        device, count = self.history.device, len(biases)
        ids, values = zip(*biases, strict=True)
        up = torch.tensor(ids, dtype=torch.int32, pin_memory=True).to(device, non_blocking=True)
        self._bias_ids[slot, :count] = up
        up = torch.tensor(values, dtype=torch.float32, pin_memory=True).to(device, non_blocking=True)
        self._bias_values[slot, :count] = up
        self._biases[slot] = biases

    def launch(self, bucket: int, logits: Tensor, out: Tensor) -> None:
        """Launch the kernel, with one block for each column.

        Args:
            bucket: Number of columns.
            logits: bf16 [64, vocabulary].
            out: int64 [64].
        """
        columns = (
            self._meta[self._fields.index(field)].data_ptr()
            for field in (
                "token", "slot", "pos", "top_k", "temperature", "top_p", "min_p", "seed_low", "seed_high",
                "penalty", "biases",
            )
        )  # fmt: skip
        self._machine.sample((bucket,), Sample(
            logits.data_ptr(), self._wide.data_ptr(), self.history.data_ptr(), self._bias_ids.data_ptr(),
            self._bias_values.data_ptr(), *columns, out.data_ptr(),
            logits.shape[1], self.history.shape[1], MOST_BIASES,
        ))  # fmt: skip
