"""Blocks the network in every Python process that has this folder on its PYTHONPATH, notebook kernels included.

Python imports a module of this name at start. Loopback and unix sockets stay open: Jupyter's kernels need them.
"""

import ipaddress
import socket

LOCAL_NAMES = {None, "", "localhost", socket.gethostname()}


class NetworkBlocked(OSError):
    """A test tried to reach the network. No test needs it, so this is always a bug."""


def is_local(host: str | bytes | None) -> bool:
    """Whether `host` (a name or an address) stays on this machine."""
    host = host.decode() if isinstance(host, bytes) else host
    if host in LOCAL_NAMES:
        return True
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def guarded(function, address_of):
    """`function` with a check of the address that `address_of(*arguments)` picks out of its arguments."""

    def call(*arguments, **keywords):
        address = address_of(*arguments, **keywords)
        host = address[0] if isinstance(address, tuple) else None  # a unix socket's address is a path
        if not is_local(host):
            raise NetworkBlocked(f"the tests run offline, and something asked for {host}")
        return function(*arguments, **keywords)

    return call


def block() -> None:
    """Let connections, datagrams and name look-ups through for this machine only."""
    if getattr(socket, "_blocked_by_prefcourse", False):
        return
    socket._blocked_by_prefcourse = True
    # Methods of the C class cannot be replaced, those of its Python subclass can.
    socket.socket.connect = guarded(socket.socket.connect, lambda self, address: address)
    socket.socket.connect_ex = guarded(socket.socket.connect_ex, lambda self, address: address)
    socket.socket.sendto = guarded(socket.socket.sendto, lambda self, data, *rest: rest[-1])
    socket.getaddrinfo = guarded(socket.getaddrinfo, lambda host, *rest, **keywords: (host,))


block()
