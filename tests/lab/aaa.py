"""Both real servers with what is asked for most behind these balancers: authentication and accounting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from tests.lab import radius, tacacs
from tests.lab.agent import Agent, tunnel, vip
from tests.lab.radius import FreeRadius
from tests.lab.servers import VIPS, WRAPPED
from tests.lab.spaces import ip_batch
from tests.lab.tacacs import Tacacs
from tests.lab.world import CLIENT, SERVERS, serve, world

# Each client has a secret of its own: were it seen under another's address, the server could not read its request.
CLIENTS = {f"10.1.0.{number}": f"secret-of-{number}" for number in (21, 22, 23)}
CLIENTS6 = {f"fd00:1::{number}": f"secret-of-six-{number}" for number in (21, 22, 23)}
STRANGER, STRANGER6 = "10.1.0.99", "fd00:1::99"

CONFIG = tunnel("ipip") + tunnel("gre")
RADIUS_SERVICES = [f"udp/{port}" for port in radius.PORTS]
TACACS_SERVICES = [f"tcp/{tacacs.PORT}"]


def clients_of(address: str) -> dict[str, str]:
    """The clients that can speak to a VIP, and the secret of each."""
    return CLIENTS6 if ":" in address else CLIENTS


def stranger_to(address: str) -> str:
    """A client that no server knows."""
    return STRANGER6 if ":" in address else STRANGER


def more_clients() -> None:
    """Give the client namespace all these addresses."""
    ip_batch(
        CLIENT,
        [
            *(f"address add {address}/24 dev eth0" for address in (*CLIENTS, STRANGER)),
            # Not preferred: who asks from no special address does so from the one that was there before.
            *(f"address add {address}/64 dev eth0 nodad preferred_lft 0" for address in (*CLIENTS6, STRANGER6)),
        ],
    )


@contextlib.contextmanager
def _served(ports: Sequence[int], services: Sequence[str]) -> Iterator[None]:
    """The lab's network and an agent on both real servers, for these ports of all VIPs."""
    config = CONFIG + "".join(vip(address, services=services) for address in VIPS)
    with contextlib.ExitStack() as stack:
        stack.enter_context(world())
        serve(WRAPPED, dict.fromkeys(ports, SERVERS), one_packet=True)
        more_clients()
        agents = [Agent(server, config) for server in SERVERS]
        for agent in agents:
            agent.start(wait=False)
            stack.push(agent.__exit__)
        for agent in agents:
            agent.wait_log("started: ")
        yield


@contextlib.contextmanager
def radius_servers() -> Iterator[tuple[FreeRadius, FreeRadius]]:
    """FreeRADIUS on all VIPs of both real servers."""
    with _served(radius.PORTS, RADIUS_SERVICES), contextlib.ExitStack() as stack:
        first, second = (FreeRadius(server, VIPS, CLIENTS | CLIENTS6) for server in SERVERS)
        for server in (first, second):
            stack.push(server.__exit__)
            server.start(wait=False)
        for server in (first, second):
            server.wait_ready()
        yield first, second


@contextlib.contextmanager
def tacacs_servers() -> Iterator[tuple[Tacacs, Tacacs]]:
    """TACACS+ on all VIPs of both real servers."""
    with _served([tacacs.PORT], TACACS_SERVICES), contextlib.ExitStack() as stack:
        first, second = (Tacacs(server, VIPS, CLIENTS | CLIENTS6) for server in SERVERS)
        yield stack.enter_context(first), stack.enter_context(second)
