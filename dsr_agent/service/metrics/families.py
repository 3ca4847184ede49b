"""
The metrics by name, type, labels and meaning: a promise to everybody's dashboards and alerts.

The README's table and a test hold the same list; what changes here breaks somebody's graph.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """One metric."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


def _of(type_: str, rows: tuple[tuple[str, str, str], ...]) -> dict[str, Family]:
    return {name: Family(name, type_, tuple(labels.split()), text) for name, labels, text in rows}


GAUGES = _of(
    "gauge",
    (
        ("dsr_build_info", "version", "Always 1; the label says which version runs."),
        ("dsr_in_sync", "", "Whether nothing is known to be other than the file says (1), or something is (0)."),
        ("dsr_out_of_sync", "object", "How many things are other than the file says."),
        ("dsr_fights", "object", "How many things somebody keeps undoing."),
        ("dsr_tunnels_declared", "", "Tunnels in the file."),
        ("dsr_vips_declared", "", "VIPs in the file."),
        ("dsr_vip_present", "vip", "Whether the VIP is on its device."),
        ("dsr_vip_ready", "vip", "Whether /readyz/VIP says that the VIP is ready."),
        (
            "dsr_vip_not_ready_reason",
            "vip reason",
            "Always 1, for VIPs that are not ready: what it is about, one of starting, stuck, held, drained, vip, "
            "device, tunnel, guard, host, self_test, service, check.",
        ),
        ("dsr_vip_drained", "vip", "Always 1, for VIPs that somebody has drained."),
        ("dsr_vip_held", "vip", "Always 1, for VIPs that somebody holds: they are left as they are, there or not."),
        ("dsr_service_listening", "vip service", "Whether somebody listens for a service that the VIP declares."),
        (
            "dsr_check_up",
            "vip check",
            "Whether the application answers (1), or has not [[check]] fall times in a row (0).",
        ),
        ("dsr_check_duration_seconds", "vip check", "How long the last answer took, if it was a good one."),
        ("dsr_probe_running", "", "Whether there is a self-test (1), or the file or the host has none (0)."),
        (
            "dsr_probe_success",
            "vip tunnel",
            "Whether the self-test reaches the VIP by the tunnel (1), or has been lost [probe] fall times (0).",
        ),
        ("dsr_tunnel_info", "tunnel encapsulation link local", "Always 1; what carries the tunnel."),
        (
            "dsr_tunnel_up",
            "tunnel",
            "Whether the tunnel's link is there and up; for dscp, whether its rules are in place.",
        ),
        (
            "dsr_tunnel_last_decapsulation_timestamp_seconds",
            "tunnel",
            "When the tunnel's packets were last seen to have grown, as of the looks that scrapes cause.",
        ),
        ("dsr_tunnel_open_to_anybody", "tunnel", "Whether the file lets anybody send through the tunnel."),
        ("dsr_guard_in_place", "", "Whether the guard's table is as it has to be (1), or open or not wanted (0)."),
        ("dsr_guard_held", "", "Whether the kernel keeps everybody else from changing the guard's table."),
        ("dsr_foreign_drops", "", "Chains of other firewalls that drop what the guard lets in, when last looked."),
        ("dsr_fallback_device_up", "device", "Whether a device that decapsulates for every address is up."),
        (
            "dsr_sysctl_effective",
            "device sysctl",
            "What the kernel goes by: the larger of all's and the device's own, for rp_filter and the ARP sysctls.",
        ),
        ("dsr_config_last_reload_successful", "", "Whether the file could be used when it was last read."),
        ("dsr_config_last_reload_success_timestamp_seconds", "", "When a file that could be used was last read."),
        ("dsr_loop_last_turn_age_seconds", "", "Seconds since the reconcile loop last came round."),
        ("dsr_http_listening", "listen", "Whether the address of [http] listen is being served."),
        ("dsr_agent_check_listening", "listen", "Whether the address of [agent_check] listen is being served."),
    ),
)

COUNTERS = _of(
    "counter",
    (
        (
            "dsr_tunnel_decapsulated_packets_total",
            "tunnel",
            "Packets that came out of the tunnel, but for the self-test's.",
        ),
        ("dsr_tunnel_decapsulated_bytes_total", "tunnel", "Bytes that came out of the tunnel, outer header left away."),
        (
            "dsr_tunnel_receive_errors_total",
            "tunnel reason",
            "Packets that arrived for the tunnel and were refused: crc (GRE checksum on one side only), fifo (GRE "
            "sequence), frame (ECN bits), length, dropped, other.",
        ),
        (
            "dsr_guard_accepted_packets_total",
            "tunnel load_balancer",
            "Wrapped packets that were let in, by who sent them.",
        ),
        ("dsr_guard_accepted_bytes_total", "tunnel load_balancer", "Bytes of them, with both headers."),
        ("dsr_guard_dropped_packets_total", "reason", "Packets that were refused, by reason."),
        ("dsr_guard_dropped_bytes_total", "reason", "Bytes of them."),
        (
            "dsr_vip_received_packets_total",
            "vip",
            "Packets that came to the VIP: out of tunnels, by code point (dscp), or as they are (l2).",
        ),
        ("dsr_vip_received_bytes_total", "vip", "Bytes of them, with their own IP header."),
        (
            "dsr_check_failures_total",
            "vip check reason",
            "Questions without a good answer: timeout, refused, wrong_source (not the VIP), bad_answer, rejected, tls, "
            "status (of HTTP), command (exit code), error (could not be asked).",
        ),
        ("dsr_probe_sent_packets_total", "", "Packets of the self-test that were sent. They count nowhere else."),
        ("dsr_probe_lost_packets_total", "", "Those of them that did not arrive in time by their tunnel's link."),
        ("dsr_drift_total", "object", "Things found to be other than the file says, though they had been."),
        (
            "dsr_repairs_total",
            "object result",
            "Repairs: done, failed, skipped (it waits for another), held (a fight).",
        ),
        ("dsr_reverse_path_drops_total", "", "Packets the host dropped by reverse-path filtering, on any device."),
        (
            "dsr_unknown_protocol_packets_total",
            "",
            "Packets of a protocol nobody here takes, such as IPIP without a tunnel.",
        ),
        ("dsr_icmp_unreachables_sent_total", "", "ICMP unreachables the host sent, such as for GRE without a tunnel."),
        ("dsr_reassembly_failures_total", "", "IPv4 datagrams whose fragments did not come together."),
        ("dsr_netlink_events_lost_total", "", "Times the kernel dropped announcements; everything was read back."),
        ("dsr_agent_check_answers_total", "state", "Agent checks answered: up (drained or not), down."),
        ("dsr_http_connections_total", "", "Connections accepted."),
        (
            "dsr_http_connections_cut_total",
            "reason",
            "Connections ended by us: slow (took too long), crowd (made room for others).",
        ),
    ),
)

HISTOGRAMS = _of(
    "histogram",
    (
        ("dsr_repair_duration_seconds", "", "From the first look of a repair to the kernel's last acknowledgement."),
        ("dsr_pass_duration_seconds", "cause", "How long passes took: start, reload, drift, retry, hold."),
    ),
)

FAMILIES = GAUGES | COUNTERS | HISTOGRAMS
