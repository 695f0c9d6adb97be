"""The engine over the CUDA decoder on a GPU: steps launched ahead, pools that run full, drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from llms.decoders.cuda.decoder import CudaDecoder
from llms.decoders.cuda.synthetic import synthetic_model
from llms.decoders.sampling import Sampling, sample
from llms.engine.engine import Engine
from llms.engine.request import GenerationRequest
from llms.engine.speculation import AcceptanceTracker
from llms.engine.stream import Stream
from llms.models.weights import weights_of

pytestmark = pytest.mark.gpu

SIZES: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 4096}


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="module")
def decoder(kernels: Path) -> CudaDecoder:
    weights = weights_of(synthetic_model("cuda", **SIZES))
    return CudaDecoder(weights, max_slots=66, window=1024, cache=kernels, cache_tokens=9000)


def random_ids(decoder: CudaDecoder, count: int, seed: int = 0) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return [int(i) for i in torch.randint(0, decoder.vocab_size, (count,), generator=random)]


def asked(decoder: CudaDecoder, seed: int, count: int = 40, **more: Any) -> GenerationRequest:
    def text(ids: list[int]) -> str:
        return "".join(chr(0x4E00 + i) for i in ids)

    prompt = tuple(random_ids(decoder, 5 + seed % 3, seed))
    return GenerationRequest(prompt=prompt, max_tokens=count, decode=text, run_ahead=0, **more)


class Even:
    """A grammar: even tokens only."""

    def __init__(self, size: int) -> None:
        self.allowed = torch.arange(size) % 2 == 0

    def mask(self, remaining: int) -> torch.Tensor:
        return self.allowed

    def fit_budget(self, token: int, remaining: int) -> int:
        return token

    def accept(self, token: int) -> bool:
        return False

    def forced(self) -> list[int]:
        return []


def engine_tokens(decoder: CudaDecoder, ahead: bool, masked: bool) -> list[list[int]]:
    """Eight requests at once; one is abandoned after ten tokens, and two meet an end token."""
    for slot in range(66):
        decoder.free(slot)
    decoder.runs_ahead = ahead  # type: ignore[misc]
    engine = Engine(decoder, max_batch=8)
    warm = Sampling(temperature=0.9, top_p=0.95, seed=3)
    requests = [asked(decoder, i) for i in range(3)]
    requests += [asked(decoder, 3, sampling=warm), asked(decoder, 4, repetition_penalty=1.3)]
    requests += [asked(decoder, 5, logit_bias={7: 3.0}, sampling=warm), asked(decoder, 6, top_logprobs=2)]
    requests.append(asked(decoder, 7, constraint=Even(decoder.vocab_size) if masked else None))
    streams: list[Stream] = [engine.submit(one) for one in requests]
    while len(streams[0].generated) < 10:
        streams[0].next_piece()
    streams[0].close()
    for stream in streams[1:]:
        stream.result()
    decoder.runs_ahead = True  # type: ignore[misc]
    return [stream.generated[: 10 if index == 0 else None] for index, stream in enumerate(streams)]


@pytest.mark.parametrize("masked", [False, True])
def test_the_engine_gives_ahead_of_the_host_what_it_gives_in_turn(decoder: CudaDecoder, masked: bool) -> None:
    ahead, turn = (engine_tokens(decoder, how, masked) for how in (True, False))
    assert ahead == turn and all(len(row) == 40 for row in ahead[1:])
    assert not masked or not any(token % 2 for token in ahead[7])


def test_launching_steps_waits_for_nothing(decoder: CudaDecoder) -> None:
    """A step does not wait for the GPU, even if tokens are given on it or a slot gets a page or a bias."""
    for slot in range(4):
        decoder.free(slot)
        decoder.prefill(slot, random_ids(decoder, 62, slot))
    how = [Sampling(logit_bias=((3, 1.0),)), Sampling(repetition_penalty=1.2), Sampling(), Sampling()]
    tokens = decoder.step([0, 1, 2, 3], [[5]] * 4, how).tokens
    torch.cuda.synchronize()
    torch.cuda._sleep(1_500_000_000)  # about a second of the GPU's clock
    how[0] = Sampling(logit_bias=((4, 1.0), (5, 2.0)))
    for _ in range(4):
        assert tokens is not None
        tokens = decoder.step([0, 1, 2, 3], [], how, given=tokens).tokens
    done = torch.cuda.Event()
    done.record()
    assert not done.query(), "the host waited for the GPU"
    assert tokens is not None and len(tokens.tolist()) == 4 and decoder.length(0) == 67


def test_a_full_pool_makes_requests_wait_and_ends_none(kernels: Path) -> None:
    model = synthetic_model("cuda", **SIZES)
    decoder = CudaDecoder(weights_of(model), max_slots=12, window=512, cache=kernels, cache_tokens=64)
    decoder.max_draft = 0  # type: ignore[misc]
    engine = Engine(decoder, max_batch=8)
    streams = [engine.submit(asked(decoder, i, 200)) for i in range(8)]
    for stream in streams:
        stream.result()
    assert all(len(stream.generated) == 200 for stream in streams)


@pytest.mark.parametrize("how", [Sampling(), Sampling(temperature=0.7, seed=5, repetition_penalty=1.2)])
def test_guesses_are_verified_on_the_device_and_change_no_token(
    decoder: CudaDecoder, how: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight columns of one slot give the tokens that eight steps of one token give."""
    for slot in range(66):
        decoder.free(slot)
    prompt, others = random_ids(decoder, 90), [Sampling()] * 7
    decoder.prefill(0, prompt)
    for slot in range(8):
        decoder.fork(0, slot)
    text = [7]
    for _ in range(8):
        tokens = decoder.step(list(range(8)), [[text[-1]]] * 8, [how, *others]).tokens
        assert tokens is not None
        text.append(int(tokens[0]))
    decoder.truncate(0, 90)
    result = decoder.step([0], [text[:8]], [how], all_logits=True)
    assert result.drawn is not None
    held = [[*prompt, *text[: end + 1]] for end in range(8)]
    rules = sample(result.logits[0].double(), [how] * 8, [len(h) for h in held], held)
    assert int((result.drawn[0] != rules).sum()) <= 1
    if how.temperature == 0:  # attention over 8 columns of one slot adds in another order: a near tie
        assert sum(a != b for a, b in zip(result.drawn[0].tolist(), text[1:], strict=True)) <= 1
    monkeypatch.setattr(AcceptanceTracker, "pays", lambda acceptance: True)
    stream = Engine(decoder).submit(asked(decoder, 1, 60, sampling=how))
    assert len(stream.result()) == 60
