"""Servers of one cluster on networks that can be parted: each in a namespace of its own, where one is root on Linux."""

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, Self

from aether_sync import NATSServer
from aether_sync.server.process import find_binary

from ..support.common import FreePort

LOOPBACK = "127.0.0.1"


def enter(module: str, *arguments: str) -> None:
    """Begin a module anew, in a network that is nobody else's, and goes with it.

    Raises:
        SystemExit: That cannot be here.
    """
    if os.geteuid() or not all(map(shutil.which, ("ip", "unshare", "mount"))):
        raise SystemExit("to part networks one must be root, and have ip (iproute2), unshare and mount")
    sys.stdout.flush()
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, "-m", module, *arguments])


class Namespaces:
    """A namespace for each server, on a bridge that leads to this process; to be made once, behind :func:`enter`.

    What a route says to be a black hole swallows what is sent there, also on links that there are already: nobody is
    told, as when a cable is cut.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._holes: list[str] = []
        self._directory = tempfile.TemporaryDirectory(prefix="aether-namespaces-")
        Path("/run/netns").mkdir(exist_ok=True)
        Path("/proc/sys/net/ipv4/ip_nonlocal_bind").write_text("1")  # the port of a server is kept from here
        _do("mount -t tmpfs none /run/netns")
        _do("ip link set lo up")
        _do("ip link add parted type bridge")
        _do(f"ip addr add {_host(0)}/24 dev parted")
        _do("ip link set parted up")
        for number in range(1, size + 1):
            _do(f"ip netns add s{number}")
            _do(f"ip link add to{number} type veth peer name eth0 netns s{number}")
            _do(f"ip link set to{number} master parted up")
            _do(f"ip -n s{number} addr add {_host(number)}/24 dev eth0")
            _do(f"ip -n s{number} link set eth0 up")
            _do(f"ip -n s{number} link set lo up")

    def hosts(self) -> list[str]:
        return [_host(number) for number in range(1, self.size + 1)]

    def binary(self, number: int) -> str:
        """Return a program that is nats-server, in a server's namespace."""
        path = Path(self._directory.name, f"nats-server-{number}")
        path.write_text(f'#!/bin/sh\nexec ip netns exec s{number} {find_binary()} "$@"\n')
        path.chmod(0o700)
        return str(path)

    def part(self, number: int, others: list[int], way: Literal["both", "out", "in"]) -> None:
        """Let nothing pass between a server and others, or not from it, or not to it; 0 is who is no server."""
        for other in others:
            if way != "in":
                self._dig(number, other)
            if way != "out" and other:
                self._dig(other, number)

    def _dig(self, source: int, target: int) -> None:
        hole = f"ip -n s{source} route %s blackhole {_host(target)}/32"
        _do(hole % "add")
        self._holes.append(hole)

    def heal(self) -> None:
        while self._holes:
            _do(self._holes.pop() % "del")


def _host(number: int) -> str:
    return f"10.9.0.{number or 254}"


def _do(command: str) -> None:
    subprocess.run(command.split(), check=True, capture_output=True)


class Servers:
    """One server, or several that are a cluster, whose clients are not told of other addresses than they know."""

    def __init__(self, size: int, namespaces: Namespaces | None = None) -> None:
        hosts = [LOOPBACK] * size if namespaces is None else namespaces.hosts()
        self._ports = [FreePort() for _ in hosts]
        routes = [f"{host}:{port.number}" for host, port in zip(hosts, self._ports, strict=True)]
        self.all: list[NATSServer] = []
        for number, (host, route) in enumerate(zip(hosts, routes, strict=True), 1):
            others = ", ".join(f'"nats://{other}"' for other in routes if other != route)
            cluster = f'cluster {{name: checked, listen: "{route}", no_advertise: true, routes: [{others}]}}'
            binary = None if namespaces is None else namespaces.binary(number)
            config = cluster if size > 1 else ""
            self.all.append(NATSServer(host=host, name=f"s{number}", config=config, binary=binary, start_timeout=60.0))
        self.hosts = hosts

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.all:
                stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for port in self._ports:
            port.close()
