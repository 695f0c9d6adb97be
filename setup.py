"""Compiles the CPU decoder's kernels when the package is installed; everything else is in pyproject.toml.

The kernels become plain shared objects, one for each instruction set, which `llms.decoders.cpu.native` opens
with ctypes. They are not Python extension modules, because compiling those needs Python's headers, which
many systems package separately; a plain object serves every version of Python, and ctypes releases the GIL
during a pass. The objects need no library but glibc: 2.28 or later in the released wheels, which are built on
manylinux_2_28.

Native code is optional. A compiler that is missing or fails, or an object that fails its self-test, leaves a
package that works without it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError

FOLDER = Path("llms", "decoders", "cpu")

OPTIONS = (
    # setuptools passes on the options that Python was compiled with: usually -fwrapv, and -march=native in
    # some distributions. An object must hold no instruction beyond its set.
    *("-mtune=generic", "-fno-wrapv", "-g0"),
    *("-O3", "-std=c++17", "-pthread", "-fvisibility=hidden"),
    # NaN and infinity keep their meaning: a damaged weight must show in the logits.
    *("-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
    *("-ffunction-sections", "-Wno-maybe-uninitialized"),  # g++ 12 warns about its own AVX-512 headers
)

LINK_OPTIONS = ("-pthread", "-Wl,--gc-sections", "-Wl,-s")

STATIC = ("-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL")
"""Links the C++ library into the object, without showing its symbols to other libraries."""

SELF_TEST_TIMEOUT_S = 120.0
"""A self-test takes 1 s of CPU time."""


def load_native() -> ModuleType:
    """Return `native.py`, loaded by its path: importing `llms` would need the package's dependencies."""
    spec = importlib.util.spec_from_file_location("cpu_native", Path(__file__).parent / FOLDER / "native.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


native = load_native()


def extensions() -> list[Extension]:
    """Return an extension for each instruction set; none, and one line that says so, on other platforms."""
    system, _, machine = sysconfig.get_platform().partition("-")
    sets = [one for one in native.SETS if one.machine == machine] if system == "linux" else []
    if not sets:
        known = ", ".join(sorted({f"linux-{one.machine}" for one in native.SETS}))
        sys.stderr.write(f"no native code for {sysconfig.get_platform()}: it is written for {known}\n")
    return [
        Extension(
            f"{'.'.join(FOLDER.parts)}.{Path(one.object).stem}",
            sources=[str(FOLDER / "kernels.cpp")],
            depends=["setup.py", *map(str, sorted(FOLDER.glob("*.h")))],
            extra_compile_args=[*OPTIONS, *one.options],
            extra_link_args=[*LINK_OPTIONS, *STATIC],
            language="c++",
            optional=True,
        )
        for one in sets
    ]


class BuildKernels(build_ext):
    """Compiles and tests the kernels."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the object's path: its name carries no Python ABI."""
        return f"{Path(*fullname.split('.'))}.so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Return nothing: there is no `PyInit_` function."""
        return []

    def run(self) -> None:
        """Compile everything; remove the objects in the source tree that an in-place build did not renew."""
        in_place = self.inplace
        super().run()
        for ext in self.extensions if in_place else ():
            if not Path(self.build_lib, self.get_ext_filename(ext.name)).exists():
                Path(__file__).parent.joinpath(self.get_ext_filename(ext.name)).unlink(missing_ok=True)

    def build_extension(self, ext: Extension) -> None:
        """Compile one object and test it; leave none behind if that fails."""
        made = Path(self.get_ext_fullpath(ext.name))
        temporary, self.build_temp = self.build_temp, str(Path(self.build_temp, ext.name))
        try:
            try:
                super().build_extension(ext)
            except LinkError:  # Fedora has the static C++ library in a package of its own
                ext.extra_link_args = list(LINK_OPTIONS)
                super().build_extension(ext)
            self._test(made)
        except BaseException:
            made.unlink(missing_ok=True)
            raise
        finally:
            self.build_temp = temporary

    def _test(self, made: Path) -> None:
        """Run the self-test in a child, if this CPU can; a wrong object may also crash."""
        if made.name not in {one.object for one in native.supported_sets()}:
            return
        command = [sys.executable, str(FOLDER / "native.py"), str(made.resolve())]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SELF_TEST_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise CompileError(f"{made.name} did not finish its self-test: {error}") from error
        if done.returncode:
            raise CompileError(f"{made.name} computes wrongly (status {done.returncode}): {done.stderr}")


class BuildWheel(bdist_wheel):
    """Tags a wheel with native code for its platform and for every version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag."""
        platform = super().get_tag()[2]
        return "py3", "none", platform


if __name__ == "__main__":
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildKernels, "bdist_wheel": BuildWheel})
