"""
The single values of the file: text in, value out, or `Refused` with what to write instead.

Each reader takes whatever TOML or JSON can hold. Pure; called ten thousand times when there are ten thousand VIPs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, NetmaskValueError, ip_address
from math import isfinite

from dsr_agent.config.wording import Refused, closest, quoted, show
from dsr_agent.state.marks import FALLBACK_DEVICES, LONGEST_NAME
from dsr_agent.state.model import Ip

ENCAPSULATIONS = ("ipip", "gre")
LOG_LEVELS = ("debug", "info", "warning", "error")
ARP_POLICIES = ("auto", "ignore")
FALLBACK_POLICIES = ("auto", "down", "ignore")
VIP_EXAMPLE = "192.0.2.10"
BALANCER_EXAMPLE = "10.1.0.5"
AUTO = "auto"
ANY = "any"

# The kernel cannot register a device called so: these are directories of its own below net/ipv4/conf.
SYSCTL_DIRECTORIES = frozenset({"all", "default"})

NOT_UNICAST = tuple(
    (IPv4Network(prefix), what)
    for prefix, what in (
        ("0.0.0.0/8", 'an address of "this network" (0.0.0.0/8)'),
        ("127.0.0.0/8", "a loopback address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address (240.0.0.0/4)"),
    )
)
_SERVICE = re.compile(r"(udp|tcp)/([1-9][0-9]{0,4})")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def text_of(value: object, write: str) -> str:
    """*value* if it is text."""
    if not isinstance(value, str):
        raise Refused(f"found {show(value)}: {write}")
    return value


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


def mss(value: object) -> int | str:
    """The largest TCP segment to be told of: what RFC 879 calls the least anybody takes, up to a jumbo frame's."""
    wanted = 'write "auto", "off", or a whole number from 536 to 8960, without quotes'
    if value in (AUTO, "off"):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 536 <= value <= 8960:
        raise Refused(f"found {show(value)}: {wanted}")
    return value


# --- addresses ----------------------------------------------------------------------------------------------------


def why_not_unicast(ip: Ip) -> str:
    """What *ip* is, if no host can have it as its own reachable address; empty if one can."""
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped:
            return "an IPv4 address in IPv6 clothes"
        if ip.is_unspecified:
            return "the unspecified address"
        if ip.is_loopback:
            return "a loopback address"
        return "a multicast address" if ip.is_multicast else ""
    number = int(ip)
    if 1 <= number >> 24 <= 223 and number >> 24 != 127:  # nearly all: the rest is the error path
        return ""
    if number == 0:
        return "the unspecified address"
    if number == 0xFFFFFFFF:
        return "the broadcast address"
    return next(what for network, what in NOT_UNICAST if ip in network)


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


def _meant(text: str, example: str) -> str:
    """What to write instead of an address that does not parse."""
    tried = text.strip()
    if tried.startswith("["):
        tried = tried[1:].partition("]")[0]
    candidates = [tried]
    if tried.count(":") == 1:
        candidates.append(tried.partition(":")[0])
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){3}", tried):
        candidates.append(".".join(str(int(part)) for part in tried.split(".")))
    for candidate in candidates:
        try:
            return f'write "{ip_address(candidate)}"'
        except ValueError:
            continue
    return f'write an address, e.g. "{example}"'


