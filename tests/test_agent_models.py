"""`agent models` and `--model` as a user types them: a Hub on 127.0.0.1, killed children, bad models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_command import Run, command_line
from hub_standin import Hub, Repo, serving
from safetensors.torch import load_file, save_file
from tiny_models import tiny_checkpoint, tiny_gguf

ROOT = Path(__file__).parent.parent
TINY = "owner/tiny"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of 15 MB, so that a slow download can be interrupted."""
    return tiny_checkpoint(tmp_path_factory.mktemp("repo") / "tiny", hidden_size=512, intermediate_size=1024)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def child(hub: Hub, home: Path, **more: str) -> dict[str, Any]:
    """Return the arguments that start a command which may connect to the stand-in and nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AGENT_"))}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "AGENT_HOME": str(home), "COLUMNS": "300"}
    return {"cwd": ROOT, "env": kept | own | more, "stdin": subprocess.DEVNULL, "text": True}


def models(hub: Hub, home: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "models", *args]
    return subprocess.run(command, capture_output=True, timeout=120, check=False, **child(hub, home, **more))


def start(hub: Hub, home: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent", "models", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **child(hub, home))


def begun(home: Path) -> int:
    """Return the number of bytes of the weights that have arrived so far."""
    return sum(path.stat().st_size for path in home.rglob("*.incomplete"))


def shot(home: Path) -> dict[str, Any]:
    """Return what a failed command must not change: files of cache and settings with their times."""
    kept = [path for name in ("cache", "config") for path in (home / name).rglob("*") if path.is_file()]
    passing = {".lock", ".partial"}
    return {
        str(path.relative_to(home)): path.stat().st_mtime_ns
        for path in kept
        if path.suffix not in passing and "running" not in path.parts
    }


@pytest.fixture
def agent(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """The command line in this process, so that imports are paid once."""
    monkeypatch.setenv("AGENT_HOME", str(home))
    monkeypatch.setenv("COLUMNS", "300")
    with command_line(tmp_path, monkeypatch, capsys) as run:
        yield run


def test_a_model_is_pulled_shown_chosen_and_used_without_a_network_then(
    files: Path, home: Path, agent: Run
) -> None:
    with serving(owner__tiny=Repo(files)) as hub:
        done = models(hub, home, "pull", TINY)
        assert done.returncode == 0, done.stderr
        assert "fetching 14.7 MB of owner/tiny" in done.stderr and "is at" in done.stdout
    rows = {row["name"]: row for row in json.loads(agent("models", "list", "--json").out)["models"]}
    assert rows[TINY]["size"] > 14_000_000 and rows[TINY]["context"] == 256
    shown = agent("models", "show", TINY).out
    assert "parameters: 3.7M" in shown and "kv cache: " in shown and "chat template: yes" in shown, shown
    assert agent("models", "alias", "mine", TINY).out == "mine = owner/tiny\n"
    assert agent("models", "default", "mine").out == "mine\n"
    said: list[str] = []
    for name in (TINY, "mine", None):
        done = agent("complete", "--max-tokens", "3", *(["-m", name] if name else []), "one two")
        assert done.code == 0, done
        assert said or "owner/tiny (bfloat16) on cpu" in done.err, done
        said.append(done.out)
        loaded = json.loads(agent("models", "ps", "--json").out)["loaded"]
        assert (loaded[0]["name"], loaded[0]["device"], loaded[0]["pid"]) == (TINY, "cpu", os.getpid())
    assert said[0] == said[1] == said[2]
    freed = agent("models", "rm", "mine")
    assert freed.code == 0 and "freed" in freed.out, freed
    assert agent("models", "default").out == "auto\n", "a default that is gone goes back to auto"
    assert json.loads(agent("models", "alias", "--delete", "mine", "--json").out) == {"aliases": {}}


def test_a_pull_that_is_killed_goes_on_where_it_stopped(files: Path, home: Path) -> None:
    with serving(owner__tiny=Repo(files, bytes_per_s=10_000_000)) as hub:
        first = start(hub, home, "pull", TINY)
        wait_until(lambda: begun(home) >= 10_000_000 or first.poll() is not None)
        first.kill()
        first.communicate()
        had = begun(home)
        assert had >= 10_000_000, "it was killed in the middle"
        hub.repos[TINY].bytes_per_s = None
        second = models(hub, home, "pull", TINY)
        assert second.returncode == 0, second.stderr
        assert "are here already" in second.stderr
        assert hub.sent("model.safetensors")[-1] == f"bytes={had}-"


def test_two_pulls_at_once_fetch_once(files: Path, home: Path) -> None:
    with serving(owner__tiny=Repo(files, bytes_per_s=10_000_000)) as hub:
        both = [start(hub, home, "pull", TINY) for _ in range(2)]
        ends = [process.communicate(timeout=120) for process in both]
        assert [process.returncode for process in both] == [0, 0], ends
        assert len(hub.sent("model.safetensors")) == 1
        assert sum("another process is preparing" in err for _, err in ends) == 1, ends


@pytest.mark.parametrize(
    ("name", "token", "code", "words"),
    [
        ("owner/missing", "", 16, "https://huggingface.co/owner/missing"),
        ("owner/gated", "", 22, "accept its licence at https://huggingface.co/owner/gated"),
        ("owner/gated", "hf_wrong", 22, "https://huggingface.co/owner/gated"),
        ("owner/tiny@v9", "", 16, "revision 'v9'"),
        ("owner/broken", "", 22, "https://huggingface.co/settings/tokens"),
    ],
)
def test_what_the_hub_refuses_names_the_page_and_changes_nothing(
    files: Path, home: Path, name: str, token: str, code: int, words: str
) -> None:
    gated = Repo(files, gated=True, token="hf_right")
    with serving(owner__tiny=Repo(files), owner__gated=gated, owner__broken=Repo(files, status=403)) as hub:
        before = shot(home)
        done = models(hub, home, "pull", name, **({"HF_TOKEN": token} if token else {}))
    assert done.returncode == code and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    assert shot(home) == before


def test_a_disk_without_room_is_told_before_the_weights_come(files: Path, home: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "sitecustomize.py").write_text(
        "import shutil\nfrom collections import namedtuple\n"
        "shutil.disk_usage = lambda _: namedtuple('U', 'total used free')(0, 0, 100_000)\n"
    )
    with serving(owner__tiny=Repo(files)) as hub:
        done = models(hub, home, "pull", TINY, PYTHONPATH=str(full))
        assert done.returncode != 0 and "pulling owner/tiny needs 0.03 GB" in done.stderr, done.stderr
        assert hub.sent("model.safetensors") == []


def test_a_model_that_is_here_is_enough_where_the_hub_cannot_be_asked(files: Path, home: Path) -> None:
    with serving(owner__tiny=Repo(files)) as hub:
        assert models(hub, home, "pull", TINY).returncode == 0
    done = models(hub, home, "pull", TINY)
    assert done.returncode == 0 and "is here already" in done.stderr, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("quantization", ["none", "nf4", "fp4", "int8"])
def test_every_quantization_can_be_asked_for(agent: Run, folder: Path, quantization: str) -> None:
    done = agent(
        "complete", "-m", str(folder), "--quantization", quantization, "--max-tokens", "2", "one two"
    )
    assert done.code == 0, done
    assert ("float16" if quantization == "int8" else quantization.removeprefix("none")) in done.err, done


def test_a_gguf_file_is_a_model(agent: Run, tmp_path: Path, home: Path) -> None:
    file = tiny_gguf(tmp_path / "small.gguf")
    done = agent("complete", "-m", str(file), "--max-tokens", "2", "one two")
    assert done.code == 0 and "converting small.gguf" in done.err, done
    again = agent("complete", "-m", str(file), "--max-tokens", "2", "one two")
    assert again.code == 0 and "converting" not in again.err, again
    assert agent("models", "rm", str(file)).code == 0 and file.exists()
    assert list((home / "cache" / "gguf").glob("small-*/")) == []


def test_an_adapter_is_put_on_top_and_merged_on_request(agent: Run, folder: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(str(tmp_path / "lora"))
    for more in ([], ["--merge-adapter"]):
        words = ["complete", "-m", str(folder), "--adapter", str(tmp_path / "lora"), *more]
        done = agent(*words, "--max-tokens", "2", "one two")
        assert done.code == 0, done


def test_a_gpu_that_is_required_is_not_replaced(agent: Run, home: Path, folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = agent("complete", "--require-gpu", "-m", str(folder), "x")
    assert done.code == 27 and "found none that can be used" in done.err, done


def nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def template(text: str | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "chat_template.jinja").unlink()
        if text is not None:
            (folder / "chat_template.jinja").write_text(text)

    return change


def config(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | changes))

    return change


def gone(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "NaN weights": (nan, "NaN"),
    "a chat template that raises": (template("{{ raise_exception('only cats') }}"), "only cats"),
    "a chat template that does not parse": (template("{% for"), "chat template"),
    "no chat template": (template(None), "chat template"),
    "no safetensors": (pickled, "safetensors"),
    "no tokenizer": (gone("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    "no configuration": (gone("config.json"), "config.json"),
    "weights cut short": (cut, "bytes"),
    "an unknown architecture": (config(architectures=["NopeForCausalLM"]), "NopeForCausalLM"),
    "code in the configuration": (config(auto_map={"AutoModel": "x.Y"}), "auto_map"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_model_is_refused_and_leaves_cache_and_default_as_they_were(
    agent: Run, home: Path, tmp_path: Path, folder: Path, name: str
) -> None:
    good = tiny_checkpoint(tmp_path / "good")
    assert agent("models", "default", str(good)).code == 0
    harm, words = BAD[name]
    harm(folder)
    before = shot(home)
    plain = ("--no-docs", "--no-tools", "--no-log", "--max-tokens", "2")
    done = agent("ask", *plain, "-m", str(folder), "hello")
    assert 10 <= done.code < 30, done
    assert words in done.err and "Traceback" not in done.err and done.out.strip() == "", done
    assert shot(home) == before
    assert agent("models", "default").out == f"{good}\n"


def test_raw_completion_needs_no_chat_template(agent: Run, folder: Path) -> None:
    template(None)(folder)
    assert agent("complete", "-m", str(folder), "--max-tokens", "2", "one two").code == 0


def wait_until(true: Callable[[], bool], seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)
