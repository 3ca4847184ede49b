"""Who may stay when many come."""

from __future__ import annotations

from collections.abc import Callable

from dsr_agent.service.web.connections import Connections


class Connection:
    """A connection that remembers being closed."""

    closed = False

    def close(self) -> None:
        """End."""
        self.closed = True


class Bell:
    """A timer."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self.seconds, self._ring, self.cancelled = seconds, ring, False

    def cancel(self) -> None:
        """Forget."""
        self.cancelled = True

    def ring(self) -> None:
        """The time has come."""
        if not self.cancelled:
            self._ring()


class Room:
    """Connections, at most *places*, and what happens to it."""

    def __init__(self, places: int) -> None:
        self.bells: list[Bell] = []
        self.cut: list[str] = []
        self.connections = Connections(places, 10.0, self._later, self.cut.append)

    def _later(self, seconds: float, ring: Callable[[], None]) -> Bell:
        self.bells.append(Bell(seconds, ring))
        return self.bells[-1]

    def come(self, address: str) -> Connection:
        """Somebody comes."""
        guest = Connection()
        self.connections.enter(guest, address)
        return guest


def test_everybody_may_stay_while_there_is_room() -> None:
    room = Room(3)
    guests = [room.come("a") for _ in range(3)]
    assert not any(guest.closed for guest in guests)


def test_the_oldest_of_whoever_has_most_goes() -> None:
    room = Room(4)
    honest = room.come("b")
    many = [room.come("a") for _ in range(3)]

    newcomer = room.come("c")

    assert [guest.closed for guest in (honest, *many, newcomer)] == [False, True, False, False, False]
    assert room.cut == ["crowd"]
    assert len(room.connections) == 4


def test_among_equals_the_oldest_goes() -> None:
    room = Room(2)
    first, second = room.come("a"), room.come("b")
    room.come("c")
    assert (first.closed, second.closed) == (True, False)


def test_time_runs_out_for_everybody() -> None:
    room = Room(2)
    guest = room.come("a")
    assert room.bells[0].seconds == 10.0
    room.bells[0].ring()
    assert guest.closed
    assert room.cut == ["slow"]
    assert len(room.connections) == 0


def test_who_left_is_not_cut_off_later() -> None:
    room = Room(2)
    guest = room.come("a")
    room.connections.leave(guest)
    room.connections.leave(guest)
    room.bells[0].ring()
    assert not guest.closed
    assert room.cut == []


def test_an_ipv6_host_has_many_addresses() -> None:
    room = Room(3)
    honest = room.come("2001:db8:1::1")
    many = [room.come(f"2001:db8:2::{number}") for number in (1, 2)]
    room.come("2001:db8:2::3%eth0")
    assert not honest.closed
    assert many[0].closed
