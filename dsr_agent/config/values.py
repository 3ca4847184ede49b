"""
The single values of the file: text in, value out, or `Refused` with what to write instead.

Each reader takes whatever TOML or JSON can hold. Pure; called ten thousand times when there are ten thousand VIPs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from math import isfinite

from dsr_agent.config.addresses import dotted as _dotted
from dsr_agent.config.addresses import is_ipv6 as _ipv6
from dsr_agent.config.addresses import meant as _meant
from dsr_agent.config.addresses import text_of, why_not_link_name, why_not_unicast
from dsr_agent.config.wording import Refused, closest, quoted, show
from dsr_agent.state.marks import FALLBACK_DEVICES, TUNNEL_ADDRESS
from dsr_agent.state.model import Ip

ENCAPSULATIONS = ("ipip", "gre", "gue", "fou", "dscp", "l2")
LOG_LEVELS = ("debug", "info", "warning", "error")
ARP_POLICIES = ("auto", "ignore")
FALLBACK_POLICIES = ("auto", "down", "ignore")
VIP_EXAMPLE = "192.0.2.10"
AUTO = "auto"
ANY = "any"
_LONGEST_NAME = 200  # bytes; a balancer that asks about a VIP is read for 256


_SERVICE = re.compile(r"(udp|tcp)/([1-9][0-9]{0,4})")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    """A reader of one word of *choices*."""

    def read(value: object) -> str:
        if isinstance(value, str):
            if value in choices:
                return value
            near = closest(value.strip().lower(), choices)
            if near:
                raise Refused(f'found {show(value)}: write "{near}" (allowed: {quoted(choices)})')
        raise Refused(f"found {show(value)}: write {quoted(choices)}")

    return read


def encapsulation(value: object) -> str:
    """An encapsulation this version can decapsulate."""
    if isinstance(value, str):
        if value in ENCAPSULATIONS:
            return value
        near = value.strip().lower()
        if near in ENCAPSULATIONS:
            raise Refused(f'found {show(value)}: write "{near}"')
        raise Refused(f"found {show(value)}: not supported by this version: write {quoted(ENCAPSULATIONS)}")
    raise Refused(f"found {show(value)}: write {quoted(ENCAPSULATIONS)}")


def seconds(low: float, high: float) -> Callable[[object], float]:
    """A reader of a number of seconds, both bounds allowed."""
    wanted = f"a number of seconds from {low:g} to {high:g}"

    def read(value: object) -> float:
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]+(\.[0-9]+)?\s*", value):
            raise Refused(f"found {show(value)}: write {wanted}, without quotes")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"found {show(value)}: write {wanted}")
        if not (low <= value <= high and isfinite(value)):
            # The environment's numbers come as floats: 600 was not written as 600.0.
            found = f"{value:g}" if isinstance(value, float) else show(value)
            raise Refused(f"found {found}: write {wanted}")
        return float(value)

    return read


def whole(low: int, high: int) -> Callable[[object], int]:
    """A reader of a whole number, both bounds allowed."""

    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Refused(f"found {show(value)}: write a whole number from {low} to {high}, without quotes")
        return value

    return read


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Refused(f"found {show(value)}: write true or false, without quotes")
    return value


def gre_key(value: object) -> int:
    """The key of a GRE tunnel: 32 bits."""
    wanted = "write a whole number from 0 to 4294967295, without quotes"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 0xFFFFFFFF:
        hint = ""
        if isinstance(value, str) and _dotted(value):
            hint = f" ({value} is {int(IPv4Address(value))})"  # some balancers show keys like addresses
        raise Refused(f"found {show(value)}: {wanted}{hint}")
    return value


def dscp(value: object) -> int:
    """A code point (RFC 2474): six bits, and never the one that ordinary packets carry."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 64:
        ordinary = ", which ordinary packets carry" if value == 0 and not isinstance(value, bool) else ""
        raise Refused(f"found {show(value)}{ordinary}: write a whole number from 1 to 63, without quotes")
    return value


