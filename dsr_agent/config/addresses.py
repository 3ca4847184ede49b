"""The addresses of the file that are about outer headers: who sends, and where it arrives. Pure."""

from __future__ import annotations

import re
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_address,
)

from dsr_agent.config.wording import Refused, show
from dsr_agent.state.marks import LONGEST_NAME
from dsr_agent.state.model import Ip, Network

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


def text_of(value: object, write: str) -> str:
    """*value* if it is text."""
    if not isinstance(value, str):
        raise Refused(f"found {show(value)}: {write}")
    return value


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


def meant(text: str, example: str) -> str:
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


def dotted(text: str) -> bool:
    """Whether it is an IPv4 address."""
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def is_ipv6(text: str) -> bool:
    """Whether it is an IPv6 address, with a prefix length or without."""
    try:
        IPv6Address(text.partition("/")[0])
    except AddressValueError:
        return False
    return True


def load_balancer(value: object) -> Network:
    """One entry of ``load_balancers``: an address, or a prefix without host bits."""
    text = text_of(value, 'write an address or a prefix as text, e.g. "10.1.0.5"')
    if text.strip().lower() == ANY:
        raise Refused(f'found {show(text)} inside the list: write load_balancers = "any", without the list')
    bare, slash, length = text.partition("/")
    if is_ipv6(text):
        return _balancer6(text, bare, length if slash else "128")
    if not dotted(bare):
        raise Refused(f"found {show(text)}, not an IP address or prefix: {meant(bare, BALANCER_EXAMPLE)}")
    prefixlen = _prefixlen(text, bare, length) if slash else 32
    if prefixlen == 0:
        raise Refused(f'found {show(text)}, every address: write load_balancers = "any" if you mean it')
    network = IPv4Network((bare, prefixlen), strict=False)
    if str(network.network_address) != bare:
        raise Refused(f'found {show(text)}, with host bits set: write "{network}" or "{bare}"')
    for bad, _ in NOT_UNICAST:
        if network.overlaps(bad):
            what = why_not_unicast(network.network_address) if prefixlen == 32 else f"which overlaps {bad}"
            raise Refused(f"found {show(text)}, {what}: {_OWN}")
    return network


_OWN = "write the address the load balancer sends from"
_NOT_UNICAST6 = tuple(map(IPv6Network, ("::1/128", "ff00::/8", "fe80::/10", "::ffff:0:0/96")))


def _balancer6(text: str, bare: str, length: str) -> Network:
    ip = IPv6Address(bare)
    if ip.scope_id is not None:
        raise Refused(f"found {show(text)}, with a zone: write the load balancer's global address")
    if ip.ipv4_mapped:
        raise Refused(f'found {show(text)}, an IPv4 address in IPv6 clothes: write "{ip.ipv4_mapped}"')
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= 128):
        raise Refused(f'found {show(text)}: a prefix length is 1 to 128, write e.g. "{ip}/128"')
    if int(length) == 0:
        raise Refused(f'found {show(text)}, every address: write load_balancers = "any" if you mean it')
    network = IPv6Network((ip, int(length)), strict=False)
    if network.network_address != ip:
        raise Refused(f'found {show(text)}, with host bits set: write "{network}" or "{ip}"')
    if network.prefixlen == 128 and (
        what := why_not_unicast(ip) or ("a link-local address" if ip.is_link_local else "")
    ):
        raise Refused(f"found {show(text)}, {what}: {_OWN}")
    if bad := next((bad for bad in _NOT_UNICAST6 if network.overlaps(bad)), None):
        raise Refused(f"found {show(text)}, which overlaps {bad}: {_OWN}")
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


def local(value: object) -> Ip | str:
    """Where tunnelled packets arrive: ``"auto"``, an address of this host, or the name of an interface."""
    wanted = 'write "auto", an address of this host, or an interface name'
    text = text_of(value, wanted)
    if text == AUTO:
        return text
    if text.strip().lower() == AUTO:
        raise Refused(f'found {show(text)}: write "auto"')
    bare, slash, _ = text.partition("/")
    if slash and (dotted(bare) or is_ipv6(bare)):
        raise Refused(f'found {show(text)}: this is one address of this host, write "{bare}"')
    if dotted(text) or is_ipv6(text):
        return _own_address(text, wanted)
    if re.fullmatch(r"[0-9.\s]+", text):
        raise Refused(f"found {show(text)}, not an IP address: {wanted}")
    why = why_not_link_name(text)
    if why:
        raise Refused(f"found {show(text)}, {why}: {wanted}")
    return text


def _own_address(text: str, wanted: str) -> Ip:
    ip = ip_address(text)
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            raise Refused(f"found {show(text)}, with a zone: {wanted}")
        if ip.ipv4_mapped:
            raise Refused(f'found {show(text)}, an IPv4 address in IPv6 clothes: write "{ip.ipv4_mapped}"')
    what = why_not_unicast(ip) or ("a link-local address" if ip.version == 6 and ip.is_link_local else "")
    if what:
        raise Refused(f"found {show(text)}, {what}: {wanted}")
    return ip


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