def _dotted(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _ipv6(text: str) -> bool:
    try:
        IPv6Address(text.partition("/")[0])
    except AddressValueError:
        return False
    return True


def load_balancer(value: object) -> IPv4Network:
    """One entry of ``load_balancers``: an IPv4 address, or a prefix without host bits."""
    text = text_of(value, 'write an address or a prefix as text, e.g. "10.1.0.5"')
    if text.strip().lower() == ANY:
        raise Refused(f'found {show(text)} inside the list: write load_balancers = "any", without the list')
    if _ipv6(text):
        mapped = IPv6Address(text.partition("/")[0]).ipv4_mapped
        if mapped:
            raise Refused(f'found {show(text)}, an IPv4 address in IPv6 clothes: write "{mapped}"')
        raise Refused(
            f"found {show(text)}, an IPv6 address: ipip and gre of this version arrive over IPv4 only, "
            "write the IPv4 address the load balancer sends from"
        )
    bare, slash, length = text.partition("/")
    if not _dotted(bare):
        raise Refused(f"found {show(text)}, not an IPv4 address or prefix: {_meant(bare, BALANCER_EXAMPLE)}")
    prefixlen = _prefixlen(text, bare, length) if slash else 32
    if prefixlen == 0:
        raise Refused(f'found {show(text)}, every address: write load_balancers = "any" if you mean it')
    network = IPv4Network((bare, prefixlen), strict=False)
    if str(network.network_address) != bare:
        raise Refused(f'found {show(text)}, with host bits set: write "{network}" or "{bare}"')
    own = "write the address the load balancer sends from"
    for bad, _ in NOT_UNICAST:
        if network.overlaps(bad):
            what = why_not_unicast(network.network_address) if prefixlen == 32 else f"which overlaps {bad}"
            raise Refused(f"found {show(text)}, {what}: {own}")
    return network


def _prefixlen(text: str, bare: str, length: str) -> int:
    if length.isascii() and length.isdigit() and len(length) <= 2 and int(length) <= 32:
        if str(int(length)) != length:
            raise Refused(f'found {show(text)}: write "{bare}/{int(length)}"')
        return int(length)
    try:
        network = IPv4Network(text, strict=False)
    except (AddressValueError, NetmaskValueError):
        raise Refused(f'found {show(text)}: a prefix length is 1 to 32, write e.g. "{bare}/32"') from None
    raise Refused(f'found {show(text)}: write "{network}"')


def local(value: object) -> IPv4Address | str:
    """Where tunnelled packets arrive: ``"auto"``, an address of this host, or the name of an interface."""
    wanted = 'write "auto", an IPv4 address of this host, or an interface name'
    text = text_of(value, wanted)
    if text == AUTO:
        return text
    if text.strip().lower() == AUTO:
        raise Refused(f'found {show(text)}: write "auto"')
    if _dotted(text):
        ip = IPv4Address(text)
        what = why_not_unicast(ip)
        if what:
            raise Refused(f"found {show(text)}, {what}: {wanted}")
        return ip
    bare, slash, _ = text.partition("/")
    if slash and _dotted(bare):
        raise Refused(f'found {show(text)}: this is one address of this host, write "{bare}"')
    if _ipv6(text):
        raise Refused(
            f"found {show(text)}, an IPv6 address: ipip and gre of this version arrive over IPv4 only, {wanted}"
        )
    if re.fullmatch(r"[0-9.\s]+", text):
        raise Refused(f"found {show(text)}, not an IPv4 address: {wanted}")
    why = why_not_link_name(text)
    if why:
        raise Refused(f"found {show(text)}, {why}: {wanted}")
    return text


# --- names --------------------------------------------------------------------------------------------------------


def why_not_link_name(name: str) -> str:
    """Why the kernel could not have an interface called *name*; empty if it could."""
    if not name:
        return "which is empty"
    if len(name.encode(errors="replace")) > LONGEST_NAME:
        return f"which is longer than the {LONGEST_NAME} characters of an interface name"
    if name in {".", ".."} | SYSCTL_DIRECTORIES:
        return "a name the kernel keeps for itself"
    # '%' is legal in the kernel but a request to number the interface when one is created.
    bad = next((c for c in name if c in "/:%" or not "!" <= c <= "~"), "")
    return f"which holds {show(bad)}, as no interface name can" if bad else ""


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


def vip_name(value: object) -> str:
    """What reports call the VIP."""
    name = text_of(value, 'write a name as text, e.g. "radius"')
    if not name.strip() or not name.isprintable():
        why = "without a visible character" if not name.strip() else "with characters that cannot be printed"
        raise Refused(f'found {show(name)}, {why}: write a name, e.g. "radius"')
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
    """A reader of where something is served: ``host:port``, an IPv6 host in brackets."""
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