def udp_port(value: object) -> int:
    """Where GUE and FOU arrive."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise Refused(f"found {show(value)}: write a port from 1 to 65535, without quotes")
    return value


def mss(value: object) -> int | str:
    """The largest TCP segment to be told of: what RFC 879 calls the least anybody takes, up to a jumbo frame's."""
    wanted = 'write "auto", "off", or a whole number from 536 to 8960, without quotes'
    if value in (AUTO, "off"):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 536 <= value <= 8960:
        raise Refused(f"found {show(value)}: {wanted}")
    return value


# --- addresses ----------------------------------------------------------------------------------------------------


def vip_address(value: object) -> Ip:
    """A single unicast address, bare or with the prefix length of a single address."""
    text = text_of(value, 'write one address as text, e.g. "192.0.2.10" (one [[vip]] for each address)')
    bare, slash, prefix = text.partition("/")
    try:
        ip = ip_address(bare)
    except ValueError:
        raise Refused(f"found {show(text)}, not an IP address: {_meant(bare, VIP_EXAMPLE)}") from None
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        raise Refused(f'found {show(text)}, with a zone: a VIP has none, write "{str(ip).partition("%")[0]}"')
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        raise Refused(f'found {show(text)}, an IPv4 address in IPv6 clothes: write "{ip.ipv4_mapped}"')
    what = why_not_unicast(ip) or ("a link-local address" if ip.is_link_local else "")
    if ip == TUNNEL_ADDRESS:
        what = "the address that tunnels are given here (RFC 7600)"
    if what:
        raise Refused(f"found {show(text)}, {what}: write the address that clients send to")
    if slash and prefix != str(ip.max_prefixlen):
        raise Refused(_not_single(text, ip, prefix))
    return ip


def _not_single(text: str, ip: Ip, prefix: str) -> str:
    digits = prefix.isascii() and prefix.isdigit() and len(prefix) <= 3
    length = int(prefix) if digits else ip.max_prefixlen
    if length < ip.max_prefixlen and not int(ip) & ((1 << (ip.max_prefixlen - length)) - 1):
        return f"found {show(text)}, a whole prefix: a VIP is a single address, write one [[vip]] for each address"
    return f'found {show(text)}: a VIP is a single address, write "{ip}"'


# --- names --------------------------------------------------------------------------------------------------------


def device(value: object) -> str:
    """The name of an interface that holds a VIP."""
    name = text_of(value, 'write the name of an interface, e.g. "lo"')
    why = why_not_link_name(name)
    if why:
        raise Refused(f'found {show(name)}, {why}: write the name of an interface, e.g. "lo"')
    return name


def tunnel_name(value: object) -> str:
    """The name of a tunnel, which is the name of its link: one we may create."""
    name = text_of(value, 'write a name as text, e.g. "dsr-ipip"')
    why = why_not_link_name(name)
    if not why and name == "lo":
        why = "the loopback interface"
    if not why and name in FALLBACK_DEVICES:
        why = "a device of the kernel's own, which this agent never brings up"
    if why:
        raise Refused(f'found {show(name)}, {why}: write another name, e.g. "dsr-ipip"')
    return name


def netns(value: object) -> str:
    """A network namespace, by the name that ``ip netns`` gave it or by its file."""
    text = text_of(value, 'write the name of a network namespace, e.g. "blue"')
    why = ""
    if text.startswith("/"):
        why = "which is no path of a file" if text.endswith("/") or not text.isprintable() else ""
    elif not text or text in (".", "..") or "/" in text or not text.isprintable() or len(text.encode()) > 255:
        why = "which ip netns could not name so"
    if why:
        wanted = "write the name of a network namespace (ip netns list), or the path of its file from the root"
        raise Refused(f"found {show(text)}, {why}: {wanted}")
    return text


def vrf(value: object) -> str:
    """The name of a VRF, which is that of its interface."""
    name = text_of(value, 'write the name of a VRF, e.g. "blue"')
    why = "which is no VRF" if name == "lo" else why_not_link_name(name)
    if why:
        raise Refused(
            f"found {show(name)}, {why}: write the name of a VRF (ip link show type vrf), or remove this line"
        )
    return name


