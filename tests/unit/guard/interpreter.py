"""
What the packet filter does with a table and a packet, as far as the guard uses it.

Written from the kernel's sources (``net/netfilter/nf_tables_core.c``, ``nft_payload.c``, ``nft_lookup.c``), and as
strict as it: what a rule asks for and the packet does not have ends the rule, and an element of a set that counts has
counted as soon as it was found, whatever the rest of the rule says. A word of the rules that is not known here is an
error.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, TypeAlias

from dsr_agent.state.model import Ip
from dsr_agent.state.table import Table, canonical
from tests.unit.guard.packets import TCP, UDP, Packet

Value: TypeAlias = int | str | Ip | tuple[Any, ...]
Place: TypeAlias = tuple[str, str]
"""What has counted: a set and its element (in JSON), or a named counter and nothing."""

_MORE_FRAGMENTS = 0x2000


class NoMatchError(Exception):
    """The rule ends here, and the next one is asked."""


@dataclass
class Verdict:
    """What became of a packet."""

    accepted: bool = True
    counts: Counter[Place] = field(default_factory=Counter)
    mss: int | None = None
    destination: Ip | None = None
    """Where the packet goes from here on, if that was changed."""


def judge(table: Table, packet: Packet, hook: str = "prerouting") -> Verdict:
    """Send *packet* through all chains of *hook*."""
    verdict = Verdict()
    chains = sorted((chain.priority, name) for name, chain in table.chains.items() if chain.hook == hook)
    assert not table.strangers
    assert {chain.policy for chain in table.chains.values()} <= {"accept"}
    for _, name in chains:
        walk = _Walk(table, packet, verdict)
        if walk.chain(name) == "drop":
            verdict.accepted = False
            break
        packet = walk.packet
    return verdict


class _Walk:
    """One packet on its way through one base chain."""

    def __init__(self, table: Table, packet: Packet, verdict: Verdict) -> None:
        self._table = table
        self.packet = packet
        self._verdict = verdict

    def chain(self, name: str) -> str:
        """The verdict of the chain, or nothing."""
        for rule in self._table.chains[name].rules:
            try:
                for statement in json.loads(rule):
                    if said := self._statement(statement):
                        return said
            except NoMatchError:
                continue
        return ""

    def _statement(self, statement: dict[str, Any]) -> str:
        ((kind, what),) = statement.items()
        if kind == "match":
            if not self._match(what):
                raise NoMatchError
            return ""
        if kind == "counter":
            assert what in self._table.counters, what
            self._verdict.counts[what, ""] += 1
            return ""
        if kind == "goto":
            return self.chain(what["target"]) or "accept"  # the policy; no chain is gone to but from a base chain
        if kind == "jump":
            return self.chain(what["target"])
        if kind == "mangle" and "payload" in what["key"]:
            self._rewrite(what)
            return ""
        if kind == "mangle":
            assert what["key"] == {"tcp option": {"name": "maxseg", "field": "size"}}
            self._verdict.mss = what["value"]
            return ""
        assert kind in ("accept", "drop"), kind
        return str(kind)

    def _rewrite(self, what: dict[str, Any]) -> None:
        protocol = {4: "ip", 6: "ip6"}[self.packet.version]
        assert what["key"] == {"payload": {"protocol": protocol, "field": "daddr"}}
        self._verdict.destination = ip_address(what["value"])
        self.packet = replace(self.packet, destination=self._verdict.destination)

    # --- matching --------------------------------------------------------------------------------------------------

    def _match(self, what: dict[str, Any]) -> bool:
        left, right, op = self._value(what["left"]), what["right"], str(what["op"])
        assert op in ("==", "!=", "<", ">="), op
        if op in ("<", ">="):
            number, bound = _number(left), _number(_read(right))
            return number < bound if op == "<" else number >= bound
        if isinstance(right, str) and right.startswith("@"):
            return self._found(left, right[1:], counts=op == "==") == (op == "==")
        return _is(left, right) == (op == "==")

    def _found(self, value: Value, name: str, *, counts: bool) -> bool:
        """Whether it is in the set; an element counts whom the rule asked for, not whom it asked not to be there."""
        asked = self._table.sets[name]
        assert len(asked.elements) <= asked.shape.size, f"{name} has no room for its elements"
        assert _types(value) == asked.shape.type, f"{name} is asked for {_types(value)}"
        text = canonical(_written(value))
        if text not in asked.elements:
            return False
        if asked.shape.counted and counts:
            self._verdict.counts[name, text] += 1
        return True

    # --- values ----------------------------------------------------------------------------------------------------

    def _value(self, expression: dict[str, Any]) -> Value:
        ((kind, what),) = expression.items()
        packet = self.packet
        if kind == "meta":
            if what["key"] in ("iifname", "iifkind", "sdifname"):
                return str(getattr(packet, what["key"]))
            of = {"iifgroup": packet.iifgroup, "oifgroup": packet.oifgroup, "l4proto": packet.protocol}
            of["mark"] = packet.mark
            return _Protocol(of[what["key"]]) if what["key"] == "l4proto" else of[what["key"]]
        if kind == "payload":
            return self._payload(what)
        if kind == "&":
            value, mask = self._value(what[0]), _read(what[1])
            masked = _number(value) & _number(mask)
            return type(value)(masked) if isinstance(value, IPv4Address | IPv6Address) else masked
        if kind == "concat":
            return tuple(self._value(part) for part in what)
        assert (kind, what) == ("exthdr", {"name": "frag", "field": "frag-off"}), expression
        if packet.version != 6 or packet.fragment is None:
            raise NoMatchError
        return packet.fragment

    def _payload(self, what: dict[str, Any]) -> Value:
        if "base" in what:
            assert what["base"] == "th"
            return self._transport(what["offset"], what["len"])
        protocol, name, packet = what["protocol"], what["field"], self.packet
        if protocol in ("ip", "ip6"):
            if packet.version != {"ip": 4, "ip6": 6}[protocol]:
                raise NoMatchError
            if name in ("saddr", "daddr"):
                return packet.source if name == "saddr" else packet.destination
            if name == "dscp":
                return packet.dscp
            assert protocol == "ip", what
            return _Protocol(packet.protocol) if name == "protocol" else self._frag_off(name)
        if protocol == "udp":
            if packet.protocol != UDP:
                raise NoMatchError
            return _Port(self._transport(*{"dport": (16, 16)}[name]))
        if protocol == "tcp":
            if packet.protocol != TCP:
                raise NoMatchError
            return self._transport(*{"flags": (104, 8)}[name])
        assert protocol == "th", what
        value = self._transport(*{"sport": (0, 16), "dport": (16, 16)}[name])
        return _Port(value)

    def _frag_off(self, name: str) -> int:
        assert name == "frag-off", name
        piece = self.packet.fragment
        return 0 if piece is None else piece | _MORE_FRAGMENTS

    def _transport(self, offset: int, length: int) -> int:
        """Bits of the transport header, which a later piece has not, and a short one may not have."""
        last = -(-(offset + length) // 8)
        if self.packet.later or last > len(self.packet.transport):
            raise NoMatchError
        number = int.from_bytes(self.packet.transport[offset // 8 : last], "big")
        return number >> (last * 8 - offset - length) & (1 << length) - 1


class _Protocol(int):
    """A number whose type in a set is inet_proto."""


class _Port(int):
    """A number whose type in a set is inet_service."""


def _is(left: Value, right: Any) -> bool:
    if isinstance(right, dict) and "set" in right:
        return any(left == _read(item) for item in right["set"])
    if isinstance(left, str):
        return bool(left == right)
    if isinstance(right, dict) and "prefix" in right:
        network = ip_network((right["prefix"]["addr"], right["prefix"]["len"]))
        return isinstance(left, IPv4Address | IPv6Address) and left in network
    return left == _read(right)


def _read(value: Any) -> Value:
    return ip_address(value) if isinstance(value, str) else int(value)


def _written(value: Value) -> Any:
    if isinstance(value, tuple):
        return {"concat": [_written(part) for part in value]}
    return int(value) if isinstance(value, int) else str(value)


def _number(value: Value) -> int:
    assert not isinstance(value, tuple | str)
    return int(value)


def _types(value: Value) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return tuple(_types(part)[0] for part in value)
    if isinstance(value, str):
        return ("ifname",)
    if isinstance(value, _Protocol):
        return ("inet_proto",)
    if isinstance(value, _Port):
        return ("inet_service",)
    assert not isinstance(value, int), "a bare number is in no set of ours"
    return (f"ipv{value.version}_addr",)
