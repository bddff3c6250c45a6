"""The tests run offline: the block is in force here, in child processes, and leaves loopback alone."""

import socket
import subprocess
import sys
import urllib.request

import pytest

FAR = "192.0.2.1"  # reserved for documentation: nobody answers there


def test_connections_and_datagrams_are_refused():
    with socket.socket() as tcp, pytest.raises(OSError, match="run offline"):
        tcp.connect((FAR, 80))
    with socket.socket() as tcp, pytest.raises(OSError, match="run offline"):
        tcp.connect_ex((FAR, 80))
    with socket.socket(type=socket.SOCK_DGRAM) as udp, pytest.raises(OSError, match="run offline"):
        udp.sendto(b"x", (FAR, 53))


def test_names_are_not_looked_up():
    with pytest.raises(OSError, match="run offline"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(OSError, match="run offline"):
        urllib.request.urlopen("https://example.org", timeout=2)


def test_child_processes_inherit_the_block():
    code = f"import socket; socket.create_connection(({FAR!r}, 80), timeout=2)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert child.returncode == 1
    assert "run offline" in child.stderr


def test_loopback_stays_open():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("localhost", port), timeout=2) as client:
            client.sendall(b"hello")
            assert server.accept()[0].recv(5) == b"hello"


def test_the_hub_is_offline():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
