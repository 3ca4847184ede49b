"""The faults that the doctor knows, root before consequence; the stages of a packet's way; and what is found there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsr_agent.state.model import Ip


class Stage(StrEnum):
    """In the packet's order."""

    AGENT = "agent"
    ARRIVING = "arriving"
    MODULE = "module"
    TUNNEL = "tunnel"
    LOCAL = "local"
    GUARD = "guard"
    FIREWALL = "firewall"
    REVERSE_PATH = "reverse_path"
    VIP = "vip"
    LISTENER = "listener"
    ANSWER = "answer"
    WAY_BACK = "way_back"
    MTU = "mtu"


class StageResult(StrEnum):
    """How a stage is. *skipped*: not asked about, or it follows from a fault before it."""

    OK = "ok"
    FAULT = "fault"
    WARNING = "warning"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"


class Cause(StrEnum):
    """In the order in which they are told: what explains others comes before them."""

    MODULE_FORBIDDEN = "module_forbidden"
    MODULE_MISSING = "module_missing"
    LOCAL_MISSING = "local_missing"
    CARD_DOWN = "card_down"
    NO_CARRIER = "no_carrier"
    GUARD_UNAVAILABLE = "guard_unavailable"
    TUNNEL_MASKED = "tunnel_masked"
    TUNNEL_MISSING = "tunnel_missing"
    TUNNEL_DOWN = "tunnel_down"
    TUNNEL_OTHER = "tunnel_other"
    PORT_TAKEN = "port_taken"
    PORT_CLOSED = "port_closed"
    TUNNEL_DISABLED_IPV6 = "tunnel_disabled_ipv6"
    GUARD_MISSING = "guard_missing"
    GUARD_OTHER = "guard_other"
    BALANCER_SENDS_OTHER = "balancer_sends_other"
    BALANCER_SENDS_KEY = "balancer_sends_key"
    BALANCER_SENDS_CHECKSUM = "balancer_sends_checksum"
    BALANCER_SENDS_PORT = "balancer_sends_port"
    BALANCER_SENDS_CODE_POINT = "balancer_sends_code_point"
    BALANCER_SENDS_ELSEWHERE = "balancer_sends_elsewhere"
    GUARD_REFUSES_SOURCE = "guard_refuses_source"
    GUARD_REFUSES_PROTOCOL = "guard_refuses_protocol"
    GUARD_REFUSES_INNER = "guard_refuses_inner"
    VIP_HELD = "vip_held"
    VIP_ELSEWHERE = "vip_elsewhere"
    VIP_MISSING = "vip_missing"
    IPV6_TENTATIVE = "ipv6_tentative"
    FIREWALL_DROPS = "firewall_drops"
    REVERSE_PATH_SYSCTL_D = "reverse_path_sysctl_d"
    REVERSE_PATH = "reverse_path"
    NO_CLIENT_ROUTE = "no_client_route"
    VIP_RULE = "vip_rule"
    FIREWALL_UNTOLD = "firewall_untold"
    SERVICE_OTHER_NAMESPACE = "service_other_namespace"
    LISTENING_ELSEWHERE = "listening_elsewhere"
    NOT_LISTENING = "not_listening"
    ANSWERS_WRONG_ADDRESS = "answers_wrong_address"
    CHECK_FAILED = "check_failed"
    WAY_BACK_RULE = "way_back_rule"
    WAY_BACK_VRF = "way_back_vrf"
    WAY_BACK_MISSING = "way_back_missing"
    MTU_BLACK_HOLE = "mtu_black_hole"
    NOTHING_ARRIVES = "nothing_arrives"
    BALANCER_SILENT = "balancer_silent"
    AGENT_STUCK = "agent_stuck"
    AGENT_NOT_RUNNING = "agent_not_running"
    FILE_REFUSED = "file_refused"
    FIGHT = "fight"
    DRAINED = "drained"
    UNANSWERED = "unanswered"
    TUNNEL_SETTINGS = "tunnel_settings"
    LISTENING_WILDCARD = "listening_wildcard"
    WAY_BACK_ASYMMETRIC = "way_back_asymmetric"
    ARP_ANSWERS = "arp_answers"


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What was seen at a stage: of one tunnel, of one VIP, of both, or of the host.

    *cause* is there for faults and warnings, and *remedy* is then the one command, or the line to write in the file.
    """

    stage: Stage
    result: StageResult
    saw: str
    evidence: tuple[str, ...] = ()
    cause: Cause | None = None
    remedy: str = ""
    vip: Ip | None = None
    tunnel: str | None = None

    @property
    def bad(self) -> bool:
        """Whether there is a cause to tell."""
        return self.cause is not None

    @property
    def blocks(self) -> bool:
        """Whether nothing gets further for it."""
        return self.result is StageResult.FAULT


def ok(stage: Stage, saw: str, *evidence: str, tunnel: str | None = None, vip: Ip | None = None) -> Finding:
    """A stage where all is well."""
    return Finding(stage, StageResult.OK, saw, evidence, tunnel=tunnel, vip=vip)


def unknown(stage: Stage, saw: str, tunnel: str | None = None, vip: Ip | None = None) -> Finding:
    """A stage about which nothing can be said."""
    return Finding(stage, StageResult.UNKNOWN, saw, tunnel=tunnel, vip=vip)


def skipped(stage: Stage, saw: str, tunnel: str | None = None, vip: Ip | None = None) -> Finding:
    """A stage that was not asked about."""
    return Finding(stage, StageResult.SKIPPED, saw, tunnel=tunnel, vip=vip)


@dataclass(frozen=True, slots=True)
class Told:
    """A stage's way to make faults and warnings without repeating what they are about."""

    stage: Stage
    tunnel: str | None = None
    vip: Ip | None = None

    def fault(self, cause: Cause, saw: str, remedy: str, *evidence: str) -> Finding:
        """Requests are not answered for this."""
        return Finding(self.stage, StageResult.FAULT, saw, evidence, cause, remedy, self.vip, self.tunnel)

    def warning(self, cause: Cause, saw: str, remedy: str, *evidence: str) -> Finding:
        """They are, or may be, and somebody should know."""
        return Finding(self.stage, StageResult.WARNING, saw, evidence, cause, remedy, self.vip, self.tunnel)
