"""
Who may stay when many come: a bounded number of connections, each for a bounded time. Knows no HTTP.

A newcomer always gets in. When all places are taken, the oldest connection of whoever holds most has to go, so one
address cannot keep another one out, however many connections it opens; and an honest request is over in milliseconds,
long before it is the oldest.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Address, ip_address
from typing import Protocol


class Timer(Protocol):
    """What `asyncio.AbstractEventLoop.call_later` gives."""

    def cancel(self) -> None:
        """Forget about it."""
        ...


class Connection(Protocol):
    """A connection."""

    def close(self) -> None:
        """End it at once."""
        ...


class Connections:
    """See above. *later* calls back after so many seconds; *cut* is told why a connection was ended."""

    def __init__(
        self,
        places: int,
        longest: float,
        later: Callable[[float, Callable[[], None]], Timer],
        cut: Callable[[str], None],
    ) -> None:
        self._places = places
        self._longest = longest
        self._later = later
        self._cut = cut
        self._open: dict[Connection, tuple[str, Timer]] = {}  # the oldest first
        self._by_host: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, connection: Connection, address: str) -> None:
        """A connection from *address* has come."""
        if len(self._open) >= self._places:
            self._end(self._who_has_to_go(), "crowd")
        host = _host(address)
        self._open[connection] = (host, self._later(self._longest, lambda: self._end(connection, "slow")))
        self._by_host[host] = self._by_host.get(host, 0) + 1

    def leave(self, connection: Connection) -> None:
        """A connection has ended; saying so twice is fine."""
        if entry := self._open.pop(connection, None):
            host, timer = entry
            timer.cancel()
            self._by_host[host] -= 1
            if not self._by_host[host]:
                del self._by_host[host]

    def _who_has_to_go(self) -> Connection:
        most = max(self._by_host.values())
        return next(connection for connection, (host, _) in self._open.items() if self._by_host[host] == most)

    def _end(self, connection: Connection, why: str) -> None:
        if connection in self._open:
            self.leave(connection)
            self._cut(why)
            connection.close()


def _host(address: str) -> str:
    """Whom *address* belongs to: an IPv6 host has a whole network of them."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(int(ip) >> 64) if isinstance(ip, IPv6Address) else address
