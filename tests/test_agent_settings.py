"""Settings: sources of values, invalid values, and the folders."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from agent.errors import ConfigError, FolderError
from agent.folders import find_folders, private_file, private_folder
from agent.settings import Settings, load_settings


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AGENT_HOME", str(tmp_path))
    monkeypatch.delenv("AGENT_CACHE_DIR", raising=False)
    return tmp_path


def write_config(home: Path, text: str) -> None:
    (home / "config.toml").write_text(text, encoding="utf-8")


def test_argument_beats_environment_beats_file_beats_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings().k == 4
    write_config(home, "k = 5\nmax_tokens = 10\n")
    assert load_settings().k == 5
    monkeypatch.setenv("AGENT_K", "6")
    assert load_settings().k == 6
    assert load_settings(k=7).k == 7
    assert load_settings(k=None).k == 6
    assert load_settings(k=7).max_tokens == 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temprature = 1\n", "did you mean 'temperature'"),
        ("zzz = 1\n", "agent config show"),
        ("temperature = 9\n", "'temperature'"),
        ("temperature = 'hot'\n", "found 'hot'"),
        ("k = = 1\n", "TOML"),
    ],
)
def test_bad_config_is_named(home: Path, text: str, expected: str) -> None:
    write_config(home, text)
    with pytest.raises(ConfigError, match="expected") as caught:
        load_settings()
    assert expected in str(caught.value)


def test_config_that_is_no_text(home: Path) -> None:
    (home / "config.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_settings()


@pytest.mark.parametrize("name", ["AGENT_TEMPERATURE", "AGENT_MAX_TOKENS", "AGENT_MCP"])
def test_bad_environment_is_named(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert name.removeprefix("AGENT_").lower() in str(caught.value).lower()


def test_home_holds_everything_and_the_cache_can_be_elsewhere(tmp_path: Path) -> None:
    under = find_folders(tmp_path)
    assert {under.data, under.config} == {tmp_path}
    assert under.cache.parent == tmp_path
    assert find_folders(tmp_path, tmp_path / "c").cache == tmp_path / "c"
    platform = find_folders()
    assert platform.cache.name == "mistral-agent"
    assert find_folders(tmp_path, Path("platform")).cache == platform.cache


def test_private_folders_and_files(tmp_path: Path) -> None:
    file = private_file(tmp_path / "a" / "b.sqlite")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    file.write_text("kept")
    assert private_file(file).read_text() == "kept"


def test_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FolderError, match="AGENT_HOME"):
        private_folder(tmp_path / "file" / "folder")
    with pytest.raises(FolderError, match="expected a file"):
        private_file(tmp_path)


def test_the_settings_of_the_model_are_its_own_fields() -> None:
    from llms import ChatLocal, LocalLLM

    shared = Settings.model_fields.keys() & ChatLocal.model_fields.keys()
    assert shared == Settings.model_fields.keys() & LocalLLM.model_fields.keys()
    assert sorted(shared) == [
        "adapter", "cache_bytes", "cache_dir", "decoder", "device", "download", "max_tokens",
        "merge_adapter", "model", "quantization", "repetition_penalty", "require_gpu", "seed",
        "temperature", "top_p", "window",
    ]  # fmt: skip
