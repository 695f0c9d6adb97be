"""The distribution as a user gets it: wheel and sdist are built, the wheel is installed, `agent ask` runs.

The wheel goes into a new environment that holds nothing of this checkout; the dependencies, which the lock
pins and which take minutes to install, are lent to it from the environment that runs the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("agent", "chains", "llms", "sandbox", "tools")


def _run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ".", cwd=ROOT)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def _shipped() -> set[str]:
    """Every file of the five packages that git knows: code, prompts, kernels, data."""
    return set(_run("git", "ls-files", *PACKAGES, cwd=ROOT).split("\n")) - {""}


def test_wheel_and_sdist_hold_every_file(built: tuple[Path, Path]) -> None:
    wheel, sdist = built
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert _shipped() <= names, f"missing in the wheel: {sorted(_shipped() - names)}"
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(PACKAGES)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert _shipped() | {"pyproject.toml", "README.md", "LICENSE", "requirements.lock"} <= inside


def test_an_installed_wheel_answers_from_another_folder(
    built: tuple[Path, Path], tmp_path: Path, embedded_cache: Path
) -> None:
    home = tmp_path / "env"
    _run(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    python = home / "bin" / "python"
    _run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        built[0],
        cwd=tmp_path,
    )
    site = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    # A .pth line adds the folder but not what that folder's own .pth files add: this checkout stays out.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "office.md").write_text(
        "# Office\n\nThe coffee machine stands on the third floor, beside the lift.\n"
    )
    environment = os.environ | {"AGENT_HOME": str(tmp_path / "home"), "AGENT_CACHE_DIR": str(embedded_cache)}
    where = _run(python, "-c", "import agent; print(agent.__file__)", cwd=tmp_path, env=environment).strip()
    assert Path(where).is_relative_to(site)
    question = "On which floor does the coffee machine stand?"
    answer = _run(home / "bin" / "agent", "ask", question, "--docs", "notes", cwd=tmp_path, env=environment)
    assert "third floor" in answer
    assert "office.md" in answer
