"""LangChain's suite for sandbox backends, inherited over our Sandbox if deepagents is installed.

A backend of deepagents keeps its files from command to command and runs shell commands, while our Sandbox
runs one program and leaves nothing behind. The backend here carries the files along as an archive, so that
the next command finds what the last one left in /tmp. deepagents requires the clients of two clouds
(langchain-anthropic, langchain-google-genai and their dependencies), which the suite does not import, so
deepagents is not a dependency of ours:

    pip install --no-deps deepagents wcmatch bracex && pytest -m slow tests/test_sandbox_deepagents.py
"""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

pytest.importorskip("deepagents", reason="deepagents requires two cloud clients and is not installed")

from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox
from langchain_tests.integration_tests import SandboxIntegrationTests

from sandbox import Limits, Sandbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::pytest.PytestRemovedIn10Warning"),
]
MIB = 1 << 20
_RUN = """
import os, subprocess, sys, tarfile
os.chdir("/tmp")
if os.path.exists("work/before.tar"):
    with tarfile.open("work/before.tar") as held:
        held.extractall("/tmp", filter="fully_trusted")
command = ["/bin/sh", "-c", sys.stdin.read()]
done = subprocess.run(
    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
)
sys.stdout.buffer.write(done.stdout)
sys.stdout.flush()
with tarfile.open("work/after.tar", "w") as kept:
    for name in os.listdir("/tmp"):
        if name != "work":
            kept.add(name)
sys.exit(done.returncode)
"""


class Carried(BaseSandbox):
    """A backend whose files are an archive between commands."""

    def __init__(self) -> None:
        self._box = Sandbox(
            Limits(
                wall_s=30,
                cpu_s=30,
                memory_bytes=1024 * MIB,
                disk_bytes=512 * MIB,
                file_bytes=256 * MIB,
                output_bytes=64 * MIB,
            )
        )
        self._held: dict[str, tuple[tarfile.TarInfo, bytes]] = {}
        self._id = uuid.uuid4().hex

    @property
    def id(self) -> str:
        return self._id

    def execute(self, command: str, *, timeout: int | None = None) -> Any:
        done = self._box.run(_RUN, files={"before.tar": self._archive()}, stdin=command)
        if "after.tar" in done.files:
            with tarfile.open(fileobj=io.BytesIO(done.files["after.tar"])) as left:
                self._held = {
                    one.name: (one, file.read() if (file := left.extractfile(one)) else b"") for one in left
                }
        return ExecuteResponse(
            output=done.stdout + done.stderr, exit_code=done.exit_code, truncated=done.truncated
        )

    def _archive(self) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for about, content in self._held.values():
                archive.addfile(about, io.BytesIO(content) if about.isreg() else None)
        return made.getvalue()

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[Any]:
        return [self._put(path, content) for path, content in files]

    def _put(self, path: str, content: bytes) -> Any:
        name = _below(path)
        if name is None:
            return FileUploadResponse(path=path, error="invalid_path")
        about = tarfile.TarInfo(name)
        about.size = len(content)
        self._held[name] = (about, content)
        return FileUploadResponse(path=path, error=None)

    def download_files(self, paths: list[str]) -> list[Any]:
        return [self._get(path) for path in paths]

    def _get(self, path: str) -> Any:
        name = _below(path)
        if name is None:
            return FileDownloadResponse(path=path, content=None, error="invalid_path")
        if name not in self._held:
            return FileDownloadResponse(path=path, content=None, error="file_not_found")
        about, content = self._held[name]
        if about.isdir() or not about.mode & 0o400:
            why = "is_directory" if about.isdir() else "permission_denied"
            return FileDownloadResponse(path=path, content=None, error=why)
        return FileDownloadResponse(path=path, content=content, error=None)


def _below(path: str) -> str | None:
    try:
        return str(PurePosixPath(path).relative_to("/tmp"))
    except ValueError:
        return None


# In these tests deepagents' own BaseSandbox differs from what langchain-tests expects: it finds absolute
# paths and no folders, and it overwrites an existing file.
BASE_CLASS = frozenset(
    "test_glob test_glob_basic_pattern test_glob_with_directories test_glob_hidden_files_explicitly "
    "test_glob_with_character_class test_glob_with_question_mark test_write_existing_file_fails".split()
)


class TestOurs(SandboxIntegrationTests):
    @pytest.fixture(autouse=True)
    def _differences(self, request: pytest.FixtureRequest) -> None:
        if request.node.name in BASE_CLASS:
            reason = "deepagents 0.7.32's BaseSandbox differs from what langchain-tests 1.1.9 expects"
            request.applymarker(pytest.mark.xfail(reason=reason, strict=False))

    @pytest.fixture(scope="class")
    def sandbox(self) -> Iterator[BaseSandbox]:
        yield Carried()
