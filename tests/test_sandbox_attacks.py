"""Attacks on the sandbox, one test each: tier 1 stops all of them, tier 2 all but its listed gaps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sandbox_attacks_files import FILES, SECRETS
from sandbox_attacks_host import Attack, Host, reached, violations
from sandbox_attacks_kernel import KERNEL, PYTHON
from sandbox_attacks_network import NETWORK, PROCESSES
from sandbox_attacks_resources import RESOURCES

from sandbox import Sandbox, tier

ATTACKS = [*FILES, *SECRETS, *NETWORK, *PROCESSES, *RESOURCES, *KERNEL, *PYTHON]
OTHER_USER = 54321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def _some_slow(attacks: list[Attack], every: int) -> list[Any]:
    """Yield the attacks; all but one in `every` (by hash of the name) belong to the long suite."""
    return [
        pytest.param(
            attack,
            id=attack.name,
            marks=[] if zlib.crc32(attack.name.encode()) % every == 0 else [pytest.mark.slow],
        )
        for attack in attacks
    ]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        yield made


@pytest.fixture
def on_tier_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run as on a machine that refuses user namespaces to bubblewrap."""
    monkeypatch.setattr(tier, "_variants", lambda: ())
    tier.current.cache_clear()
    assert tier.current().number == 2
    yield
    tier.current.cache_clear()


def _hold(attack: Attack, host: Host) -> None:
    box = Sandbox(attack.limits)
    result = box.run(attack.program(host))
    if attack.second:
        result = box.run(attack.program(host, attack.second))
    assert violations(attack, host, result) == [], result


def test_there_are_enough_attacks_and_their_names_differ() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 60


@pytest.mark.parametrize("attack", _some_slow(ATTACKS, 3))
def test_tier_one_holds(attack: Attack, host: Host) -> None:
    assert Sandbox.tier().number == 1
    _hold(attack, host)


@pytest.mark.parametrize("attack", _some_slow([one for one in ATTACKS if 2 in one.tiers], 5))
def test_tier_two_holds(attack: Attack, host: Host, on_tier_two: None) -> None:
    _hold(attack, host)


@pytest.mark.parametrize("attack", _some_slow([one for one in ATTACKS if one.real], 5))
def test_without_a_sandbox_it_gets_through(attack: Attack, host: Host) -> None:
    assert reached(attack, host), "an attack that fails anyway proves nothing"


@pytest.fixture(scope="module")
def as_other_user() -> Callable[[int, list[str]], dict[str, list[str]]]:
    """Return a function that runs attacks by name in a process of another user: {name: violations}."""

    def run(tier_number: int, names: list[str]) -> dict[str, list[str]]:
        script = Path(__file__).with_name("sandbox_other_user.py")
        folders = os.pathsep.join([str(script.parent.parent), str(script.parent)])
        done = subprocess.run(
            [sys.executable, str(script), str(OTHER_USER), str(tier_number), *names],
            env={
                "PYTHONPATH": folders,
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            capture_output=True,
            timeout=170,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        found: dict[str, list[str]] = json.loads(done.stdout)
        return found

    return run


def _sample(every: int, rest: int, tier_number: int) -> list[str]:
    return [
        one.name
        for one in ATTACKS
        if zlib.crc32(one.name.encode()) % every == rest and tier_number in one.tiers
    ]


@needs_root
def test_another_user_is_held_out_too_in_a_sample(as_other_user: Any) -> None:
    names = _sample(8, 3, 1)
    found = as_other_user(1, names)
    assert set(found) == {"", *names}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.slow
@needs_root
@pytest.mark.parametrize("tier_number", [1, 2])
@pytest.mark.parametrize("rest", range(4))
def test_another_user_is_held_out_by_all(as_other_user: Any, tier_number: int, rest: int) -> None:
    names = _sample(4, rest, tier_number)
    found = as_other_user(tier_number, names)
    assert set(found) == {"", *names}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}
