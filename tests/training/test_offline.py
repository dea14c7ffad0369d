"""The network is really gone, in both ways to take it away."""

import socket
import subprocess
import sys

CODE = """
import ctypes, socket, sys
from training import offline
if sys.argv[1] == "guard":
    offline._own_namespace = lambda: False
how = offline.forbid_network()
seen = []
for host, port in (("127.0.0.1", int(sys.argv[2])), ("192.0.2.1", 80)):
    try:
        socket.create_connection((host, port), timeout=5).close()
        seen.append("through")
    except OSError as error:
        seen.append(type(error).__name__)
try:
    socket.getaddrinfo("example.org", 80)
    seen.append("through")
except OSError:
    seen.append("refused")
left, right = socket.socketpair()
print(how, *seen)
"""


def tried(how: str, port: int) -> list[str]:
    command = [sys.executable, "-c", CODE, how, str(port)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_nothing_gets_out():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert tried("guard", port) == ["guard", "through", "PermissionError", "refused"]
        how, local, out, name = tried("namespace", port)
    assert (how, local, name) != ("namespace", "through", "through")
    assert out != "through" and name == "refused"
