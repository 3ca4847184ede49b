"""keepalived on the balancer: it asks the agents of the real servers, and tells IPVS whom to send to."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from tests.lab.agent import DEADLINE, wait_for
from tests.lab.spaces import inside
from tests.lab.world import BALANCER, SERVER_IP, SERVERS, Virtual, accept

HTTP_PORT = 9177

# How it wraps, in its own words.
_WRAP = {"ipip": "TUN", "gre": "TUN type gre nocsum"}
_SERVICE = """
virtual_server {address} {port} {{
  delay_loop 1
  lvs_sched rr
  lvs_method {wrap}
  protocol {protocol}
  {one_packet}
{servers}
}}
"""
# inhibit_on_failure: a server that is not ready is sent no new connections, and keeps those that it has.
_SERVER = """
  real_server {server} {port} {{
    inhibit_on_failure
    HTTP_GET {{
      connect_ip {server}
      connect_port {http}
      connect_timeout 30
      retry 0
      url {{
        path /readyz/{address}
        status_code 200
      }}
    }}
  }}
"""


@dataclass(frozen=True)
class Service:
    """What clients ask for: a VIP, ``tcp`` or ``udp``, and a port."""

    virtual: Virtual
    protocol: str
    port: int

    def __str__(self) -> str:
        return f"{self.virtual.address} {self.protocol}/{self.port}"


class Keepalived:
    """
    Debian's ``keepalived`` in the balancer's namespace, for *services* on both real servers.

    Each second it gets ``/readyz/VIP`` from the agent of each of them. Datagrams are sent on one by one: else those
    from one port of a client would go on to a server that is out. A context manager that runs it.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self._services = tuple(services)
        self._folder = tempfile.TemporaryDirectory(prefix="keepalived-")
        self._process: subprocess.Popen[bytes] | None = None
        at = Path(self._folder.name)
        self._file, self._log = at / "keepalived.conf", at / "log"
        self._log.touch()
        self._file.write_text("".join(map(_service, services)))

    def __enter__(self) -> Self:
        accept(list(dict.fromkeys(service.virtual for service in self._services)))
        files = [f"--{name}={Path(self._folder.name, name)}" for name in ("pid", "checkers_pid")]
        command = ["keepalived", "--check", "--dont-fork", "--log-console", "--log-detail", "--no-syslog"]
        with inside(BALANCER), self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, f"--use-file={self._file}", *files], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            for service in self._services:
                self.wait_for(service, *SERVERS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait(DEADLINE)
        self._folder.cleanup()

    def log(self) -> str:
        """All it has said."""
        return self._log.read_text()

    def serving(self, service: Service) -> set[str]:
        """The real servers that new requests are sent to."""
        return {server for server in SERVERS if _weights(service).get(server)}

    def wait_for(self, service: Service, *servers: str) -> float:
        """Seconds until new requests are sent to just these servers."""

        def there() -> bool:
            assert self._process
            if self._process.poll() is not None:
                raise RuntimeError(f"keepalived ended:\n{self.log()}")
            return self.serving(service) == set(servers)

        try:
            return wait_for(there, f"{service} to be served by {' and '.join(servers) or 'nobody'}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; keepalived said:\n{self.log()}") from None


def _service(service: Service) -> str:
    address = service.virtual.address
    return _SERVICE.format(
        address=address,
        port=service.port,
        wrap=_WRAP[service.virtual.wrap],
        protocol=service.protocol.upper(),
        one_packet="ops" if service.protocol == "udp" else "",
        servers="".join(
            _SERVER.format(server=SERVER_IP[server], port=service.port, http=HTTP_PORT, address=address)
            for server in SERVERS
        ),
    )


def _weights(service: Service) -> dict[str, int]:
    """Of each real server, how much it is sent; 0 is nothing new."""
    with inside(BALANCER):  # ipvsadm says the same, but takes longer than what is to be measured
        file = Path("/proc/thread-self/net/ip_vs")
        lines = file.read_text().splitlines() if file.exists() else []  # keepalived loads the module
    wanted = [service.protocol.upper(), _packed(service.virtual.address, service.port)]
    of = {_packed(SERVER_IP[server], service.port): server for server in SERVERS}
    found, within = {}, False
    for words in map(str.split, lines):
        if words[0] != "->":
            within = words[:2] == wanted
        elif within and words[1] in of:
            found[of[words[1]]] = int(words[3])
    return found


def _packed(address: str, port: int) -> str:
    """As the kernel writes it."""
    return f"{int(ip_address(address)):08X}:{port:04X}"
