"""``[[check]]``: an application is asked, as its clients would ask it. Which keys go with which protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from dsr_agent.config import check_values, values
from dsr_agent.config.section import Section, Several, several
from dsr_agent.config.wording import Refused, show

Protocol: TypeAlias = Literal["radius", "tacacs", "http", "https", "tcp", "command"]
Statuses: TypeAlias = tuple[range, ...]

_DEFAULT_SERVICE = {"radius": "udp/1812", "tacacs": "tcp/49", "http": "tcp/80", "https": "tcp/443"}
_TIMEOUT = 2.0
_FILE = "/etc/dsr-agent/radius.secret"
# Keys that only some protocols have.
_ONLY: Mapping[str, tuple[str, ...]] = {
    "secret": ("radius", "tacacs"),
    "secret_file": ("radius", "tacacs"),
    "request": ("radius",),
    "user": ("radius",),
    "password": ("radius",),
    "password_file": ("radius",),
    "expect": ("radius",),
    "path": ("http", "https"),
    "host": ("http", "https"),
    "status": ("http", "https"),
    "verify": ("https",),
    "server_name": ("https",),
    "ca": ("https",),
    "command": ("command",),
}
_WITH_USER = ("user", "password", "password_file", "expect")
_SECRETS = frozenset({"secret", "password"})

Secret = Annotated[SecretStr, PlainValidator(check_values.secret)]
SecretFile = Annotated[str, BeforeValidator(values.file_path(_FILE))]


class CheckSettings(Section):
    """One ``[[check]]``."""

    # Read first: all others depend on it.
    protocol: Annotated[Protocol, BeforeValidator(check_values.protocol)]
    name: Annotated[str, BeforeValidator(check_values.name)] = Field(default_factory=lambda data: data["protocol"])
    """What reports call it; no two checks of one VIP have the same."""
    service: Annotated[str, BeforeValidator(values.service)] | None = Field(
        default_factory=lambda data: _DEFAULT_SERVICE.get(data["protocol"])
    )
    """Who is asked; `None` only for a command that is about no single service."""
    vips: Annotated[Several[Annotated[str, BeforeValidator(check_values.vip)]], several('["192.0.2.10"]')] | None = None
    """Addresses or names; `None` means every VIP that declares the service, and all if there is no service."""
    interval: Annotated[float, BeforeValidator(values.seconds(1, 3600))] = 5.0
    """Seconds between questions."""
    timeout: Annotated[float, BeforeValidator(values.seconds(0.1, 600))] = Field(
        default_factory=lambda data: min(_TIMEOUT, data["interval"])
    )
    """Seconds until there has to be an answer."""
    fall: Annotated[int, BeforeValidator(values.whole(1, 100))] = 3
    """A VIP is not ready after so many questions in a row without a good answer."""
    rise: Annotated[int, BeforeValidator(values.whole(1, 100))] = 2
    """And ready again after so many with one."""
    source: Annotated[IPv4Address | IPv6Address, PlainValidator(check_values.source)] | None = None
    """Where questions come from; `None` is this host's own address, where tunnelled packets arrive."""

    secret: Secret | None = None
    secret_file: SecretFile | None = None
    request: Annotated[
        Literal["status-server", "access-request"], BeforeValidator(values.one_of(check_values.REQUESTS))
    ] = "status-server"
    user: Annotated[str, BeforeValidator(check_values.user)] | None = None
    password: Secret | None = None
    password_file: SecretFile | None = None
    expect: Annotated[Literal["accept", "reject", "any"], BeforeValidator(values.one_of(check_values.EXPECTED))] = (
        "accept"
    )

    path: Annotated[str, BeforeValidator(check_values.path)] = "/"
    host: Annotated[str, BeforeValidator(check_values.host)] | None = None
    status: Annotated[Statuses, PlainValidator(check_values.statuses)] = (range(200, 400),)
    verify: Annotated[bool, BeforeValidator(values.boolean)] = True
    server_name: Annotated[str, BeforeValidator(check_values.host)] | None = None
    ca: Annotated[str, BeforeValidator(values.file_path("/etc/dsr-agent/ca.pem"))] | None = None

    command: Annotated[tuple[str, ...], PlainValidator(check_values.command)] = ()

    @field_validator(*_ONLY, mode="before")
    @classmethod
    def _of_its_protocol(cls, value: object, info: ValidationInfo) -> object:
        key = str(info.field_name)
        mine, protocols = info.data.get("protocol"), _ONLY[key]
        found = "found it" if key in _SECRETS else f"found {show(value)}"
        if mine and mine not in protocols:
            instead = " or ".join(f'protocol = "{each}"' for each in protocols)
            raise Refused(f"{found}: a {mine} check has no {key}, remove this line or write {instead}")
        if key in _WITH_USER and info.data.get("request") == "status-server":
            raise Refused(
                f"{found}: a Status-Server request is about no user, remove this line or write "
                'request = "access-request"'
            )
        other = key.removesuffix("_file")
        if key != other and info.data.get(other) is not None:
            raise Refused(f"{found}, and {other} too: remove one of them")
        return value

    @field_validator("vips")
    @classmethod
    def _of_somebody(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value == ():
            raise Refused("found an empty list, so nothing is asked: name VIPs, or remove this line for all of them")
        return value

    @field_validator("service")
    @classmethod
    def _of_its_transport(cls, value: str | None, info: ValidationInfo) -> str | None:
        transport = "udp" if info.data.get("protocol") == "radius" else "tcp"
        if value and info.data.get("protocol") not in (None, "command") and not value.startswith(f"{transport}/"):
            port = value.partition("/")[2]
            raise Refused(
                f'found "{value}": {info.data["protocol"]} is asked over {transport.upper()}, '
                f'write "{transport}/{port}"'
            )
        return value

    @field_validator("timeout")
    @classmethod
    def _before_the_next(cls, value: float, info: ValidationInfo) -> float:
        interval = info.data.get("interval")
        if interval is not None and value > interval:
            raise Refused(f"found {value:g}: the next question comes after {interval:g}, write that or less")
        return value

    @field_validator("server_name", "ca", mode="before")
    @classmethod
    def _needs_verification(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("verify") is False:
            raise Refused(f"found {show(value)}, but verify = false: remove one of them")
        return value

    @model_validator(mode="after")
    def _complete(self) -> CheckSettings:
        missing = next(_missing(self), "")
        if missing:
            raise Refused(missing)
        return self

    def concerns(self, ip: IPv4Address | IPv6Address, name: str, services: tuple[str, ...]) -> bool:
        """Whether it is made of a VIP of this address and name, which declares these services."""
        if self.vips is not None:
            return str(ip) in self.vips or name in self.vips
        return self.service is None or self.service in services


def _missing(check: CheckSettings) -> Iterator[str]:
    """What a check of its protocol cannot do without."""
    if check.protocol == "tcp" and not check.service:
        yield 'service is missing: write which port is asked, e.g. service = "tcp/389"'
    if check.protocol == "command" and not check.command:
        yield 'command is missing: write e.g. command = ["/usr/local/bin/ask", "{vip}"]'
    if check.protocol == "radius" and check.secret is None and check.secret_file is None:
        yield f'secret is missing: write secret_file = "{_FILE}" (or secret = "...")'
    if check.request == "access-request" and check.user is None:
        yield 'user is missing: write user = "..." and password_file = "...", of a user who is there for this check'
    if check.request == "access-request" and check.password is None and check.password_file is None:
        yield 'password is missing: write password_file = "/etc/dsr-agent/radius.password" (or password = "...")'
