"""
The metrics, made anew at each scrape from the board, one look at the tunnels' counters and two files of ``/proc/net``.

Nothing here is touched by the loop, and nothing here waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from prometheus_client import ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from dsr_agent import __version__
from dsr_agent.guard.counters import Totals
from dsr_agent.kernel import stats
from dsr_agent.reconcile.resolve import Wanted
from dsr_agent.service.board import Board
from dsr_agent.service.event_counts import Histogram
from dsr_agent.service.metrics import by_vip, guard
from dsr_agent.service.metrics.families import COUNTERS, FAMILIES, GAUGES, HISTOGRAMS
from dsr_agent.service.metrics.sheets import Families, write
from dsr_agent.service.metrics.steady_totals import Reading, SteadyTotals
from dsr_agent.service.overview import Overview
from dsr_agent.service.readiness import NotReady
from dsr_agent.service.subjects import SubjectSort, sort_of
from dsr_agent.state.count import Count, Counted
from dsr_agent.state.marks import owns_link
from dsr_agent.state.model import GUARD, Desired, Ip, Key, Observed, SysctlKey

Samples: TypeAlias = Iterable[tuple[tuple[str, ...], float]]

# What the host counts for all of its devices together.
_PROTOCOLS = {
    "dsr_reverse_path_drops_total": ("TcpExt", "IPReversePathFilter"),
    "dsr_unknown_protocol_packets_total": ("Ip", "InUnknownProtos"),
    "dsr_icmp_unreachables_sent_total": ("Icmp", "OutDestUnreachs"),
    "dsr_reassembly_failures_total": ("Ip", "ReasmFails"),
}

# Here the kernel takes the larger of the device's own value and that of "all".
_LARGER_OF_BOTH = frozenset({"rp_filter", "arp_ignore", "arp_announce"})


@dataclass
class HttpCounts:
    """What the HTTP server counts about itself, and about the agent checks that it answers."""

    accepted: int = 0
    cut: dict[str, int] = field(default_factory=lambda: {"slow": 0, "crowd": 0})
    listening: dict[str, bool] = field(default_factory=dict)
    agent_check_listening: dict[str, bool] = field(default_factory=dict)
    agent_check_answers: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})


@dataclass(frozen=True)
class Readers:
    """Where numbers come from beside the board."""

    counters: Callable[[Iterable[str]], Mapping[str, stats.Counted]]
    farewells: Callable[[], list[stats.Counted]]
    guard: Callable[[], Counted | None]
    protocols: Callable[[], Mapping[tuple[str, str], int]]
    events_lost: Callable[[], int]
    wanted: Callable[[Overview], Wanted]
    reasons: Callable[[Overview], Iterable[tuple[Ip, Sequence[NotReady]]]]


class Metrics:
    """Renders all metrics in the format that the scraper asks for. Not for two threads at once."""

    def __init__(self, board: Board, sources: Readers, http: HttpCounts) -> None:
        self._process = ProcessCollector(registry=None)
        self._board = board
        self._sources = sources
        self._requests = http
        self._totals = SteadyTotals(board.wall)
        self._guard_totals = Totals()
        self._desired = Desired()
        self._names: Mapping[Ip, str] = {}

    def render(self, accept: str) -> tuple[str, bytes]:
        """Content type and text for a scraper that sends *accept*; everything from one overview."""
        encode, content_type = choose_encoder(accept)
        overview = self._board.overview
        wanted = self._sources.wanted(overview)
        tunnels = {name: name for name in overview.desired.linked}
        tunnels |= {item.tunnel.name: item.link.name for item in wanted.carried}
        # What a link counts that several tunnels share is told as the first one's.
        readings, counted = self._look(overview, {link: name for name, link in reversed(tunnels.items())})
        if overview.desired is not self._desired:
            self._desired, self._names = overview.desired, {key.ip: str(key.ip) for key in overview.desired.vips}
            self._guard_totals.keep(guard.declared(overview.desired, tunnels.values()))
        few = Families((*self._few(overview, wanted, tunnels, readings, counted), *self._process.collect()))
        reasons = self._sources.reasons(overview)
        many = by_vip.rows(self._board, overview, self._names, reasons, counted)
        sheets = "".join(write(encode, FAMILIES[name], sheet) for name, sheet in many)
        return content_type, sheets.encode() + encode(few)

    def _few(
        self,
        overview: Overview,
        wanted: Wanted,
        tunnels: Mapping[str, str],
        readings: Mapping[str, Reading],
        counted: Counted,
    ) -> Iterator[Metric]:
        """All but what each VIP has; *tunnels* says which link carries which."""
        yield from self._state(overview)
        yield from _tunnels(overview, tunnels)
        yield from _received(readings)
        yield from self._guard(overview, counted)
        yield from self._probes()
        yield _gauge("dsr_sysctl_effective", _effective(overview.observed, wanted))
        yield from self._file()
        yield from self._history()
        yield from self._host()
        yield from self._served()

    def _state(self, overview: Overview) -> Iterator[Metric]:
        desired = overview.desired
        yield _gauge("dsr_build_info", [((__version__,), 1)])
        yield _gauge("dsr_in_sync", [((), overview.in_sync)])
        yield _gauge("dsr_out_of_sync", _by_sort(overview.undone, overview))
        yield _gauge("dsr_fights", _by_sort(overview.fights, overview))
        yield _gauge("dsr_tunnels_declared", [((), len(desired.tunnels))])
        yield _gauge("dsr_vips_declared", [((), len(desired.vips))])

    def _guard(self, overview: Overview, counted: Counted) -> Iterator[Metric]:
        desired, observed = overview.desired, overview.observed
        there = observed.guard.table is not None
        yield _gauge("dsr_guard_in_place", [((), there and desired.guard is not None and GUARD not in overview.undone)])
        yield _gauge("dsr_guard_held", [((), observed.guard.held)])
        yield _gauge("dsr_foreign_drops", [((), len(self._board.foreign_drops))])
        told = [(name, tunnel) for name, tunnel in desired.tunnels.items() if tunnel.encapsulation != "l2"]
        open_to_all = [((name,), not tunnel.load_balancers) for name, tunnel in told]
        yield _gauge("dsr_tunnel_open_to_anybody", open_to_all)
        yield _gauge("dsr_fallback_device_up", guard.fallback_devices(observed))
        for name, rows in (
            ("dsr_guard_accepted", guard.accepted(desired, counted)),
            ("dsr_guard_dropped", guard.refused(counted)),
        ):
            shown = rows if desired.guard and counted else {}
            yield _counter(f"{name}_packets_total", [(labels, count.packets) for labels, count in shown.items()])
            yield _counter(f"{name}_bytes_total", [(labels, count.bytes) for labels, count in shown.items()])

    def _look(self, overview: Overview, tunnels: Mapping[str, str]) -> tuple[Mapping[str, Reading], Counted]:
        """What tunnels (by link) and the guard have counted in all."""
        gone = self._sources.farewells()  # first: what goes after this is told at the next scrape
        links = self._sources.counters(tunnels)
        # After the links': a packet of the self-test that comes between is taken off too early, never too late.
        there = overview.observed.guard.table is not None
        counted = self._guard_totals.look(self._sources.guard() if there else None)
        own = self._board.probes.own.copy()
        for link, tunnel in tunnels.items():
            own[tunnel] = own.get(tunnel, Count()).plus(guard.self_test(link, counted))
        return self._totals.look(tunnels, links, gone, own), counted

    def _probes(self) -> Iterator[Metric]:
        probes = self._board.probes
        yield _gauge("dsr_probe_running", [((), not probes.off)])
        yield _counter("dsr_probe_sent_packets_total", [((), probes.sent)])
        yield _counter("dsr_probe_lost_packets_total", [((), probes.lost)])

    def _file(self) -> Iterator[Metric]:
        state = self._board.file
        yield _gauge("dsr_config_last_reload_successful", [((), state.good)])
        yield _gauge("dsr_config_last_reload_success_timestamp_seconds", [((), state.good_at)])

    def _history(self) -> Iterator[Metric]:
        counts = self._board.counts
        yield _gauge("dsr_loop_last_turn_age_seconds", [((), self._board.turn_age)])
        yield _counter("dsr_drift_total", [((str(sort),), count) for sort, count in counts.drift.items()])
        repairs = [((str(sort), str(result)), count) for (sort, result), count in counts.repairs.items()]
        yield _counter("dsr_repairs_total", repairs)
        yield _histogram("dsr_repair_duration_seconds", [((), counts.repair_seconds)])
        passes = [((str(cause),), taken) for cause, taken in counts.pass_seconds.items()]
        yield _histogram("dsr_pass_duration_seconds", passes)

    def _host(self) -> Iterator[Metric]:
        yield _counter("dsr_netlink_events_lost_total", [((), self._sources.events_lost())])
        counted = self._sources.protocols()
        for name, place in _PROTOCOLS.items():
            yield _counter(name, [((), counted[place])] if place in counted else [])

    def _served(self) -> Iterator[Metric]:
        http = self._requests
        yield _gauge("dsr_http_listening", [((listen,), up) for listen, up in http.listening.items()])
        checks = http.agent_check_listening.items()
        yield _gauge("dsr_agent_check_listening", [((listen,), up) for listen, up in checks])
        answers = http.agent_check_answers.items() if checks else ()
        yield _counter("dsr_agent_check_answers_total", [((state,), count) for state, count in answers])
        yield _counter("dsr_http_connections_total", [((), http.accepted)])
        yield _counter("dsr_http_connections_cut_total", [((reason,), count) for reason, count in http.cut.items()])


def _by_sort(keys: Iterable[Key], overview: Overview) -> Samples:
    counts = dict.fromkeys(SubjectSort, 0)
    for key in keys:
        counts[sort_of(key, overview.desired)] += 1
    return [((str(sort),), count) for sort, count in counts.items()]


def _effective(observed: Observed, wanted: Wanted) -> Samples:
    """The sysctls that are kept, as the kernel goes by them; each once, though two tunnels may share a device."""
    found: dict[tuple[str, ...], float] = {}
    for _, sysctl in wanted.sysctls:
        *front, device, name = sysctl.path.split("/")
        value = observed.sysctls.get(sysctl.key)
        if value is None or front[1] != "ipv4":
            continue
        if name in _LARGER_OF_BOTH:
            value = max(value, observed.sysctls.get(SysctlKey("/".join((*front, "all", name))), 0))
        found[device, name] = value
    return found.items()


def _tunnels(overview: Overview, carriers: Mapping[str, str]) -> Iterator[Metric]:
    info, up = [], []
    for name, tunnel in overview.desired.tunnels.items():
        carrier = carriers.get(name, "")
        link = overview.observed.links.get(carrier)
        local = str(link.outer.local or "") if link and link.outer else ""
        info.append(((name, tunnel.encapsulation, carrier, local), 1))
        if tunnel.encapsulation == "dscp":
            up.append(((name,), overview.observed.guard.table is not None and GUARD not in overview.undone))
        elif not tunnel.bare:
            up.append(((name,), bool(link and link.up and owns_link(link))))
    yield _gauge("dsr_tunnel_info", info)
    yield _gauge("dsr_tunnel_up", up)


def _received(readings: Mapping[str, Reading]) -> Iterator[Metric]:
    received = {tunnel: reading.received for tunnel, reading in readings.items()}
    yield _counter("dsr_tunnel_decapsulated_packets_total", [((t,), r.packets) for t, r in received.items()])
    yield _counter("dsr_tunnel_decapsulated_bytes_total", [((t,), r.bytes) for t, r in received.items()])
    refused = []
    for tunnel, r in received.items():
        named = {"crc": r.crc, "fifo": r.fifo, "frame": r.frame, "length": r.length}
        named |= {"dropped": r.dropped, "other": max(r.errors - sum(named.values()), 0)}
        refused += [((tunnel, reason), count) for reason, count in named.items()]
    yield _counter("dsr_tunnel_receive_errors_total", refused)
    grew = [((t,), reading.grew_at) for t, reading in readings.items() if reading.grew_at is not None]
    yield _gauge("dsr_tunnel_last_decapsulation_timestamp_seconds", grew)


def _gauge(name: str, samples: Samples) -> Metric:
    family = GAUGES[name]
    metric = GaugeMetricFamily(name, family.help, labels=family.labels)
    for labels, value in samples:
        metric.add_metric(labels, float(value))
    return metric


def _counter(name: str, samples: Samples) -> Metric:
    family = COUNTERS[name]
    metric = CounterMetricFamily(name, family.help, labels=family.labels)
    for labels, value in samples:
        metric.add_metric(labels, float(value))
    return metric


def _histogram(name: str, samples: Iterable[tuple[tuple[str, ...], Histogram]]) -> Metric:
    family = HISTOGRAMS[name]
    metric = HistogramMetricFamily(name, family.help, labels=family.labels)
    for labels, taken in samples:
        metric.add_metric(labels, taken.cumulative, taken.total)
    return metric
