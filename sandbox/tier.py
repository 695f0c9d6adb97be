"""The protection that works on this machine, found once by running an empty program under each.

tier 1   bubblewrap: namespaces, no network, a file tree of its own, seccomp, rlimits
tier 2   Landlock and seccomp, if namespaces are refused (`Tier.gaps` lists what they do not cover)
tier 0   neither works: code is refused, with the reasons and what to enable
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass

from sandbox import landlock
from sandbox.child import Child, Confinement
from sandbox.errors import SandboxError, SandboxUnavailable
from sandbox.limits import Limits
from sandbox.program import Program

_TRIAL_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Tier:
    """The protection that works on a machine; false if none does.

    >>> from sandbox import Sandbox
    >>> tier = Sandbox.tier()
    >>> bool(tier), str(tier)
    (True, 'tier ..., ...')
    >>> tier.gaps[0]
    'the kernel itself: a bug in a system call that the filter allows'

    Attributes:
        number: 1, 2, or 0 if none works.
        name: the same in words.
        gaps: what it does not cover, one line each.
        reasons: why better tiers do not work, one line each.
        confinement: how children are confined; None on tier 0.
    """

    number: int
    name: str
    gaps: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    confinement: Confinement | None = None

    def __bool__(self) -> bool:
        """Return True if code can be run at all."""
        return self.number > 0

    def __str__(self) -> str:
        """Return one line for a person: what works, or why nothing does and what to enable."""
        if self.number == 0:
            return " ".join(("no sandbox works here, code is refused:", *self.reasons, _HELP))
        weaker = f"; not tier 1: {' '.join(self.reasons)}" if self.reasons else ""
        return f"tier {self.number}, {self.name}{weaker}"


_GAPS_ONE = (
    "the kernel itself: a bug in a system call that the filter allows",
    "the machine's load: CPU and memory are used up to the limits",
    "reading /usr, the interpreter and the installed packages (their paths tell where they are installed)",
    "side channels: timing, caches, the processor's own",
)
_GAPS_TWO = (
    *_GAPS_ONE,
    "stat: whether a file outside exists, its size, owner and times (not its content)",
    "chmod, chown, utime and setxattr do nothing and report success, even inside the work folder",
    "the work folder is a folder of this machine, so a burst may exceed its size limit briefly",
    "setsid and setpgid are refused, so that everything can be ended at once",
    "no /proc, no sockets except pairs, no shared memory in /dev/shm",
    "RLIMIT_NPROC counts all processes of the user; as root the supervisor alone counts them",
)
_GAP_SIGNALS = "kill reaches the program itself and its process group only (Landlock before ABI 6)"
_HELP = (
    "Enable one of: unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1; on Ubuntu 24.04 "
    "also kernel.apparmor_restrict_unprivileged_userns=0 or an AppArmor profile for bwrap), or Landlock "
    "(Linux 6.2 or later with landlock among the lsm= modules)."
)


def require() -> Confinement:
    """Return the confinement to run under.

    Raises:
        SandboxUnavailable: no tier works, and nothing is run without protection.
    """
    tier = current()
    if tier.confinement is None:
        raise SandboxUnavailable("No sandbox works on this machine: " + " ".join(tier.reasons) + " " + _HELP)
    return tier.confinement


@functools.cache
def current() -> Tier:
    """Return the best tier that works, found by trying."""
    if not sys.platform.startswith("linux"):
        return Tier(
            number=0, name="none", gaps=(), reasons=(f"The sandbox needs Linux, found {sys.platform!r}.",)
        )
    reasons: list[str] = []
    for other_uid in _variants():
        confinement = Confinement(tier=1, other_uid=other_uid)
        failure = _try(confinement)
        if failure is None:
            how = "another user id" if other_uid else "a user namespace"
            return Tier(
                number=1, name=f"bubblewrap in {how}", gaps=_GAPS_ONE, reasons=(), confinement=confinement
            )
        reasons.append(f"bubblewrap: {failure}")
    return _second(reasons)


def _variants() -> tuple[bool, ...]:
    """Return the variants of bubblewrap to try (True: another user id), better ones first."""
    return (True, False) if os.geteuid() == 0 else (False,)


def _second(reasons: list[str]) -> Tier:
    """Return tier 2 if it works, else tier 0."""
    version = landlock.abi()
    if version < landlock.LEAST_ABI:
        reasons.append(f"Landlock: expected ABI {landlock.LEAST_ABI} or later, found {version}.")
        return Tier(number=0, name="none", gaps=(), reasons=tuple(reasons))
    scoped = version >= landlock.SCOPES_SINCE
    confinement = Confinement(tier=2, scoped_signals=scoped)
    failure = _try(confinement)
    if failure is not None:
        reasons.append(f"Landlock: {failure}")
        return Tier(number=0, name="none", gaps=(), reasons=tuple(reasons))
    gaps = _GAPS_TWO if scoped else (*_GAPS_TWO, _GAP_SIGNALS)
    why = tuple(reasons)
    return Tier(number=2, name="Landlock and seccomp", gaps=gaps, reasons=why, confinement=confinement)


def _try(confinement: Confinement) -> str | None:
    """Return None if an empty program runs under the confinement, else what went wrong."""
    try:
        child = Child(Program(arguments=["-c", "print('works')"], collect=False), Limits(), confinement)
    except SandboxError as error:
        return str(error)
    try:
        out, err = child.process.communicate(timeout=_TRIAL_S)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        child.close()
    if out == b"works\n":
        return None
    return err.decode("utf-8", "replace").strip() or f"exit code {child.process.returncode}"
