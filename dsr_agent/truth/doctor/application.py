"""Who answers for the VIP, and from which address. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dsr_agent.kernel.headers import Leaving
from dsr_agent.state.model import Ip, Vip
from dsr_agent.truth.checks import FailureReason
from dsr_agent.truth.doctor.causes import Cause, Finding, Stage, Told, ok, skipped, unknown
from dsr_agent.truth.doctor.evidence import Evidence
from dsr_agent.truth.listeners import ServiceFinding, Verdict, services_of

_SEVERAL = 3  # requests; fewer may have come just now
_REFUSED = ("UdpNoPorts", "Udp6NoPorts", "TcpOutRsts")


def listener(vip: Vip, evidence: Evidence) -> Iterator[Finding]:
    """Whether somebody listens for what the VIP declares, where its requests come."""
    found = [evidence.listening.get(service) for service in services_of(vip.key, vip)]
    if not vip.services:
        yield skipped(Stage.LISTENER, "the file declares no services of it", vip=vip.ip)
        return
    if None in found:
        yield unknown(Stage.LISTENER, "the kernel does not tell who listens", vip=vip.ip)
        return
    known = [each for each in found if each is not None]
    down = [each for each in known if not each.listening]
    for each in down:
        yield _down(vip, each, evidence)
    if not down:
        yield ok(Stage.LISTENER, "; ".join(f"{each.service} {_at(each)}" for each in known), vip=vip.ip)


def _at(each: ServiceFinding) -> str:
    return "is bound to the VIP" if each.verdict is Verdict.BOUND else f"is bound to every address ({each.at[0]})"


def _down(vip: Vip, each: ServiceFinding, evidence: Evidence) -> Finding:
    told, moved = Told(Stage.LISTENER, vip=vip.ip), evidence.moved(*_REFUSED)
    port = each.service.partition("/")[2]
    if each.verdict is Verdict.ELSEWHERE:
        remedy = f"have it listen on {vip.ip} port {port}"
        return told.fault(Cause.LISTENING_ELSEWHERE, f"{each.service}: {each}", remedy, *moved)
    if other := evidence.elsewhere.get(each.service):
        saw = f"{each.service}: nobody listens here; in another network namespace somebody does, beside {other.process}"
        remedy = "run it in this network namespace (a container: with the host's network)"
        return told.fault(Cause.SERVICE_OTHER_NAMESPACE, saw, remedy, *moved)
    remedy = f"start the application that serves {each.service}, bound to {vip.ip}"
    return told.fault(Cause.NOT_LISTENING, f"{each.service}: nobody listens", remedy, *moved)


# --- the answer -------------------------------------------------------------------------------------------------------


def answer(vip: Vip, evidence: Evidence) -> Iterator[Finding]:
    """Whether answers leave from the VIP, as far as is seen."""
    told = Told(Stage.ANSWER, vip=vip.ip)
    if wrong := _from_elsewhere(vip, evidence):
        saw = f"{wrong.source} answered {wrong.destination} from port {wrong.port}, who had asked the VIP"
        remedy = f"bind the application to {vip.ip} (or have it use IP_PKTINFO)"
        yield told.fault(Cause.ANSWERS_WRONG_ADDRESS, saw, remedy, f"captured leaving by {wrong.link}")
        return
    doubtful = [
        each for service in services_of(vip.key, vip) if (each := evidence.listening.get(service)) and each.doubtful
    ]
    if doubtful:
        remedy = f"bind it to {vip.ip}, if it does not use IP_PKTINFO"
        yield told.warning(Cause.LISTENING_WILDCARD, f"{doubtful[0].service}: {doubtful[0]}", remedy)
    elif unanswered := next(_unanswered(vip, evidence), ""):
        remedy = "look into the application's log; a [[check]] in the file asks it all the time"
        yield told.warning(Cause.UNANSWERED, unanswered, remedy)
    elif right := _from_the_vip(vip, evidence):
        saw = f"{vip.ip} answered {right.destination} from port {right.port}"
        yield ok(Stage.ANSWER, saw, f"captured leaving by {right.link}", vip=vip.ip)
    elif vip.services and all(_listens(evidence.listening.get(service)) for service in services_of(vip.key, vip)):
        yield ok(Stage.ANSWER, "nothing that listens would answer from another address", vip=vip.ip)
    else:
        yield skipped(Stage.ANSWER, "nobody was seen to answer", vip=vip.ip)


def _listens(found: ServiceFinding | None) -> bool:
    return found is not None and found.listening


def _asked(vip: Ip, evidence: Evidence) -> set[tuple[Ip, int | None]]:
    """Who asked *vip* by UDP, and on which port."""
    inner = (packet.inner for packet in evidence.sent_to.get(vip, ()))
    return {(each.source, each.port) for each in inner if each and each.service.startswith("udp/")}


def _from_elsewhere(vip: Vip, evidence: Evidence) -> Leaving | None:
    """An answer to a client who asked this VIP and no other, from an address that is no VIP."""
    asked = _asked(vip.ip, evidence)
    if not asked or evidence.captured is None:
        return None
    left, vips = evidence.captured.left, evidence.desired.key_of_ip
    for other in evidence.sent_to.keys() & vips.keys() - {vip.ip}:
        asked -= _asked(other, evidence)
    right = {(each.destination, each.port) for each in left if each.source == vip.ip}
    for each in left:
        who = each.destination, each.port
        if who in asked and who not in right and each.source not in vips and each.source in evidence.own:
            return each
    return None


def _from_the_vip(vip: Vip, evidence: Evidence) -> Leaving | None:
    left = evidence.captured.left if evidence.captured else ()
    return next((each for each in left if each.source == vip.ip), None)


def _unanswered(vip: Vip, evidence: Evidence) -> Iterator[str]:
    """Services of which several requests came in and no answer left: it hangs, or wants to know nobody who asks."""
    if evidence.captured is None or not evidence.captured.complete:
        return
    asked = [packet.inner.service for packet in evidence.sent_to.get(vip.ip, ()) if packet.inner and not packet.later]
    answered = {f"udp/{each.port}" for each in evidence.captured.left if each.source == vip.ip}
    for service in vip.services:
        count = asked.count(service)
        if service.startswith("udp/") and service not in answered and count >= _SEVERAL:
            yield f"{service}: {count} requests came in, and no answer left in {evidence.seconds:.0f} s"


def unexplained(vip: Vip, evidence: Evidence) -> Iterator[Finding]:
    """What keeps the VIP from being ready in the running agent's eyes, where nothing else was found: its checks."""
    says = evidence.agent.says or {}
    texts = [text for text in says.get("not_ready", {}).get(str(vip.ip), ()) if not _looked_at(text, vip)]
    if texts:
        told, saw = Told(Stage.ANSWER, vip=vip.ip), f"the agent finds it not ready: {texts[0]}"
        reasons = {row.get("reason") for row in says.get("checks", ()) if row.get("vip") == str(vip.ip)}
        if FailureReason.WRONG_SOURCE in reasons:
            yield told.fault(Cause.ANSWERS_WRONG_ADDRESS, saw, f"bind the application to {vip.ip}", *texts[1:])
        else:
            yield told.fault(Cause.CHECK_FAILED, saw, "dsr-agent status", *texts[1:])


def _looked_at(text: str, vip: Vip) -> bool:
    """Whether it is about something that was looked at just now: the agent believes a change only when seen twice."""
    return any(
        words in text for words in ("drained", "held", "self-test by ", *(f"{service}: " for service in vip.services))
    )
