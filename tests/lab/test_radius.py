"""FreeRADIUS behind IPVS: it sees each client's own address, so it knows the client by nothing but that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.aaa import CLIENTS, clients_of, radius_servers, stranger_to
from tests.lab.agent import wait_for
from tests.lab.ledger import Ledger
from tests.lab.marks import BOTH
from tests.lab.radius import LONG, FreeRadius, ask, login, record
from tests.lab.servers import IPIP, VIPS

Pair = tuple[FreeRadius, FreeRadius]
EACH = 4  # requests of a client; the balancer sends them to the servers in turn


@pytest.fixture(scope="module", params=BOTH)
def servers() -> Iterator[Pair]:
    with radius_servers() as found:
        yield found


def accepted(servers: Pair) -> list[Counter[str]]:
    """Of each server, how often it has let in a user of each client."""
    return [Counter(server.accepted()) for server in servers]


def accounted(servers: Pair) -> list[Counter[str]]:
    """Of each server, how many records it has from each client."""
    return [Counter(server.accounted()) for server in servers]


@pytest.mark.parametrize("address", VIPS)
class TestEachWay:
    def test_each_client_is_known_by_its_address(self, servers: Pair, address: str) -> None:
        before = accepted(servers)
        for client, secret in clients_of(address).items():
            said = ask(address, client, secret, *login(), times=EACH)
            assert [answer[:2] for answer in said.answers] == [("Access-Accept", address)] * EACH
        grown = [now - then for now, then in zip(accepted(servers), before, strict=True)]
        assert grown == [Counter(dict.fromkeys(clients_of(address), EACH // 2))] * 2

    def test_accounting_is_written_down_under_the_clients_address(self, servers: Pair, address: str) -> None:
        before = accounted(servers)
        for client, secret in clients_of(address).items():
            said = ask(address, client, secret, *record(f"session of {client}"), verb="acct", times=EACH)
            assert [answer[:2] for answer in said.answers] == [("Accounting-Response", address)] * EACH
        grown = [now - then for now, then in zip(accounted(servers), before, strict=True)]
        assert grown == [Counter(dict.fromkeys(clients_of(address), EACH // 2))] * 2

    def test_four_thousand_bytes_go_there_and_come_back(self, servers: Pair, address: str) -> None:
        for client, secret in clients_of(address).items():
            if ":" in address:  # routers may not split it: the first is lost and tells the client what fits
                ask(address, client, secret, *login(), *LONG, patience=0.2)
            said = ask(address, client, secret, *login(), *LONG, times=2)
            assert [answer[:2] for answer in said.answers] == [("Access-Accept", address)] * 2
            assert all(4000 <= length <= 4096 for length in (*said.sent, *(answer[2] for answer in said.answers)))

    def test_a_stranger_is_not_answered_and_the_log_names_it(self, servers: Pair, address: str) -> None:
        stranger = stranger_to(address)
        for _ in servers:
            assert not ask(address, stranger, "no secret", *login(), patience=0.2).answers
        wait_for(lambda: all(stranger in server.unknown() for server in servers), "both logs to name the stranger")

    def test_a_wrong_password_is_refused(self, servers: Pair, address: str) -> None:
        client, secret = next(iter(clients_of(address).items()))
        assert [answer[:2] for answer in ask(address, client, secret, *login(password="wrong")).answers] == [
            ("Access-Reject", address)
        ]

    def test_status_server_is_answered(self, servers: Pair, address: str) -> None:
        client, secret = next(iter(clients_of(address).items()))
        said = ask(address, client, secret, "Message-Authenticator = 0x00", verb="status")
        assert [answer[:2] for answer in said.answers] == [("Access-Accept", address)]


def test_many_clients_at_once(servers: Pair, ledger: Ledger) -> None:
    times = 100
    before = accepted(servers)
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(ask, IPIP, client, secret, *login(), times=times) for client, secret in CLIENTS.items()]
        answers = [each.result().answers for each in asked]
    assert [len(each) for each in answers] == [times] * len(CLIENTS)
    grown = [now - then for now, then in zip(accepted(servers), before, strict=True)]
    assert grown[0] + grown[1] == Counter(dict.fromkeys(CLIENTS, times))
    assert all(share.total() > 0 for share in grown)
    shares = " and ".join(str(share.total()) for share in grown)
    ledger.note(f"{times} authentications by each of {len(CLIENTS)} clients at once: all accepted, {shares} by server")
