"""
What comes without a tunnel: known by its code point (``dscp``), or over the segment as it is (``l2``). Pure.

There is no link and no header: what stands in their place are the rules that write VIPs back, and silence about VIPs,
which is told with them (`vip`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsr_agent.kernel.headers import CapturedPacket
from dsr_agent.state.actions import ChangeLink, DeleteLink
from dsr_agent.state.errors import NotPermitted, NotYet
from dsr_agent.state.guard_actions import WriteGuard
from dsr_agent.state.local import LocalOf
from dsr_agent.state.model import Tunnel, TunnelKey, Vip
from dsr_agent.state.why import Why
from dsr_agent.truth.doctor.cards import deaf
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, skipped, unknown
from dsr_agent.truth.doctor.evidence import Evidence
from dsr_agent.truth.doctor.tunnel import APPLY

_SHOWN = 3


def rules(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether what is marked gets its VIP back."""
    if tunnel.encapsulation != "dscp":
        return
    told, guard = Told(Stage.TUNNEL, tunnel.name), evidence.observed.guard
    written = next((action for action in evidence.todo.actions if isinstance(action, WriteGuard)), None)
    if isinstance(guard.unavailable, NotPermitted):
        yield unknown(Stage.TUNNEL, str(guard.unavailable), tunnel.name)
    elif guard.unavailable:
        saw = f"code points are known only with nftables: {guard.unavailable.problem}"
        yield Told(Stage.GUARD, tunnel.name).fault(Cause.GUARD_UNAVAILABLE, saw, guard.unavailable.remedy or APPLY)
    elif written is None or written.why is Why.FOLLOWS:
        yield ok(Stage.TUNNEL, "the rules that write VIPs back are in place", tunnel=tunnel.name)
    elif any(isinstance(action, ChangeLink | DeleteLink) for action in evidence.todo.actions):
        yield skipped(Stage.TUNNEL, "its rules follow the tunnels, and one of them is other than declared", tunnel.name)
    elif guard.table is None:
        yield told.fault(Cause.TUNNEL_MISSING, "the rules that write VIPs back are not there", APPLY)
    elif evidence.arrives(tunnel.name):
        yield told.fault(Cause.GUARD_OTHER, f"the table with its rules was changed: {written}", APPLY)
    else:
        saw = f"the table with the rules that write VIPs back was changed: {written}"
        yield told.fault(Cause.TUNNEL_OTHER, saw, APPLY)


def local(tunnel: Tunnel, evidence: Evidence) -> Iterator[Finding]:
    """Whether there is an address that marked packets are sent to, or the segment that they come over."""
    errors = [error for error in evidence.problems.get(TunnelKey(tunnel.name), ()) if isinstance(error, NotYet)]
    for error in errors[:1]:
        remedy = error.remedy or f"correct local in [[tunnel]] {tunnel.name}"
        yield Told(Stage.LOCAL, tunnel.name).fault(Cause.LOCAL_MISSING, error.problem, remedy)
    if not errors and (places := evidence.marked_at.get(tunnel.name)):
        yield ok(Stage.LOCAL, f"marked packets may come to {_some(map(str, places))}", tunnel=tunnel.name)


# --- what arrives -----------------------------------------------------------------------------------------------------


def arriving(tunnel: Tunnel, vip: Vip, evidence: Evidence) -> Iterator[Finding]:
    """Whether something comes in for *vip*, and with its code point."""
    if evidence.captured is None:
        yield unknown(Stage.ARRIVING, evidence.uncaptured, tunnel.name, vip.ip)
        return
    if tunnel.encapsulation == "dscp":
        yield _marked(tunnel, vip, evidence)
        return
    found = [packet for packet in evidence.bare if packet.destination == vip.ip]
    if found:
        yield ok(Stage.ARRIVING, _words(found, "from clients", evidence), tunnel=tunnel.name, vip=vip.ip)
    else:
        yield _nothing(tunnel, vip, "nothing came to the VIP", f"{_ip(vip)} and dst host {vip.ip}", evidence)


def _marked(tunnel: Tunnel, vip: Vip, evidence: Evidence) -> Finding:
    places = evidence.marked_at.get(tunnel.name, frozenset())
    came = [each for each in evidence.bare if each.destination in places and each.version == vip.ip.version]
    right = [packet for packet in came if packet.code == vip.dscp]
    if right:
        what = f"with code point {vip.dscp} from clients"
        return ok(Stage.ARRIVING, _words(right, what, evidence), tunnel=tunnel.name, vip=vip.ip)
    # Others set code points, too: of those, only what asks for a service of the VIP can be taken for a mark.
    wrong = [each for each in came if each.code and each.code not in evidence.coded and each.service in vip.services]
    if wrong:
        first = wrong[0]
        saw = f"{first.service} comes to {first.destination} with code point {first.code}; the file says {vip.dscp}"
        remedy = f"write dscp = {first.code} in [[vip]] {vip.name}, or have the load balancer write {vip.dscp} "
        remedy += f"(TOS {(vip.dscp or 0) << 2})"
        told = Told(Stage.ARRIVING, tunnel.name, vip.ip)
        return told.fault(Cause.BALANCER_SENDS_CODE_POINT, saw, remedy, _words(wrong, "captured", evidence))
    saw = f"nothing with code point {vip.dscp} came to {_some(map(str, places)) or 'this host'}"
    field = f"ip[1] & 0xfc = {(vip.dscp or 0) << 2}"
    if vip.ip.version == 6:
        field = f"ip6[0:2] & 0xfc0 = {(vip.dscp or 0) << 6}"
    return _nothing(tunnel, vip, saw, f"'{field}'", evidence)


def _nothing(tunnel: Tunnel, vip: Vip, saw: str, how: str, evidence: Evidence) -> Finding:
    assert evidence.captured is not None
    if not evidence.captured.complete:
        return unknown(Stage.ARRIVING, "there was more traffic than could be looked at", tunnel.name, vip.ip)
    told, saw = Told(Stage.ARRIVING, tunnel.name, vip.ip), f"{saw} in {evidence.seconds:.0f} s"
    segment = [tunnel.local.link] if isinstance(tunnel.local, LocalOf) else []
    if found := deaf(evidence, evidence.marked_at.get(tunnel.name, ()), segment):
        return told.fault(found.cause, f"{saw}: {found.card} {found.why}", found.remedy)
    kept = "keeps code points" if tunnel.encapsulation == "dscp" else "is one segment for balancer and server"
    remedy = f"see whether the load balancer sends, and whether the network {kept}: tcpdump -ni any {how}"
    return told.warning(Cause.NOTHING_ARRIVES, saw, remedy)


# --- words ------------------------------------------------------------------------------------------------------------


def _ip(vip: Vip) -> str:
    return "ip" if vip.ip.version == 4 else "ip6"


def _words(packets: list[CapturedPacket], what: str, evidence: Evidence) -> str:
    least = "" if evidence.captured and evidence.captured.complete else "at least "
    return f"{least}{len(packets)} packet{'s' * (len(packets) != 1)} {what} in {evidence.seconds:.0f} s"


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
