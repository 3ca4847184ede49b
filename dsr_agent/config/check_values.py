"""The single values of ``[[check]]``, as `values` has those of the rest. What is secret is never shown in a refusal."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address

from pydantic import SecretStr

from dsr_agent.config.addresses import text_of, why_not_unicast
from dsr_agent.config.values import one_of
from dsr_agent.config.wording import Refused, closest, show
from dsr_agent.state.model import Ip

PROTOCOLS = ("radius", "tacacs", "http", "https", "tcp", "command")
REQUESTS = ("status-server", "access-request")
EXPECTED = ("accept", "reject", "any")
_ALSO = {"tacacs+": "tacacs", "ssl": "https", "tls": "https", "exec": "command", "script": "command", "connect": "tcp"}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_STATUSES = re.compile(r"\s*([1-9][0-9]{2})\s*-\s*([1-9][0-9]{2})\s*")

# RFC 2865, section 5.2, and section 3 (a secret should be longer than nothing; 128 is what servers take).
_LONGEST = 128


def protocol(value: object) -> str:
    """How the application is asked."""
    if isinstance(value, str) and (meant := _ALSO.get(value.strip().lower())):
        raise Refused(f'found {show(value)}: write "{meant}"')
    return one_of(PROTOCOLS)(value)


def name(value: object) -> str:
    """What reports and metrics call a check."""
    text = text_of(value, 'write a name as text, e.g. "radius"')
    if not text.strip() or not text.isprintable() or len(text) > 60:
        raise Refused(f'found {show(text)}: write a name of 1 to 60 visible characters, e.g. "radius"')
    return text


def vip(value: object) -> str:
    """A VIP by address (in its one spelling) or by name."""
    text = text_of(value, 'write the address or the name of a VIP as text, e.g. "192.0.2.10"')
    try:
        return str(ip_address(text))
    except ValueError:
        return text


def source(value: object) -> Ip:
    """An address of this host."""
    text = text_of(value, 'write an address of this host as text, e.g. "10.0.0.11"')
    try:
        ip = ip_address(text)
    except ValueError:
        raise Refused(f'found {show(text)}, not an IP address: write one of this host, e.g. "10.0.0.11"') from None
    if (what := why_not_unicast(ip)) and not ip.is_loopback:
        raise Refused(f"found {show(text)}, {what}: write an address of this host")
    if isinstance(ip, IPv6Address) and ip.is_link_local:
        raise Refused(f"found {show(text)}, a link-local address: write another one of this host")
    return ip


def secret(value: object) -> SecretStr:
    """What nobody is to see: what was found is not in the refusal."""
    if isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise Refused("found something that is no text (not shown): write text in quotes")
    if not 0 < len(value.encode()) <= _LONGEST:
        what = "an empty text" if not value else "a text that is too long"
        raise Refused(f"found {what}: write 1 to {_LONGEST} bytes")
    return SecretStr(value)


def user(value: object) -> str:
    """The name of a user."""
    text = text_of(value, 'write the name of a user as text, e.g. "dsr-check"')
    if not 0 < len(text.encode()) <= 253 or not text.isprintable():
        raise Refused(f'found {show(text)}: write the name of a user, at most 253 bytes, e.g. "dsr-check"')
    return text


def path(value: object) -> str:
    """What is asked for over HTTP."""
    text = text_of(value, 'write a path, e.g. "/health"')
    if not text.startswith("/"):
        after = re.sub(r"^[a-z]+://[^/]*", "", text)
        fixed = f'write "{after if after.startswith("/") else f"/{after}"}"' if after.isprintable() else "write a path"
        raise Refused(f"found {show(text)}: a path starts with /, {fixed}" if len(text) < 60 else "write a path: /...")
    if len(text) > 1000 or not text.isascii() or not text.isprintable() or " " in text:
        raise Refused(f'found {show(text)}: write it as in a URL: ASCII, "%20" for a space, at most 1000 characters')
    return text


def host(value: object) -> str:
    """The name of a host."""
    text = text_of(value, 'write the name of a host as text, e.g. "www.example.com"')
    if not _HOST.fullmatch(text):
        try:
            ip_address(text)
        except ValueError:
            raise Refused(f'found {show(text)}: write the name of a host, e.g. "www.example.com"') from None
    return text


def statuses(value: object) -> tuple[range, ...]:
    """Which statuses of HTTP are good: a number, a range as text, or a list of them."""
    wanted = 'write a number from 100 to 599, a range such as "200-399", or a list of them'
    entries = value if isinstance(value, list | tuple) else [value]
    found: list[range] = []
    for entry in entries:
        if isinstance(entry, range):
            found.append(entry)
            continue
        low = high = 0
        if isinstance(entry, int) and not isinstance(entry, bool):
            low = high = entry
        elif isinstance(entry, str) and (match := _STATUSES.fullmatch(entry)):
            low, high = int(match[1]), int(match[2])
        if not 100 <= low <= high <= 599:
            raise Refused(f"found {show(entry)}: {wanted}")
        found.append(range(low, high + 1))
    if not found:
        raise Refused(f"found an empty list: {wanted}")
    return tuple(found)


def command(value: object) -> tuple[str, ...]:
    """A program and its words; ``{vip}`` and ``{service}`` in them are filled in."""
    wanted = 'write a list of the program\'s path and its words, e.g. ["/usr/local/bin/ask", "{vip}"]'
    if isinstance(value, str):
        raise Refused(f"found {show(value)}: there is no shell, {wanted}")
    if not isinstance(value, list | tuple) or not value or not all(isinstance(word, str) for word in value):
        raise Refused(f"found {show(value)}: {wanted}")
    if not value[0].startswith("/"):
        raise Refused(f'found {show(value[0])} as the program: write its path from the root, e.g. "/usr/bin/true"')
    if any("\0" in word for word in value):
        raise Refused(f"found a word with a zero byte: {wanted}")
    return tuple(value)


def unknown_vip(text: str, known: tuple[str, ...]) -> str:
    """What to say about a VIP that is not there."""
    near = closest(text, known)
    if near:
        return f'no VIP has the name or address {show(text)}: did you mean "{near}"?'
    return f"no VIP has the name or address {show(text)}: write one of a [[vip]], or remove it"