def vip_name(value: object) -> str:
    """What reports call the VIP."""
    name = text_of(value, 'write a name as text, e.g. "radius"')
    if not name.strip() or not name.isprintable():
        why = "without a visible character" if not name.strip() else "with characters that cannot be printed"
        raise Refused(f'found {show(name)}, {why}: write a name, e.g. "radius"')
    if name != name.strip():  # a balancer's question is read without the blanks around it
        raise Refused(f'found {show(name)}, with blanks around it: write "{name.strip()}"')
    if len(name.encode()) > _LONGEST_NAME:
        raise Refused(f"found {show(name)}: write a name of at most {_LONGEST_NAME} bytes")
    return name


def tunnel_reference(value: object) -> str:
    return text_of(value, 'write the name of a tunnel as text, e.g. "dsr-ipip"')


def service(value: object) -> str:
    """A port that the VIP serves: ``udp/1812``."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536:
        raise Refused(f'found {value}: write "udp/{value}" or "tcp/{value}"')
    text = text_of(value, 'write e.g. "udp/1812" or "tcp/49"')
    match = _SERVICE.fullmatch(text)
    if match and int(match[2]) < 65536:
        return text
    if match:
        raise Refused(f"found {show(text)}: a port is 1 to 65535")
    words = re.fullmatch(r"\s*(?:([a-z]+)[/: ]+0*([0-9]{1,5})|([0-9]{1,5})[/: ]+([a-z]+))\s*", text.lower())
    if words:
        fixed = f"{words[1] or words[4]}/{words[2] or words[3]}"
        if _SERVICE.fullmatch(fixed):
            raise Refused(f'found {show(text)}: write "{fixed}"')
    raise Refused(f'found {show(text)}: write "udp/PORT" or "tcp/PORT", e.g. "udp/1812"')


def listen(example: str) -> Callable[[object], str]:
    """A reader of where something is served: ``host:port``, an IPv6 host in brackets; in a VRF ``host%vrf:port``."""
    usual, _, number = example.rpartition(":")
    wanted = f'write "host:port", e.g. "{example}" or "[::1]:{number}"'

    def read(value: object) -> str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 65536:
            raise Refused(f'found {value}: write "{usual}:{value}"')
        text = text_of(value, wanted)
        host, colon, port = text.rpartition(":")
        if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
            raise Refused(f"found {show(text)}: {wanted}")
        if not host:
            raise Refused(f'found {show(text)}: write "127.0.0.1:{port}" for this host only, "0.0.0.0:{port}" for all')
        closed = host.endswith("]")
        host, percent, vrf = host.removesuffix("]").partition("%")
        host += "]" * closed
        if percent and (why := why_not_link_name(vrf)):
            where = f'write the name of a VRF, e.g. "10.0.4.2%blue:{port}", or leave it away'
            raise Refused(f"found {show(text)}, with a device after % {why}: {where}")
        good = _dotted(host) if re.fullmatch(r"[0-9.]+", host) else bool(_HOST.fullmatch(host))
        if host.startswith("[") and host.endswith("]"):
            good = _ipv6(host[1:-1]) and "/" not in host
        if not good:
            raise Refused(f"found {show(text)}: " + (f'write "[{host}]:{port}"' if _ipv6(host) else wanted))
        return text

    return read


def file_path(example: str) -> Callable[[object], str]:
    """A reader of the path of a file, from the root; not looked at yet."""

    def read(value: object) -> str:
        text = text_of(value, f'write a path, e.g. "{example}"')
        if not text.startswith("/") or text.endswith("/") or not text.isprintable():
            raise Refused(f'found {show(text)}: write the path of a file from the root, e.g. "{example}"')
        return text

    return read


def socket_path(value: object) -> str:
    """The path of a unix socket, which the kernel wants short."""
    text = file_path("/run/dsr-agent/http.sock")(value)
    if len(text.encode()) > 107:
        raise Refused(f"found {show(text)}: the kernel takes at most 107 bytes for a socket, write a shorter path")
    return text
