"""Pulling from the Hub: huggingface_hub's own client, in a child process, against a stand-in on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hub_standin import Hub, Repo, serving
from tiny_models import tiny_checkpoint

from llms import hub, hub_cache
from llms.errors import UnknownModel, UnsupportedModel
from llms.load import LoadSpec, load

REPO = "owner/tiny"
# The client writes what has arrived every 10 MB, more than these files have.
PULL = """
import json, sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 16_384
from pathlib import Path
from llms import hub
lines, reports = [], []
try:
    done = hub.pull(sys.argv[1], sys.argv[3] or None, Path(sys.argv[2]), notify=lines.append,
                    progress=lambda *report: reports.append(report), token=sys.argv[4] or None)
    print(json.dumps({"folder": str(done.folder), "size": done.size, "commit": done.commit,
                      "lines": lines, "reports": reports}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error), "lines": lines}))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's files: a tiny checkpoint and what must not be pulled."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("repo") / "tiny")
    (folder / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    (folder / "consolidated.safetensors").write_bytes(b"the same again" * 1000)
    (folder / "modeling_tiny.py").write_text("raise SystemExit\n")
    (folder / "README.md").write_text("# Tiny\n")
    return folder


@pytest.fixture
def files(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "files"))


def environment(url: str, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


def command(repo: str, cache: Path, revision: str = "", token: str = "") -> list[str]:
    return [sys.executable, "-c", PULL, repo, str(cache), revision, token]


def pull(
    url: str, cache: Path, repo: str = REPO, revision: str = "", token: str = "", says: str = ""
) -> dict[str, Any]:
    done = subprocess.run(
        command(repo, cache, revision, token),
        env=environment(url, cache / "hf-home"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stderr
    assert says or done.stderr == "", "no bars, no notices of the client's"
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_pull_brings_what_loads_and_nothing_else_and_works_offline(files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serving(owner__tiny=Repo(files)) as server:
        answer = pull(server.url, cache)
    folder = Path(answer["folder"])
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert answer["reports"][-1] == [REPO, answer["size"], answer["size"]]
    assert any("fetching" in line for line in answer["lines"])
    assert [found.repo for found in hub_cache.pulled(cache)] == [REPO]
    for revision in (None, "main", answer["commit"]):
        assert hub_cache.locate(REPO, revision, cache) == folder
    assert hub_cache.locate(REPO, "v2", cache) is None
    loaded = load(LoadSpec(model=REPO, device="cpu", cache_dir=cache))
    assert (loaded.name, loaded.folder) == (REPO, folder)


def test_a_second_pull_fetches_no_file_again(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files)) as server:
        pull(server.url, tmp_path)
        pull(server.url, tmp_path)
        assert len(server.sent("model.safetensors")) == 1


def test_a_new_revision_is_fetched_and_replaces_what_main_means(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files)) as server:
        first = pull(server.url, tmp_path)
        config = json.loads((files / "generation_config.json").read_text())
        (files / "generation_config.json").write_text(json.dumps({**config, "temperature": 0.5}))
        second = pull(server.url, tmp_path)
        assert len(server.sent("model.safetensors")) == 1, "the weights did not change"
    assert first["commit"] != second["commit"]
    assert hub_cache.locate(REPO, None, tmp_path) == Path(second["folder"])


def test_a_pull_that_is_killed_goes_on_where_it_stopped(files: Path, tmp_path: Path) -> None:
    weights = files / "model.safetensors"
    size = weights.stat().st_size
    with serving(owner__tiny=Repo(files, bytes_per_s=150_000)) as server:
        child = subprocess.Popen(
            command(REPO, tmp_path), env=environment(server.url, tmp_path), stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while half_there(tmp_path) < size // 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.wait()
        arrived = half_there(tmp_path)
        assert size // 3 <= arrived < size
        assert hub_cache.locate(REPO, None, tmp_path) is None, "a half pull is never used"
        with pytest.raises(UnknownModel, match="agent models pull"):
            load(LoadSpec(model=REPO, device="cpu", cache_dir=tmp_path))
        server.repos[REPO].bytes_per_s = None
        answer = pull(server.url, tmp_path)
        ranges = server.sent("model.safetensors")
    assert len(ranges) == 2
    assert ranges[1] is not None and int(ranges[1].removeprefix("bytes=").split("-")[0]) >= size // 3
    assert (Path(answer["folder"]) / "model.safetensors").read_bytes() == weights.read_bytes()


def half_there(cache: Path) -> int:
    parts = cache / "hub" / "models--owner--tiny" / "parts"
    return max((path.stat().st_size for path in parts.glob("*model.safetensors.incomplete")), default=0)


def test_a_line_that_breaks_once_is_picked_up(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files, break_after=200_000)) as server:
        answer = pull(server.url, tmp_path, says="Trying to resume download")
    arrived = (Path(answer["folder"]) / "model.safetensors").read_bytes()
    assert arrived == (files / "model.safetensors").read_bytes()


def test_two_pulls_at_once_fetch_once(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files, bytes_per_s=400_000)) as server:
        children = [
            subprocess.Popen(
                command(REPO, tmp_path),
                env=environment(server.url, tmp_path),
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        answers = [json.loads(child.communicate()[0]) for child in children]
        assert len(server.sent("model.safetensors")) == 1
    assert answers[0]["folder"] == answers[1]["folder"]
    assert any("another process" in line for answer in answers for line in answer["lines"])


def test_bytes_that_change_on_the_way_are_refused_and_fetched_again(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files, garble=True)) as server:
        answer = pull(server.url, tmp_path)
        assert (answer["error"], "sha256" in answer["message"]) == ("HashMismatch", True)
        assert hub_cache.locate(REPO, None, tmp_path) is None
        server.repos[REPO].garble = False
        assert "folder" in pull(server.url, tmp_path)


def test_a_damaged_file_is_seen_and_mended_by_the_next_pull(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files)) as server:
        weights = Path(pull(server.url, tmp_path)["folder"]) / "model.safetensors"
        with weights.open("r+b") as file:
            file.truncate(1000)
        assert hub_cache.locate(REPO, None, tmp_path) is None
        pull(server.url, tmp_path)
    assert weights.read_bytes() == (files / "model.safetensors").read_bytes()
    assert hub_cache.locate(REPO, None, tmp_path) == weights.parent


@pytest.mark.parametrize(
    ("repo", "revision", "error", "words"),
    [
        ("owner/none", "", "UnknownModel", ("https://huggingface.co/owner/none", "hf auth login")),
        (REPO, "v9", "UnknownModel", ("'v9'", "/tree/main")),
    ],
)
def test_what_does_not_exist_is_named(
    files: Path, tmp_path: Path, repo: str, revision: str, error: str, words: tuple[str, ...]
) -> None:
    with serving(owner__tiny=Repo(files)) as server:
        answer = pull(server.url, tmp_path, repo, revision)
    assert answer["error"] == error
    for word in words:
        assert word in answer["message"]
    assert hub_cache.pulled(tmp_path) == []


@pytest.mark.parametrize("token", ["", "hf_wrong"])
def test_a_gated_repository_names_the_page_to_visit(files: Path, tmp_path: Path, token: str) -> None:
    with serving(owner__tiny=Repo(files, gated=True, token="hf_right")) as server:
        answer = pull(server.url, tmp_path, token=token)
        assert answer["error"] == "GatedModel"
        assert "https://huggingface.co/owner/tiny" in answer["message"]
        assert "hf auth login" in answer["message"]
        assert "folder" in pull(server.url, tmp_path, token="hf_right")


@pytest.mark.parametrize("status", [403, 500])
def test_a_hub_that_refuses_is_quoted(files: Path, tmp_path: Path, status: int) -> None:
    with serving(owner__tiny=Repo(files, status=status)) as server:
        answer = pull(server.url, tmp_path)
    assert answer["error"] == ("GatedModel" if status == 403 else "FetchFailed")
    assert hub_cache.pulled(tmp_path) == []


def test_without_a_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    answer = pull("http://127.0.0.1:9", tmp_path)
    assert answer["error"] == "FetchFailed"
    assert str(tmp_path / "hub" / "models--owner--tiny") in answer["message"]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("model.safetensors", ("safetensors", "pytorch_model.bin")),
        ("config.json", ("config.json", "adapter")),
        ("tokenizer.json", ("tokenizer",)),
    ],
)
def test_a_repository_without_what_is_needed_is_refused_before_the_weights_come(
    files: Path, tmp_path: Path, gone: str, words: tuple[str, ...]
) -> None:
    (files / gone).unlink()
    with serving(owner__tiny=Repo(files)) as server:
        answer = pull(server.url, tmp_path)
        assert server.sent("model.safetensors") == []
    assert answer["error"] == "UnsupportedModel"
    for word in words:
        assert word in answer["message"]


