"""Pulls in child processes from a stand-in for the Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_checkpoint

REPO = "owner/tiny"


# The client writes to disk every 10 MB, which is more than these files have.
PULL = """
import json, sys
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 16_384
from pathlib import Path
from llms.models import hub
lines, reports = [], []
try:
    done = hub.pull(sys.argv[1], sys.argv[3] or None, Path(sys.argv[2]), notify=lines.append,
                    progress=lambda *report: reports.append(report), token=sys.argv[4] or None)
    print(json.dumps({"folder": str(done.folder), "size": done.size, "commit": done.commit,
                      "lines": lines, "reports": reports}))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error), "lines": lines}))
"""


@pytest.fixture(scope="module", name="original")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository's folder: a tiny checkpoint and files that must not be pulled."""
    folder = tiny_checkpoint(tmp_path_factory.mktemp("repo") / "tiny")
    (folder / "pytorch_model.bin").write_bytes(b"pickle" * 1000)
    (folder / "consolidated.safetensors").write_bytes(b"the same again" * 1000)
    (folder / "modeling_tiny.py").write_text("raise SystemExit\n")
    (folder / "README.md").write_text("# Tiny\n")
    return folder


@pytest.fixture(name="files")
def fresh_files(original: Path, tmp_path: Path) -> Path:
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
