"""Read by every Python that is started with this folder in PYTHONPATH: writes down whom it calls on
other machines.

QUANTGATE_CALLS names the file: a line for each connection, each datagram and each host name that
was looked up."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import Any

CALLS = os.environ.get("QUANTGATE_CALLS")
OURS = ("", "localhost", socket.gethostname())
EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}  # which argument


def _is_elsewhere(address: Any) -> bool:
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode() if isinstance(host, bytes) else host
    if host is None or host in OURS or str(host).startswith(("/", "\0")):
        return False
    try:
        found = ipaddress.ip_address(str(host))
    except ValueError:
        return True
    return not (found.is_loopback or found.is_unspecified)


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in EVENTS or not _is_elsewhere(arguments[EVENTS[event]]):
        return
    if (
        event == "socket.connect" and arguments[0].type == socket.SOCK_DGRAM
    ):  # sends nothing: asks for the way there
        return
    with open(str(CALLS), "a") as file:  # noqa: PTH123
        file.write(f"{event} {arguments[EVENTS[event]]!r} by {sys.orig_argv}\n")


if CALLS:
    sys.addaudithook(_watch)
