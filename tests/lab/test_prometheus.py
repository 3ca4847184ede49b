"""A real Prometheus scrapes the agent: it counts what the client sent, and tells when a VIP is held away."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.lab.agent import Agent, tunnel, vip, wait_for
from tests.lab.ledger import Ledger
from tests.lab.spaces import inside, ip
from tests.lab.traffic import ask_udp, echoes
from tests.lab.world import RS1, Virtual, world

IPIP, GRE = "192.0.2.10", "192.0.2.11"
CONFIG = tunnel("ipip") + tunnel("gre") + vip(IPIP) + vip(GRE)
RULES = Path(__file__).parents[2] / "packaging/prometheus/dsr-agent.rules.yml"
EVERY = "500ms"


class Prometheus:
    """The server, asked from the namespace that it runs in."""

    def ask(self, path: str) -> Any:
        """What its interface answers."""
        with inside(RS1), contextlib.closing(http.client.HTTPConnection("127.0.0.1", 9090, timeout=30)) as connection:
            connection.request("GET", path)
            answer = json.loads(connection.getresponse().read())
        assert answer["status"] == "success", answer
        return answer["data"]

    def value(self, query: str) -> float | None:
        """The one value that a query has now."""
        result = self.ask(f"/api/v1/query?query={quote(query)}")["result"]
        return float(result[0]["value"][1]) if result else None

    def known(self, query: str) -> float:
        """The same, waited for: after a scrape that ran out of its time (a slow machine) there is none for a while."""
        seen: list[float] = []

        def looked() -> bool:
            value = self.value(query)
            seen.extend([] if value is None else [value])
            return bool(seen)

        wait_for(looked, f"a value of {query}")
        return seen[-1]

    def firing(self, name: str) -> bool:
        """Whether an alert fires."""
        return any(
            alert["labels"]["alertname"] == name and alert["state"] == "firing"
            for alert in self.ask("/api/v1/alerts")["alerts"]
        )


@contextmanager
def prometheus(folder: Path) -> Iterator[Prometheus]:
    """Prometheus beside the agent, with the rules that we ship and shorter patience."""
    assert shutil.which("prometheus"), "the machine should have Prometheus"
    (folder / "rules.yml").write_text(re.sub(r"\bfor: \w+", "for: 0s", RULES.read_text()))
    (folder / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {EVERY}, scrape_timeout: {EVERY}, evaluation_interval: {EVERY}}}\n"
        "rule_files: [rules.yml]\n"
        "scrape_configs:\n"
        '  - {job_name: dsr-agent, static_configs: [{targets: ["127.0.0.1:9177"]}]}\n'
    )
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:9090"]
    with inside(RS1), (folder / "log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *options], cwd=folder, stdout=log, stderr=log)
    server = Prometheus()

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return server.value('up{job="dsr-agent"}') == 1
        return False

    try:
        wait_for(ready, "Prometheus to have scraped the agent")
        yield server
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module", params=["fast", pytest.param("debian", marks=pytest.mark.reference)])
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Agent, Prometheus]]:
    """A real server with traffic, and the Prometheus that watches it."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(world([Virtual(IPIP, "ipip"), Virtual(GRE, "gre")]))
        agent = stack.enter_context(Agent(RS1, CONFIG))
        stack.enter_context(echoes(RS1, [IPIP, GRE], [7001]))
        yield agent, stack.enter_context(prometheus(tmp_path_factory.mktemp("prometheus")))


@pytest.mark.parametrize(("address", "name"), [(IPIP, "dsr-ipip"), (GRE, "dsr-gre")])
def test_a_query_returns_the_packets_that_the_client_sent(
    scraped: tuple[Agent, Prometheus], address: str, name: str
) -> None:
    _, server = scraped
    query = f'dsr_tunnel_decapsulated_packets_total{{tunnel="{name}"}}'
    before = server.known(query)
    for _ in range(25):
        ask_udp(address, 7001)  # one packet there, and the answer goes another way
    wait_for(lambda: server.value(query) == before + 25, "25 packets more")


def test_a_recreated_tunnel_goes_on_counting(scraped: tuple[Agent, Prometheus]) -> None:
    agent, server = scraped
    query = 'dsr_tunnel_decapsulated_packets_total{tunnel="dsr-gre"}'
    before = server.known(query)
    for _ in range(10):
        ask_udp(GRE, 7001)
    mark = agent.mark()
    ip(RS1, "link del dsr-gre")  # at once: whether anybody has scraped the ten in between is chance
    agent.wait_log("dsr-gre: it is missing; made again", mark)
    for _ in range(5):
        ask_udp(GRE, 7001)
    wait_for(lambda: server.value(query) == before + 15, "the ten of the old link and the five of the new one")


def test_an_alert_fires_while_somebody_holds_a_vip_away(scraped: tuple[Agent, Prometheus], ledger: Ledger) -> None:
    _, server = scraped
    assert not server.firing("DsrVipMissing")
    away = threading.Event()

    def hold() -> None:
        while not away.is_set():
            with contextlib.suppress(RuntimeError):
                ip(RS1, f"address del {IPIP}/32 dev lo")

    holding = threading.Thread(target=hold)
    holding.start()
    started = time.monotonic()
    try:
        wait_for(lambda: server.firing("DsrVipMissing"), "the alert for the missing VIP")
        ledger.note(
            f"alert {time.monotonic() - started:.1f} s after a VIP began to be held away (scraped every {EVERY})"
        )
        wait_for(lambda: server.firing("DsrSomebodyFights"), "the alert for the fight")
    finally:
        away.set()
        holding.join()
    wait_for(lambda: not server.firing("DsrVipMissing"), "the end of the alert")
