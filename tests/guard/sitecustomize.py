"""Refuses sockets to the outside, in the test process and, through PYTHONPATH, in every Python child of it.

An audit hook sees what Python code opens: connecting to, sending to or looking up any but a loopback address
raises and is noted in the file that `OUTSIDE_SOCKET_LOG` names, so that swallowing the error hides nothing.
"""

import ipaddress
import os
import sys

CONNECTS = {"socket.connect", "socket.sendto"}
LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname"}


def _is_loopback(host: object) -> bool:
    if host is None or host in ("", "localhost", b"localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    except ValueError:
        return False
    # The unspecified address is what a server binds to, and what a lookup for it asks.
    return address.is_loopback or address.is_unspecified


def _audit(event: str, args: tuple[object, ...]) -> None:
    if event in CONNECTS:
        address = args[1]
        host = address[0] if isinstance(address, tuple) and address else None  # a path: a unix socket
    elif event in LOOKUPS:
        host = args[0]
    else:
        return
    if _is_loopback(host):
        return
    if log := os.environ.get("OUTSIDE_SOCKET_LOG"):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{event} {host!r} by {sys.argv[:2]!r}\n")
    raise PermissionError(f"tests open no socket to the outside: {event} {host!r}")


def guard() -> None:
    """Install the hook in this process; it cannot be taken out again."""
    sys.addaudithook(_audit)


if os.environ.get("OUTSIDE_SOCKET_LOG") and not os.environ.get("OUTSIDE_SOCKETS_ALLOWED"):
    guard()
