"""Pulling from the Hub: huggingface_hub's own client, in a child process, against a stand-in on 127.0.0.1."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hub_pulls import (
    REPO,
    command,
    environment,
    fresh_files,  # noqa: F401  a fixture
    pull,
    tiny_repository,  # noqa: F401  a fixture
)
from hub_standin import Hub, Repo, serving

from llms.errors import UnknownModel, UnsupportedModel
from llms.models import hub
from llms.models.load import LoadSettings, load


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
    assert [found.repo for found in hub.pulled(cache)] == [REPO]
    for revision in (None, "main", answer["commit"]):
        assert hub.locate(REPO, revision, cache) == folder
    assert hub.locate(REPO, "v2", cache) is None
    loaded = load(LoadSettings(model=REPO, device="cpu", cache_dir=cache))
    assert (loaded.name, loaded.checkpoint.folder) == (REPO, folder)


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
    assert hub.locate(REPO, None, tmp_path) == Path(second["folder"])


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
        assert hub.locate(REPO, None, tmp_path) is None, "a half pull is never used"
        with pytest.raises(UnknownModel, match=r"llms\.models\.pull"):
            load(LoadSettings(model=REPO, device="cpu", cache_dir=tmp_path))
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
        assert hub.locate(REPO, None, tmp_path) is None
        server.repos[REPO].garble = False
        assert "folder" in pull(server.url, tmp_path)


def test_a_damaged_file_is_seen_and_mended_by_the_next_pull(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files)) as server:
        weights = Path(pull(server.url, tmp_path)["folder"]) / "model.safetensors"
        with weights.open("r+b") as file:
            file.truncate(1000)
        assert hub.locate(REPO, None, tmp_path) is None
        pull(server.url, tmp_path)
    assert weights.read_bytes() == (files / "model.safetensors").read_bytes()
    assert hub.locate(REPO, None, tmp_path) == weights.parent


def test_removing_frees_the_space_and_leaves_the_others(files: Path, tmp_path: Path) -> None:
    with serving(owner__tiny=Repo(files), owner__other=Repo(files)) as server:
        size = pull(server.url, tmp_path)["size"]
        pull(server.url, tmp_path, "owner/other")
    assert hub.remove(REPO, tmp_path) >= size
    assert hub.locate(REPO, None, tmp_path) is None
    assert [found.repo for found in hub.pulled(tmp_path)] == ["owner/other"]
    assert hub.remove(REPO, tmp_path) == 0


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
