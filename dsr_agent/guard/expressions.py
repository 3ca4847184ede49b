"""The few words of nftables' JSON that the guard's rules are made of (``libnftables-json(5)``)."""

from __future__ import annotations

from typing import Any, TypeAlias

from dsr_agent.state.marks import LINK_GROUP
from dsr_agent.state.table import canonical

Expression: TypeAlias = dict[str, Any]

ACCEPT: Expression = {"accept": None}
DROP: Expression = {"drop": None}


IPIP, SIX_IN_FOUR, GRE, UDP = 4, 41, 47, 17
ENCAPSULATIONS = [IPIP, SIX_IN_FOUR, GRE]
"""The IP protocols that wrap one packet in another."""


def rule(*statements: Expression) -> str:
    """One rule."""
    return canonical(statements)


def packet(protocol: str, field: str) -> Expression:
    """A field of a header."""
    return {"payload": {"protocol": protocol, "field": field}}


def raw(offset: int, length: int) -> Expression:
    """Bits of the transport header; a fragment other than the first has none, and no rule about them matches it."""
    return {"payload": {"base": "th", "offset": offset, "len": length}}


def meta(key: str) -> Expression:
    """Something about the packet that is in no header."""
    return {"meta": {"key": key}}


def concat(*parts: Expression) -> Expression:
    """Several fields as one."""
    return {"concat": list(parts)}


def bits(of: Expression, mask: int | str) -> Expression:
    """Some bits of a field."""
    return {"&": [of, mask]}


def match(left: Expression, right: Any, op: str = "==") -> Expression:
    """The rule goes on only if *left* is *right* (``"@name"``: is in that set)."""
    return {"match": {"op": op, "left": left, "right": right}}


def prefix(network: str, length: int) -> Expression:
    """A network."""
    return {"prefix": {"addr": network, "len": length}}


def count(name: str) -> Expression:
    """Count the packet under *name*."""
    return {"counter": name}


def goto(chain: str) -> Expression:
    """Go on in *chain*, and do not come back."""
    return {"goto": {"target": chain}}


def jump(chain: str) -> Expression:
    """Ask *chain*, and go on here if it decides nothing."""
    return {"jump": {"target": chain}}


def refuse(reason: str) -> tuple[Expression, Expression]:
    """Count the packet under *reason*, and drop it."""
    return count(reason), DROP


OURS = match(meta("iifgroup"), LINK_GROUP)
"""It came out of a tunnel of ours."""
NOT_OURS = match(meta("iifgroup"), LINK_GROUP, "!=")
