"""Run attacks as another user: `python sandbox_other_user.py USER_ID TIER NAME...`; prints what failed.

It is started as root. The interpreter and the project may lie in folders that the other user cannot enter
(/root), so a private mount namespace shows them at the same paths. The machine itself is not changed.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


def main(user: int, tier_number: int, names: list[str]) -> None:
    """Become the user and run the named attacks on the tier."""
    enter(user, [sys.base_prefix, sys.prefix, str(Path(__file__).parent.parent)])
    from sandbox_attacks_host import Host, violations
    from test_sandbox_attacks import ATTACKS

    from sandbox import Sandbox, tier

    if tier_number == 2:
        tier._variants = lambda: ()
    found = {"": [] if Sandbox.tier().number == tier_number else [f"the tier is {Sandbox.tier()}"]}
    for attack in ATTACKS:
        if attack.name in names and tier_number in attack.tiers:
            with Host() as host:
                box = Sandbox(attack.limits)
                result = box.run(attack.program(host))
                if attack.second:
                    result = box.run(attack.program(host, attack.second))
                found[attack.name] = violations(attack, host, result)
    sys.stdout.write(json.dumps(found))


def enter(user: int, needed: list[str]) -> None:
    """Become `user` for good, in a mount namespace in which the needed folders can be entered.

    Raises:
        OSError: the caller is not root, or the machine refuses a mount namespace.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNS)")
    _mount("--make-rprivate", "/")
    for path in dict.fromkeys(map(os.path.realpath, needed)):
        closed = [above for above in Path(path).parents if not above.stat().st_mode & 0o001]
        if closed:
            _show(path, closed[-1])
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    home = tempfile.mkdtemp(prefix="home-")
    os.environ.clear()
    os.environ.update(HOME=home, PATH="/usr/bin:/bin", LANG="C.UTF-8")
    os.chdir(home)


def _show(path: str, above: Path) -> None:
    """Cover the closed folder `above` with an empty one that shows only `path`."""
    held = tempfile.mkdtemp(prefix="held-")
    _mount("--bind", path, held)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(above))
    os.makedirs(path, 0o755)
    _mount("--move", held, path)
    os.rmdir(held)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
