"""Pulls that are refused: by the Hub, by what is there, or by this machine; nothing is left half done."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_pulls import (
    PULL,
    REPO,
    environment,
    fresh_files,  # noqa: F401  a fixture
    pull,
    tiny_repository,  # noqa: F401  a fixture
)
from hub_standin import Repo, serving

from llms.models import hub


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
    assert hub.pulled(tmp_path) == []


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
    assert hub.pulled(tmp_path) == []


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
    assert hub.locate(REPO, None, tmp_path) is None


def test_a_disk_without_room_is_refused_before_the_weights_come(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = PULL.replace(
        "from llms.models import hub",
        "from llms.models import hub; import shutil; from collections import namedtuple\n"
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