def test_a_configuration_that_asks_for_code_is_refused_before_the_weights_come(
    files: Path, tmp_path: Path
) -> None:
    config = json.loads((files / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_tiny.Tiny"}
    (files / "config.json").write_text(json.dumps(config))
    with serving(owner__tiny=Repo(files)) as server:
        answer = pull(server.url, tmp_path)
        assert server.sent("model.safetensors") == []
        assert server.sent("modeling_tiny.py") == []
    assert (answer["error"], "auto_map" in answer["message"]) == ("UnsupportedModel", True)
    assert hub_cache.locate(REPO, None, tmp_path) is None


def test_a_disk_without_room_is_refused_before_the_weights_come(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = PULL.replace(
        "from llms import hub",
        "from llms import hub; import shutil; from collections import namedtuple\n"
        "shutil.disk_usage = lambda _: namedtuple('U', 'total used free')(0, 0, 100_000)",
    )
    with serving(owner__tiny=Repo(files)) as server:
        done = subprocess.run(
            [sys.executable, "-c", code, REPO, str(tmp_path), "", ""],
            env=environment(server.url, tmp_path),
            capture_output=True,
            text=True,
            check=True,
        )
        assert server.sent("model.safetensors") == []
    answer = json.loads(done.stdout)
    assert answer["error"] == "NoSpace"
    assert "pulling owner/tiny needs" in answer["message"]


def test_removing_frees_the_space_and_leaves_the_others(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files), owner__other=Repo(files)) as server:
        size = pull(server.url, tmp_path)["size"]
        pull(server.url, tmp_path, "owner/other")
    assert hub_cache.remove(REPO, tmp_path) >= size
    assert hub_cache.locate(REPO, None, tmp_path) is None
    assert [found.repo for found in hub_cache.pulled(tmp_path)] == ["owner/other"]
    assert hub_cache.remove(REPO, tmp_path) == 0


def test_the_weights_that_an_index_names_are_chosen() -> None:
    sizes = {
        "config.json": 1,
        "tokenizer.model": 2,
        "model.safetensors.index.json": 3,
        "model-00001-of-00002.safetensors": 4,
        "model-00002-of-00002.safetensors": 5,
        "consolidated.safetensors": 9,
        "params.json": 1,
    }
    assert sum(hub.select("a/b", sizes).values()) == 15
    with pytest.raises(UnsupportedModel, match=r"consolidated\.safetensors"):
        hub.select("a/b", {"config.json": 1, "tokenizer.json": 1, "consolidated.safetensors": 9})


def test_the_stand_in_notes_what_is_asked(files: Path) -> None:
    with serving(owner__tiny=Repo(files)) as server:
        assert isinstance(server, Hub) and server.url.startswith("http://127.0.0.1:")
