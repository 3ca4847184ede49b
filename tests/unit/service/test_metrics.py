"""The exported metrics: names, types, labels and help are a promise, and the values are what was looked at."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from dsr_agent.guard.selftest import COUNTED
from dsr_agent.kernel.stats import Counted, Received
from dsr_agent.service.board import Board
from dsr_agent.service.metrics.collector import HttpCounts, Metrics, Readers
from dsr_agent.service.metrics.families import FAMILIES
from dsr_agent.service.readiness import About
from dsr_agent.service.web.endpoints import Endpoints
from dsr_agent.state.actions import Problem
from dsr_agent.state.count import Count
from dsr_agent.state.errors import NotPermitted, NotYet
from dsr_agent.state.model import Link, TunnelKey
from dsr_agent.state.probe import Seen, Sight
from dsr_agent.state.report import Report, Result
from dsr_agent.state.table import GuardPolicy, ObservedGuard, Table
from dsr_agent.truth.checks import Answer, Checked, FailureReason
from dsr_agent.truth.listeners import Service, ServiceFinding, Standing, Verdict
from dsr_agent.truth.probe import Pair
from dsr_agent.truth.reach import Reach, Reached
from dsr_agent.truth.spans import Span, Spans
from tests.unit.service.reports import VIP1, VIP2, desired, key, observed, report

GOLDEN = Path(__file__).parent / "metrics.txt"
README = Path(__file__).parents[3] / "README.md"
PROTOCOLS = {
    ("TcpExt", "IPReversePathFilter"): 3,
    ("Ip", "InUnknownProtos"): 4,
    ("Icmp", "OutDestUnreachs"): 5,
    ("Ip", "ReasmFails"): 6,
}


class World:
    """A board, counters that can be set, and the page that a scrape gets."""

    def __init__(self, *reports: Report) -> None:
        self.board = Board(wall=lambda: 1000.0)
        for each in reports:
            self.board.add(each)
        self.received: dict[str, Received] = {}
        self.protocols = dict(PROTOCOLS)
        self.lost = 0
        self.http = HttpCounts(listening={"127.0.0.1:9177": True}, agent_check_listening={"0.0.0.0:8190": True})
        self.guard: dict[tuple[str, str], Count] = {}
        sources = Readers(
            self._counters,
            list,
            lambda: self.guard,
            lambda: self.protocols,
            lambda: self.lost,
            Endpoints(self.board).wanted,
            Endpoints(self.board).reasons,
        )
        self._metrics = Metrics(self.board, sources, self.http)

    def _counters(self, names: Iterable[str]) -> dict[str, Counted]:
        return {name: Counted(name, 5, self.received[name]) for name in names if name in self.received}

    def page(self, accept: str = "") -> str:
        """What a scrape gets."""
        return self._metrics.render(accept)[1].decode()

    def value(self, series: str) -> float:
        """One value of it."""
        found = re.search(rf"^{re.escape(series)} (\S+)$", self.page(), re.MULTILINE)
        assert found, series
        return float(found.group(1))


def full() -> World:
    """A world that exports everything there is."""
    world = World(report())
    guarded = ObservedGuard(Table())
    world.board.overview = replace(
        world.board.overview,
        desired=replace(world.board.overview.desired, guard=GuardPolicy()).holding([key(VIP2).ip]),
        observed=replace(world.board.overview.observed, guard=guarded, links={"tunl0": Link("tunl0", "ipip")}),
    )
    service = Service(key(VIP1), "udp/1812")
    world.board.services = {service: Standing(ServiceFinding(service.name, Verdict.BOUND), up=True)}
    world.board.probes.show(Pair(ip_address(VIP1), "dsr-ipip"), Reach(Reached.UP))
    silent = Answer(FailureReason.TIMEOUT, "no answer")
    world.board.checks = {ip_address(VIP1): {"radius": Checked().after(silent, 3, 2).after(Answer(), 3, 2)}}
    world.received["dsr-ipip"] = Received(packets=1)
    world.guard["source", ""] = Count(1, 100)
    world.page()
    world.received["dsr-ipip"] = Received(packets=2)
    return world


def described(page: str) -> list[str]:
    """``name{labels} type help`` of every family of ours on *page*."""
    lines = []
    for family in text_string_to_metric_families(page):
        if family.name.startswith("dsr_"):
            counter = family.type == "counter"
            labels = {name for sample in family.samples for name in sample.labels} - {"le"}
            name = family.name + "_total" * counter
            lines.append(f"{name} {family.type} {{{', '.join(sorted(labels))}}} {family.documentation}")
    return sorted(lines)


def test_names_types_labels_and_help_are_as_promised() -> None:
    world = full()
    world.board.drains = Spans({ip_address(VIP1): Span(900.0)})
    assert described(world.page()) == GOLDEN.read_text().splitlines(), (
        "the metrics are an interface: is the change meant? Then change metrics.txt, the README, the rules and the "
        "dashboards with it"
    )
    names = [family.name for family in text_string_to_metric_families(full().page())]
    assert len(set(names)) == len(names), "a family that comes twice is refused by Prometheus, or counted twice"


def test_the_table_in_the_readme_has_them_all() -> None:
    table = {
        match.group(1): (match.group(2), match.group(3))
        for match in re.finditer(r"^\| `(dsr_\w+)` \| (\w+) \| (.*?) \|", README.read_text(), re.MULTILINE)
    }
    wanted = {
        name: (family.type, " ".join(f"`{label}`" for label in family.labels)) for name, family in FAMILIES.items()
    }
    assert table == wanted


def test_there_is_a_value_for_everything_before_anything_has_happened() -> None:
    page = World().page()
    missing = [name for name in FAMILIES if f"# TYPE {name.removesuffix('_total')}" not in page]
    assert missing == []
    assert "\ndsr_in_sync 0.0\n" in page


def test_in_sync_and_what_is_not() -> None:
    assert full().value("dsr_in_sync") == 1
    world = World(report(problems=(Problem(TunnelKey("dsr-ipip"), NotYet("no")),)))
    assert world.value("dsr_in_sync") == 0
    assert world.value('dsr_out_of_sync{object="tunnel"}') == 1
    assert world.value('dsr_out_of_sync{object="vip"}') == 0


def test_vips() -> None:
    world = World(report(found_missing=(VIP2,), result=Result.FAILED, saw=observed(VIP1)))
    assert world.value(f'dsr_vip_present{{vip="{VIP1}"}}') == 1
    assert world.value(f'dsr_vip_present{{vip="{VIP2}"}}') == 0
    assert world.value("dsr_vips_declared") == 2


def rows_of(world: World, vip: str) -> list[str]:
    """The families with a row of the VIP, as often as they have one."""
    return sorted(re.findall(rf'^(\w+){{[^}}]*"{vip}"', world.page(), re.MULTILINE))


def test_so_many_rows_for_each_vip_and_no_more() -> None:
    """10,000 VIPs are to be scraped in a quarter of a second: a row more for each of them is dear."""
    world = full()
    every = {"dsr_vip_present", "dsr_vip_ready"}
    guarded = every | {"dsr_vip_received_packets_total", "dsr_vip_received_bytes_total"}
    checked = {"dsr_check_up", "dsr_check_duration_seconds", "dsr_check_failures_total"}
    watched = guarded | checked | {"dsr_service_listening", "dsr_probe_success"}
    assert rows_of(world, VIP1) == sorted(watched)
    assert rows_of(world, VIP2) == sorted(guarded | {"dsr_vip_held", "dsr_vip_not_ready_reason"})
    world.board.drains = Spans({ip_address(VIP1): Span(900.0)})
    assert rows_of(world, VIP1) == sorted(watched | {"dsr_vip_drained", "dsr_vip_not_ready_reason"})
    unguarded = World(report(wanted=replace(desired(VIP1), guard=GuardPolicy())))
    assert rows_of(unguarded, VIP1) == sorted(every), "there is no table yet, and nothing else is known"


def test_what_left_the_file_is_forgotten_and_what_stays_counts_on() -> None:
    world = full()
    world.guard |= {("vips4", f'"{VIP1}"'): Count(5, 500), ("vips6", f'"{VIP2}"'): Count(7, 700)}
    with_both = world.board.overview
    with_one = replace(with_both, desired=replace(desired(VIP1), guard=GuardPolicy()))
    assert world.value(f'dsr_vip_received_packets_total{{vip="{VIP2}"}}') == 7

    world.board.overview = with_one
    del world.guard["vips6", f'"{VIP2}"']
    world.guard["vips4", f'"{VIP1}"'] = Count(1, 100)  # its table was made again
    assert world.value(f'dsr_vip_received_packets_total{{vip="{VIP1}"}}') == 6
    assert f'"{VIP2}"' not in world.page()

    world.board.overview = with_both
    assert world.value(f'dsr_vip_received_packets_total{{vip="{VIP1}"}}') == 6
    assert world.value(f'dsr_vip_received_packets_total{{vip="{VIP2}"}}') == 0


def test_a_tunnel_is_up_when_its_link_is_there_ours_and_up() -> None:
    assert World(report()).value('dsr_tunnel_up{tunnel="dsr-ipip"}') == 1
    assert World(report(saw=observed(up=False))).value('dsr_tunnel_up{tunnel="dsr-ipip"}') == 0
    assert World(report(saw=observed(links=()))).value('dsr_tunnel_up{tunnel="dsr-ipip"}') == 0


def test_what_tunnels_received_and_refused() -> None:
    world = World(report())
    world.received["dsr-ipip"] = Received(10, 1000, errors=15, dropped=9, length=1, crc=2, frame=3, fifo=4)
    assert world.value('dsr_tunnel_decapsulated_packets_total{tunnel="dsr-ipip"}') == 10
    assert world.value('dsr_tunnel_decapsulated_bytes_total{tunnel="dsr-ipip"}') == 1000
    reasons = {"crc": 2, "fifo": 4, "frame": 3, "length": 1, "dropped": 9, "other": 5}
    for reason, count in reasons.items():
        assert world.value(f'dsr_tunnel_receive_errors_total{{reason="{reason}",tunnel="dsr-ipip"}}') == count


def test_the_last_decapsulation_is_known_once_the_counter_was_seen_to_grow() -> None:
    world = World(report())
    world.received["dsr-ipip"] = Received(packets=1)
    assert "dsr_tunnel_last_decapsulation_timestamp_seconds{" not in world.page()
    world.received["dsr-ipip"] = Received(packets=2)
    assert world.value('dsr_tunnel_last_decapsulation_timestamp_seconds{tunnel="dsr-ipip"}') == 1000


def test_a_sysctl_is_told_as_the_kernel_goes_by_it() -> None:
    world = World(report(saw=observed(rp_filter=0)))
    assert world.value('dsr_sysctl_effective{device="dsr-ipip",sysctl="rp_filter"}') == 1, "all says 1"
    assert World(report()).value('dsr_sysctl_effective{device="dsr-ipip",sysctl="rp_filter"}') == 2
    assert world.value('dsr_sysctl_effective{device="dsr-ipip",sysctl="forwarding"}') == 0


def test_the_file() -> None:
    world = full()
    assert world.value("dsr_config_last_reload_successful") == 1
    world.board.file_refused(("no",))
    assert world.value("dsr_config_last_reload_successful") == 0
    assert world.value("dsr_config_last_reload_success_timestamp_seconds") == 1000


def test_drift_repairs_and_fights() -> None:
    fought = Report(report().scope, desired=desired(VIP1), observed=observed(VIP1), fights={key(VIP1): 12})
    world = World(report(found_missing=(VIP1,)), fought)
    assert world.value('dsr_drift_total{object="vip"}') == 1
    assert world.value('dsr_repairs_total{object="vip",result="done"}') == 1
    assert world.value("dsr_repair_duration_seconds_count") == 1
    assert world.value('dsr_fights{object="vip"}') == 1
    assert world.value('dsr_pass_duration_seconds_count{cause="drift"}') == 2


def test_what_the_host_counts() -> None:
    world = full()
    world.lost = 2
    assert world.value("dsr_reverse_path_drops_total") == 3
    assert world.value("dsr_unknown_protocol_packets_total") == 4
    assert world.value("dsr_icmp_unreachables_sent_total") == 5
    assert world.value("dsr_reassembly_failures_total") == 6
    assert world.value("dsr_netlink_events_lost_total") == 2
    world.protocols.clear()
    assert "dsr_reverse_path_drops_total 3" not in world.page(), "what cannot be read is not made up"


def test_no_label_ever_names_a_client() -> None:
    assert not {label for family in FAMILIES.values() for label in family.labels} & {"client", "source", "remote", "ip"}


def test_both_formats() -> None:
    assert full().page("application/openmetrics-text; version=1.0.0").endswith("# EOF\n")


def fallen(what: Seen = Seen.LOST) -> Reach[Sight]:
    """A pair that the self-test does not reach."""
    return Reach(Reached.FALLEN, Sight(what))


def test_the_self_test() -> None:
    world = full()
    world.board.overview = replace(world.board.overview, desired=world.board.overview.desired.holding([]))
    probes = world.board.probes
    probes.started()
    probes.sent, probes.lost = 7, 3
    probes.show(Pair(ip_address(VIP1), "dsr-ipip"), fallen())
    assert world.value("dsr_probe_running") == 1
    assert world.value("dsr_probe_sent_packets_total") == 7
    assert world.value("dsr_probe_lost_packets_total") == 3
    assert world.value(f'dsr_probe_success{{tunnel="dsr-ipip",vip="{VIP1}"}}') == 0
    assert world.value(f'dsr_vip_ready{{vip="{VIP1}"}}') == 0
    assert world.value(f'dsr_vip_ready{{vip="{VIP2}"}}') == 1
    probes.show(Pair(ip_address(VIP1), "dsr-ipip"), Reach(Reached.UNTRIED, Sight(Seen.LOST), 1))
    assert "dsr_probe_success{" not in world.page(), "what is not known is not made up"
    assert world.value(f'dsr_vip_ready{{vip="{VIP1}"}}') == 1


def test_what_the_self_test_sent_is_taken_off_the_tunnels_count() -> None:
    world = full()
    world.received["dsr-ipip"] = Received(packets=100, bytes=10_000)
    world.guard[COUNTED, '"dsr-ipip"'] = Count(60, 3000)
    world.guard[COUNTED, '"dsr-ipip.new"'] = Count(5, 250)
    world.board.probes.own["dsr-ipip"] = Count(4, 200)
    assert world.value('dsr_tunnel_decapsulated_packets_total{tunnel="dsr-ipip"}') == 31
    assert world.value('dsr_tunnel_decapsulated_bytes_total{tunnel="dsr-ipip"}') == 6550


def test_a_check_that_has_no_verdict_yet_is_neither_up_nor_down() -> None:
    world = World(report())
    silent = Answer(FailureReason.TIMEOUT, "no answer")
    once = Checked().after(silent, 2, 1)
    world.board.checks = {ip_address(VIP1): {"radius": once}}
    assert "dsr_check_up{" not in world.page()
    assert world.value(f'dsr_check_failures_total{{check="radius",reason="timeout",vip="{VIP1}"}}') == 1
    world.board.checks = {ip_address(VIP1): {"radius": once.after(silent, 2, 1)}}
    assert world.value(f'dsr_check_up{{check="radius",vip="{VIP1}"}}') == 0


def test_reasons_are_few_words_and_only_for_who_is_not_ready() -> None:
    missing = report(found_missing=(VIP1,), result=Result.FAILED, error=NotPermitted("may not"))
    world = World(missing)
    world.board.drains = Spans({ip_address(VIP1): Span(0.0)})
    lines = [line for line in world.page().splitlines() if line.startswith("dsr_vip_not_ready_reason{")]
    assert lines == [
        f'dsr_vip_not_ready_reason{{reason="drained",vip="{VIP1}"}} 1',
        f'dsr_vip_not_ready_reason{{reason="vip",vip="{VIP1}"}} 1',
    ]


def test_the_help_lists_every_reason() -> None:
    said = FAMILIES["dsr_vip_not_ready_reason"].help.partition("one of ")[2].rstrip(".")
    assert said.split(", ") == [str(about) for about in About]
