"""TACACS+ behind IPVS, spoken to by clients that are not ours: the server sees each client's own address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.lab.aaa import CLIENTS, clients_of, stranger_to, tacacs_servers
from tests.lab.marks import MOSTLY_FAST, ON_A_MACHINE
from tests.lab.servers import GRE, IPIP, VIPS
from tests.lab.tacacs import USER, Session, Tacacs, perl_login, python_account, python_login

pytestmark = ON_A_MACHINE

Pair = tuple[Tacacs, Tacacs]


@pytest.fixture(scope="module", params=MOSTLY_FAST)
def servers() -> Iterator[Pair]:
    with tacacs_servers() as found:
        yield found


def grown(servers: Pair, do: Callable[[], object]) -> list[Counter[Session]]:
    """What each server's log has more when *do* is done."""
    before = [Counter(server.log()) for server in servers]
    do()
    return [Counter(server.log()) - then for server, then in zip(servers, before, strict=True)]


def check(found: list[Counter[Session]], address: str, session: Callable[[str], Session]) -> None:
    """Two such sessions of each client, and both servers had some; the balancer says which."""
    assert found[0] + found[1] == Counter([session(client) for client in clients_of(address)] * 2)
    assert all(found)


@pytest.mark.parametrize("address", VIPS)
class TestPython:
    @pytest.mark.parametrize("pap", [False, True], ids=["ascii", "pap"])
    def test_each_client_is_known_by_its_address(self, servers: Pair, address: str, pap: bool) -> None:
        def logins() -> None:
            for client, secret in clients_of(address).items():
                assert all(python_login(address, client, secret, pap=pap) for _ in servers)

        check(grown(servers, logins), address, lambda client: Session(client, "login", USER, "pass"))

    def test_a_wrong_password_is_refused(self, servers: Pair, address: str) -> None:
        def logins() -> None:
            for client, secret in clients_of(address).items():
                assert not any(python_login(address, client, secret, "wrong") for _ in servers)

        check(grown(servers, logins), address, lambda client: Session(client, "login", USER, "fail"))

    def test_accounting_is_written_down_under_the_clients_address(self, servers: Pair, address: str) -> None:
        def accounts() -> None:
            for client, secret in clients_of(address).items():
                assert all(python_account(address, client, secret) for _ in servers)

        check(grown(servers, accounts), address, lambda client: Session(client, "accounting", USER))

    def test_a_stranger_is_turned_away_and_the_log_names_it(self, servers: Pair, address: str) -> None:
        stranger = stranger_to(address)

        def logins() -> None:
            for _ in servers:
                with pytest.raises((OSError, ValueError)):  # the connection ends without an answer
                    python_login(address, stranger, "no secret")

        first, second = grown(servers, logins)
        assert first + second == Counter([Session(stranger, result="unknown client")] * 2)


@pytest.mark.parametrize("address", [IPIP, GRE])
class TestPerl:
    @pytest.mark.parametrize("pap", [False, True], ids=["ascii", "pap"])
    def test_each_client_is_known_by_its_address(self, servers: Pair, address: str, pap: bool) -> None:
        def logins() -> None:
            for client, secret in CLIENTS.items():
                assert [perl_login(address, client, secret, pap=pap) for _ in servers] == ["pass"] * 2

        check(grown(servers, logins), address, lambda client: Session(client, "login", USER, "pass"))

    def test_a_wrong_password_and_a_wrong_secret_are_refused(self, servers: Pair, address: str) -> None:
        client, secret = next(iter(CLIENTS.items()))
        assert perl_login(address, client, secret, "wrong").startswith("fail")
        assert perl_login(address, client, "another secret").startswith("fail")
