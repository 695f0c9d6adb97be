"""`llms.diagnose` on driver, torch, bitsandbytes, memory, model and decoder, and the fixes that it names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import tiny_checkpoint

from llms.models import diagnosis, gpu
from llms.models.diagnosis import diagnose, judge
from llms.models.load import LoadSettings


def test_a_diagnosis_names_every_part_and_a_mend_for_what_is_wrong() -> None:
    findings = diagnose()
    assert [found.name for found in findings] == ["driver", "torch", "gpu", "nf4", "kernels"]
    for found in findings:
        assert found.detail
        assert found.ok or found.fix or (found.name == "gpu" and found.state == "missing")


def test_the_package_kernels_is_named_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llms.models.diagnosis.importlib.util.find_spec", lambda _name: object())
    (found,) = [found for found in diagnose() if found.name == "kernels"]
    assert not found.ok and "pip uninstall kernels" in found.fix


def test_a_cpu_only_torch_beside_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gpu, diagnosis):
        monkeypatch.setattr(module, "driver", lambda: "NVIDIA H100, 570.1, 80 GB")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert gpu.why_none() == "this torch is the CPU build, but there is a GPU"
    found = {found.name: found for found in diagnose()}
    assert found["driver"].ok
    assert "CPU build" in found["torch"].detail and "pip install" in found["torch"].fix


def test_a_small_gpu_and_a_bitsandbytes_without_its_library_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = gpu.Gpu(index=0, name="GTX", total=4 * 10**9, free=3 * 10**9, bf16=False)
    monkeypatch.setattr(diagnosis, "gpus", lambda: [small])
    found = {found.name: found for found in diagnose()}
    assert "3.0 of 4.0 GB free" in found["gpu"].detail and "6 GB" in found["gpu"].fix
    if not torch.cuda.is_available():
        assert "no library" in found["nf4"].detail and found["nf4"].fix


def test_a_bitsandbytes_that_only_pretends_to_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class ErrorHandlerMockBNBNativeLibrary:
        def __getattr__(self, name: str) -> object:
            return lambda *_args: None

    monkeypatch.setattr("bitsandbytes.cextension.lib", ErrorHandlerMockBNBNativeLibrary())
    (found,) = [found for found in diagnose() if found.name == "nf4"]
    assert not found.ok and "no library" in found.detail


def test_without_a_gpu_nothing_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gpu, diagnosis):
        monkeypatch.setattr(module, "driver", lambda: None)
    monkeypatch.setattr("llms.models.diagnosis.shutil.which", lambda _name: None)
    monkeypatch.setattr(diagnosis, "gpus", list)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = {found.name: found for found in diagnose()}
    assert {name: found[name].state for name in ("driver", "torch", "gpu")} == {
        "driver": "missing",
        "torch": "ok",
        "gpu": "missing",
    }


def test_a_driver_that_does_not_answer_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "driver", lambda: None)
    monkeypatch.setattr("llms.models.diagnosis.shutil.which", lambda _name: "/usr/bin/nvidia-smi")
    (found,) = [found for found in diagnose() if found.name == "driver"]
    assert found.state == "broken" and "does not answer" in found.detail and "install its driver" in found.fix


def test_bitsandbytes_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise diagnosis.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("llms.models.diagnosis.importlib.metadata.version", version)
    (found,) = [found for found in diagnose() if found.name == "nf4"]
    assert found.state == "broken" and "pip install" in found.fix


def test_the_model_and_the_decoder_that_would_run_are_named(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    model, decoder = judge(LoadSettings(model=str(folder), device="cpu", cache_dir=tmp_path, window=128))
    assert model.state == "ok" and "tiny (bfloat16) on cpu, window 128 tokens" in model.detail
    assert decoder.name == "decoder" and decoder.detail.split(":")[0].split(";")[0] in ("lean", "reference")
    assert "CUDA GPU" in decoder.detail


def test_auto_without_its_checkpoint_names_the_command_and_fetches_nothing(tmp_path: Path) -> None:
    (found,) = judge(LoadSettings(cache_dir=tmp_path, device="cpu"))
    assert found.state == "missing" and 'llms.models.pull("smollm2-135m")' in found.fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "no-such-model"}, "unknown model"),
        ({"require_gpu": True, "device": "cpu"}, "require_gpu"),
        ({"window": 10**9}, "window of at most"),
        ({"decoder": "turbo"}, "found 'turbo'"),
    ],
)
def test_what_cannot_be_loaded_is_broken_with_the_reason(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    folder = tiny_checkpoint(tmp_path / "tiny")
    (found,) = judge(LoadSettings(**{"model": str(folder), "cache_dir": tmp_path, **settings}))  # type: ignore[arg-type]
    assert found.state == "broken" and words in found.detail


def test_the_fast_decoder_is_named_with_the_limit_it_is_held_against(monkeypatch: pytest.MonkeyPatch) -> None:
    h100 = SimpleNamespace(memory_clock_rate=2_619_000, memory_bus_width=5120)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: h100)
    said = diagnosis._decoder("fast", "cuda:0", 4_130_000_000)
    assert "fast: own NF4 kernels" in said and "(3.35 TB/s) allows one sequence about 812 tokens/s" in said
    assert "`fast` serves" in diagnosis._decoder("reference", "cuda:0", 1)
    assert "needs a CUDA" in diagnosis._decoder("lean", "cpu", 1)
