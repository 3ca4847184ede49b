"""FreeRADIUS behind IPVS: it sees each client's own address, so it knows the client by nothing but that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.aaa import CLIENTS, clients_of, radius_servers, stranger_to
from tests.lab.agent import wait_for
from tests.lab.ledger import Ledger
from tests.lab.marks import MOSTLY_FAST, ON_A_MACHINE
from tests.lab.radius import LONG, FreeRadius, Said, ask, login, record
from tests.lab.servers import IPIP, VIPS

pytestmark = ON_A_MACHINE

Pair = tuple[FreeRadius, FreeRadius]
EACH = 2  # requests of a client; the balancer sends them to the servers in turn


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def servers() -> Iterator[Pair]:
    with radius_servers() as found:
        yield found


def of_each(address: str, do: Callable[[str, str], Said]) -> dict[str, list[Said]]:
    """What each client of a VIP is told."""
    return {client: [do(client, secret) for _ in range(EACH)] for client, secret in clients_of(address).items()}


def kinds(said: dict[str, list[Said]]) -> set[tuple[str, str]]:
    """The kinds of answers and where they came from; a request without an answer counts as a kind of its own."""
    return {each.answers[0][:2] if each.answers else ("nothing", "") for several in said.values() for each in several}


def seen_as_asked(logs: Callable[[], list[Counter[str]]], ask_all: Callable[[], dict[str, list[Said]]]) -> bool:
    """
    Whether what comes into the servers' logs while they are asked is there under the addresses of those who ask.

    What a client sends again may go to the other server, which takes it for new.
    """
    before = logs()
    said = ask_all()
    grown = [now - then for now, then in zip(logs(), before, strict=True)]
    assert all(grown), grown  # both have been asked
    total = grown[0] + grown[1]
    return total.keys() == said.keys() and all(
        len(several) <= total[client] <= sum(len(each.sent) for each in several) for client, several in said.items()
    )


@pytest.mark.parametrize("address", VIPS)
class TestEachWay:
    def test_each_client_is_known_by_its_address(self, servers: Pair, address: str) -> None:
        def logins() -> dict[str, list[Said]]:
            said = of_each(address, lambda client, secret: ask(address, client, secret, *login()))
            assert kinds(said) == {("Access-Accept", address)}
            return said

        assert seen_as_asked(lambda: [Counter(server.accepted()) for server in servers], logins)

    def test_accounting_is_written_down_under_the_clients_address(self, servers: Pair, address: str) -> None:
        def records() -> dict[str, list[Said]]:
            said = of_each(address, lambda client, secret: ask(address, client, secret, *record("1"), verb="acct"))
            assert kinds(said) == {("Accounting-Response", address)}
            return said

        assert seen_as_asked(lambda: [Counter(server.accounted()) for server in servers], records)

    def test_four_thousand_bytes_go_there_and_come_back(self, servers: Pair, address: str) -> None:
        # Routers may not split IPv6: the first is lost and tells the client what fits; so it asks again.
        said = of_each(address, lambda client, secret: ask(address, client, secret, *login(), *LONG))
        assert kinds(said) == {("Access-Accept", address)}
        lengths = [
            length
            for several in said.values()
            for each in several
            for length in (*each.sent, *(answer[2] for answer in each.answers))
        ]
        assert all(4000 <= length <= 4096 for length in lengths)

    def test_a_stranger_is_not_answered_and_the_log_names_it(self, servers: Pair, address: str) -> None:
        """A server names one stranger in a second, and leaves out all others."""
        stranger = stranger_to(address)

        def named() -> bool:
            for _ in servers:
                assert not ask(address, stranger, "no secret", *login(), patience=0.2, tries=1).answers
            return all(stranger in server.unknown() for server in servers)

        wait_for(named, "both logs to name the stranger")

    def test_a_wrong_password_is_refused(self, servers: Pair, address: str) -> None:
        client, secret = next(iter(clients_of(address).items()))
        assert kinds({client: [ask(address, client, secret, *login(password="wrong"))]}) == {("Access-Reject", address)}

    def test_status_server_is_answered(self, servers: Pair, address: str) -> None:
        client, secret = next(iter(clients_of(address).items()))
        said = ask(address, client, secret, "Message-Authenticator = 0x00", verb="status")
        assert kinds({client: [said]}) == {("Access-Accept", address)}


def test_many_clients_at_once(servers: Pair, ledger: Ledger) -> None:
    times = 10

    def logins() -> dict[str, list[Said]]:
        def of(client: str) -> list[Said]:
            return [ask(IPIP, client, CLIENTS[client], *login()) for _ in range(times)]

        with ThreadPoolExecutor() as pool:
            said = dict(zip(CLIENTS, pool.map(of, CLIENTS), strict=True))
        assert kinds(said) == {("Access-Accept", IPIP)}
        return said

    def logs() -> list[Counter[str]]:
        return [Counter(server.accepted()) for server in servers]

    before = logs()
    assert seen_as_asked(logs, logins)
    shares = " and ".join(str((now - then).total()) for now, then in zip(logs(), before, strict=True))
    ledger.note(f"{times} logins by each of {len(CLIENTS)} clients at once: all accepted, {shares} by server")
