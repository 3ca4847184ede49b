"""What one result of the self-test says, and which fault it suggests: only what the evidence says. Pure."""

from __future__ import annotations

from dsr_agent.state.probe import Increase, Seen, Sight


def said(sight: Sight) -> str:
    """One line for a person."""
    if sight.what is Seen.ARRIVED:
        return f"arrived by {sight.came} in {sight.seconds * 1000:.1f} ms"
    if sight.what is Seen.ELSEWHERE:
        return f"arrived, but by {sight.came}, which takes the tunnel's packets in its place"
    if sight.what is Seen.LOST:
        return f"did not arrive: {_where(sight.evidence)}" if sight.evidence else "did not arrive"
    return f"not sent: {sight.why}" if sight.what is not Seen.UNKNOWN else f"not tried: {sight.why}"


def suspect(sight: Sight) -> str | None:
    """The fault that *sight* suggests, as one word for machines; None if it suggests none."""
    if sight.what is Seen.LOST:
        return _suspect(sight.evidence) if sight.evidence else "unknown"
    return {
        Seen.ELSEWHERE: "other_tunnel",
        Seen.NO_VIP: "vip",
        Seen.NO_TUNNEL: "tunnel",
        Seen.REFUSED: "sending",
    }.get(sight.what)


def _suspect(evidence: Increase) -> str:
    if "TcpExtIPReversePathFilter" in evidence.host:
        return "reverse_path"
    if evidence.refused:
        return "tunnel_refuses"
    if "IpInAddrErrors" in evidence.host:
        return "routing"  # a socket could be had on the VIP, so it is there
    if not evidence.tunnel and evidence.host.keys() & {"IcmpOutDestUnreachs", "IpInUnknownProtos"}:
        return "tunnel"
    return "firewall_behind_tunnel" if evidence.tunnel else "firewall_before_tunnel"


_WORDS = {
    "reverse_path": "the reverse-path filter dropped packets meanwhile",
    "tunnel_refuses": "the tunnel refused packets meanwhile (a checksum or key that differs)",
    "routing": "the routes or rules of this host led packets nowhere meanwhile",
    "tunnel": "no tunnel took it, and the host answered that nobody is here",
    "firewall_behind_tunnel": "packets came out of the tunnel meanwhile; if this one did, a firewall of this host "
    "dropped it there (one that lets in declared ports only has to let in [probe] port, too)",
    "firewall_before_tunnel": "nothing came out of the tunnel; a firewall of this host dropped it before",
}


def _where(evidence: Increase) -> str:
    fault = _suspect(evidence)
    words = _WORDS[fault]
    if fault == "reverse_path" and evidence.reverse_path is not None:
        words += f" (rp_filter of the tunnel's link, with that of all: {evidence.reverse_path})"
    return words
