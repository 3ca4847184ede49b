"""
What other programs do to a host, in an administrator's own words: ``ip addr flush dev lo``.

The same lines are given to a real shell by the contract suite and by the tests in namespaces, so a test that meddles
reads alike everywhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from dsr_agent.state.model import MODULE_OF_KIND, AddressKey, Link, Outer, SysctlKey
from dsr_agent.state.ports import PortKey, UdpPort
from tests.fake.machine import FALLBACK, Machine
from tests.fake.words import SCOPES, address_of


def run(machine: Machine, command: str) -> None:
    """Do *command* to *machine*; the few commands that tests need."""
    program, *words = shlex.split(command)
    if program == "sysctl":
        path, value = words[-1].split("=")
        machine.write_sysctl(SysctlKey(path), int(value))
    elif program == "rmmod":
        machine.modules.discard(words[0])
        for name in [n for n, link in machine.links.items() if MODULE_OF_KIND.get(link.kind) == words[0]]:
            _remove(machine, name)
    elif program == "modprobe":
        machine.load(words[0])
    elif program == "nft":
        assert words == ["flush", "ruleset"], command
        machine.flush_ruleset()
    else:
        assert program == "ip", command
        version = 6 if words[0] == "-6" else 4
        words = [word for word in words if word not in ("-4", "-6")]
        if words[0] == "fou":
            _port(machine, words[1], words[2:], version)
        else:
            {"addr": _address, "link": _link}[words[0]](machine, words[1], words[2:])


def _port(machine: Machine, verb: str, words: list[str], version: int) -> None:
    options = _options([word for word in words if word != "gue"])
    local = ip_address(options["local"]) if "local" in options else None
    key = PortKey(int(options["port"]), version, local, options.get("dev", ""))
    if verb == "del":
        machine.delete_port(key)
    else:
        protocol = int(options.get("ipproto", "0"))
        machine.add_port(UdpPort(key, "gue" in words, protocol, ours=False))


def _remove(machine: Machine, name: str) -> None:
    """A module takes its fallback device with it."""
    machine.links[name + "!"] = machine.links.pop(name)
    machine.links[name] = machine.links.pop(name + "!")
    link = machine.links[name]
    if link.name in FALLBACK.values():
        del machine.links[name]
        machine.announce(link.key)
    else:
        machine.delete_link(name)


def _options(words: list[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


def _address(machine: Machine, verb: str, words: list[str]) -> None:
    if verb == "flush":
        link = words[-1]
        for key in [key for key in machine.addresses if key.link == link]:
            machine.delete_address(key)
        return
    options = _options(words[1:])
    link = options["dev"]
    address = address_of(words[0], link)
    if verb == "del":
        machine.delete_address(AddressKey(link, address.ip, address.prefixlen))
        return
    address = replace(
        address,
        scope=SCOPES[options.get("scope", "global")],
        proto=int(options.get("proto", "0"), 0),
        label=options.get("label", address.label),
    )
    {"add": machine.add_address, "replace": machine.replace_address}[verb](address)


def _link(machine: Machine, verb: str, words: list[str]) -> None:
    if verb == "del":
        machine.delete_link(words[-1])
    elif verb == "add":
        machine.add_link(_described(words))
    elif verb == "change":
        found = machine.links[words[0]]
        described = _described(words)
        machine.change_link(replace(found, outer=described.outer))
    else:
        name, what, *more = words
        found = machine.links[name]
        settings: dict[str, Callable[[], None]] = {
            "up": lambda: machine.set_up(name, True),
            "down": lambda: machine.set_up(name, False),
            "name": lambda: machine.rename_link(name, more[0]),
            "master": lambda: machine.move_link(name, more[0]),
            "nomaster": lambda: machine.move_link(name, ""),
            "alias": lambda: machine.mark_link(name, found.group, more[0]),
            "group": lambda: machine.mark_link(name, int(more[0]), found.alias),
        }
        settings[what]()


_FLAGS: dict[str, dict[str, Any]] = {
    "csum": {"checksum": True},
    "seq": {"sequence": True},
    "external": {"external": True},
}


def _described(words: list[str]) -> Link:
    name, _, kind, *more = words
    outer = Outer()
    while more:
        word = more.pop(0)
        if word in ("local", "remote"):
            value = None if more[0] == "any" else ip_address(more[0])
            outer = replace(outer, local=value) if word == "local" else replace(outer, remote=value)
            more.pop(0)
        elif word == "key":
            outer = replace(outer, key=int(more.pop(0)))
        elif word == "table":
            more.pop(0)
        elif word == "mode":
            outer = replace(outer, protocol={"ipip": 4, "ip6ip": 41}.get(more.pop(0), 0))
        else:
            outer = replace(outer, **_FLAGS[word])
    return Link(name, kind, outer=outer if kind in MODULE_OF_KIND else None, answers_arp=kind == "veth")
