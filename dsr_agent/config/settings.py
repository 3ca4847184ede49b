"""
The file as a model: which keys there are, what they default to, and which values can stand.

A file holds ``[agent]``, ``[http]``, ``[agent_check]``, ``[guard]``, ``[listeners]``, ``[probe]``, any number of
``[[tunnel]]``, ``[[vip]]`` and ``[[check]]`` (see `check_settings`). The readers of single values are in `values`, what
must agree between several entries in `agreement`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dsr_agent.config import addresses, values
from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.section import Section, Several, no_repeats, several
from dsr_agent.config.wording import Refused, show
from dsr_agent.state.model import BARE, Network
from dsr_agent.state.outer import GUE_PORT

ENV_PREFIX = "DSR_AGENT_"
ENV_DELIMITER = "__"


_UNSAID: Any = None


def _load_balancers(value: object, entries: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    wanted = 'write load_balancers = ["10.1.0.5"] with the addresses they send from, or load_balancers = "any"'
    bare = info.data.get("encapsulation") in BARE
    if value == values.ANY or (bare and value is _UNSAID):
        return ()
    if value is _UNSAID:
        raise PydanticCustomError("missing", "is missing")
    if bare:
        raise Refused(
            f"found {show(value)}: {info.data['encapsulation']} packets come with the client's own address as their "
            'source, so nobody can tell which balancer sent them: remove this line, or write load_balancers = "any"'
        )
    if isinstance(value, str):
        if value.strip().lower() == values.ANY:
            raise Refused(f'found {show(value)}: write "any"')
        addresses.load_balancer(value)
        raise Refused(f'found {show(value)}: write a list: ["{value}"]')
    if not isinstance(value, list | tuple):
        raise Refused(f"found {show(value)}: {wanted}")
    if not value:
        raise Refused('found an empty list, which would let nobody send: list them or write load_balancers = "any"')
    found = entries(value)
    no_repeats(found)
    if len({network.version for network in found}) > 1:
        raise Refused(
            "found IPv4 and IPv6 addresses: a tunnel has one outer header, write two [[tunnel]], one for each"
        )
    return found


class AgentSettings(Section):
    """``[agent]``: how this program behaves."""

    resync_interval: Annotated[float, BeforeValidator(values.seconds(1, 3600))] = 60.0
    """Seconds between full read-backs."""
    poll_interval: Annotated[float, BeforeValidator(values.seconds(0.5, 60))] = 5.0
    """Seconds between looks at what the kernel does not announce."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(values.one_of(values.LOG_LEVELS))
    ] = "info"
    arp: Annotated[Literal["auto", "ignore"], BeforeValidator(values.one_of(values.ARP_POLICIES))] = "auto"
    """``auto`` keeps the host from answering ARP for VIPs on segments it shares; ``ignore`` leaves it alone."""
    netns: Annotated[str, BeforeValidator(values.netns)] | None = None
    """The network namespace to work in; `None` is the one it is started in."""


class HttpSettings(Section):
    """``[http]``: where health and metrics are served."""

    listen: Annotated[
        Several[Annotated[str, BeforeValidator(values.listen("127.0.0.1:9177"))]], several('["127.0.0.1:9177"]')
    ] = ("127.0.0.1:9177",)
    socket: Annotated[str, BeforeValidator(values.socket_path)] | None = None
    """The unix socket for this host's own tools; `None` is the service's runtime directory."""
    # Read before the next two, which are worth nothing without it.
    certificate: Annotated[str, BeforeValidator(values.file_path("/etc/dsr-agent/cert.pem"))] | None = None
    """Serve `listen` with TLS."""
    key: Annotated[str, BeforeValidator(values.file_path("/etc/dsr-agent/key.pem"))] | None = None
    """The certificate's key, where it is not in the same file."""
    client_ca: Annotated[str, BeforeValidator(values.file_path("/etc/dsr-agent/clients.pem"))] | None = None
    """Who signs the certificates that clients have to show."""

    @field_validator("key", "client_ca", mode="before")
    @classmethod
    def _needs_a_certificate(cls, value: object, info: ValidationInfo) -> object:
        if "certificate" in info.data and info.data["certificate"] is None:
            wanted = 'write certificate = "/etc/dsr-agent/cert.pem" too'
            raise Refused(f"found {show(value)}, but no certificate: {wanted}, or remove {info.field_name}")
        return value


class AgentCheckSettings(Section):
    """``[agent_check]``: where load balancers are told in one line of text how VIPs are."""

    listen: Annotated[
        Several[Annotated[str, BeforeValidator(values.listen("0.0.0.0:8190"))]], several('["0.0.0.0:8190"]')
    ] = ()


class GuardSettings(Section):
    """``[guard]``: who gets in."""

    enabled: Annotated[bool, BeforeValidator(values.boolean)] = True
    required: Annotated[bool, BeforeValidator(values.boolean)] = True
    """Bring no tunnel up without the guard."""
    services: Annotated[bool, BeforeValidator(values.boolean)] = False
    """Let in only what a VIP's `services` say, where it says any."""
    mss: Annotated[int | Literal["auto", "off"], BeforeValidator(values.mss)] = "auto"
    """The largest TCP segment that clients are told of."""
    fallback_devices: Annotated[
        Literal["auto", "down", "ignore"], BeforeValidator(values.one_of(values.FALLBACK_POLICIES))
    ] = "auto"
    """What to do with ``tunl0`` and the like that somebody brought up: ``auto`` spares one that has an address."""


class ListenersSettings(Section):
    """``[listeners]``: how it is watched whether somebody listens for what VIPs declare."""

    interval: Annotated[float, BeforeValidator(values.seconds(0.5, 60))] = 1.0
    """Seconds between looks."""
    fall: Annotated[int, BeforeValidator(values.whole(1, 100))] = 2
    """A service is down after so many looks in a row that found no listener."""
    rise: Annotated[int, BeforeValidator(values.whole(1, 100))] = 2
    """And up again after so many that found one."""


class ProbeSettings(Section):
    """``[probe]``: the self-test through the tunnels."""

    enabled: Annotated[bool, BeforeValidator(values.boolean)] = True
    rate: Annotated[int, BeforeValidator(values.whole(1, 1000))] = 20
    """Packets per second for all VIPs and tunnels together."""
    interval: Annotated[float, BeforeValidator(values.seconds(0.5, 3600))] = 5.0
    """Seconds between two packets to the same VIP by the same tunnel, as far as the rate allows."""
    timeout: Annotated[float, BeforeValidator(values.seconds(0.1, 10))] = 1.0
    """Seconds after which a packet counts as lost."""
    port: Annotated[int, BeforeValidator(values.whole(0, 65535))] = 0
    """The VIP's UDP port that packets go to, for firewalls to know; 0 is any that is free."""
    fall: Annotated[int, BeforeValidator(values.whole(1, 100))] = 3
    """So many in a row are lost before the VIP counts as not ready."""
    rise: Annotated[int, BeforeValidator(values.whole(1, 100))] = 2
    """So many in a row arrive before it counts as ready again."""


def _version(local: object, load_balancers: tuple[Network, ...]) -> int:
    """Of the outer header: that of the load balancers, or for anybody that of the address where they arrive."""
    if load_balancers:
        return load_balancers[0].version
    return local.version if isinstance(local, IPv6Address) else 4


def _tunnel_name(data: dict[str, Any]) -> str:
    """Two tunnels of one encapsulation, one over IPv4 and one over IPv6, have two names."""
    version = _version(data.get("local"), data.get("load_balancers", ()))
    return f"dsr-{data['encapsulation']}{'6' if version == 6 else ''}"


class TunnelSettings(Section):
    """``[[tunnel]]``: one way in."""

    # Read first: what comes after depends on it.
    encapsulation: Annotated[Literal["ipip", "gre", "gue", "fou", "dscp", "l2"], BeforeValidator(values.encapsulation)]
    load_balancers: Annotated[
        Several[Annotated[IPv4Network | IPv6Network, PlainValidator(addresses.load_balancer)]],
        WrapValidator(_load_balancers),
    ] = Field(default=_UNSAID, validate_default=True)
    """Who may send, all over IPv4 or all over IPv6; empty means that the file says ``"any"``."""
    local: Annotated[IPv4Address | IPv6Address | str, PlainValidator(addresses.local)] = values.AUTO
    """``"auto"``, an address of this host, or (any other text) the name of an interface."""
    name: Annotated[str, BeforeValidator(values.tunnel_name)] = Field(default_factory=_tunnel_name)
    key: Annotated[int, BeforeValidator(values.gre_key)] | None = None
    checksum: Annotated[bool, BeforeValidator(values.boolean)] = False
    port: Annotated[int, BeforeValidator(values.udp_port)] | None = Field(
        default_factory=lambda data: GUE_PORT if data["encapsulation"] == "gue" else None, validate_default=True
    )
    """The UDP port, of ``gue`` and ``fou`` only."""
    vrf: Annotated[str, BeforeValidator(values.vrf)] | None = None
    """The VRF in which the requests are, and whose routes lead to the load balancers."""

    @property
    def version(self) -> int:
        """Of the outer header."""
        return _version(self.local, self.load_balancers)

    @field_validator("local", mode="after")
    @classmethod
    def _a_segment(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("encapsulation") == "l2" and not isinstance(value, str):
            wanted = 'write the name of the interface on the segment, or local = "auto" for all of them'
            raise Refused(f'found "{value}", and l2 packets are sent to no address of this host: {wanted}')
        if info.data.get("encapsulation") == "l2" and value == "lo":
            raise Refused('found "lo", which is on no segment: write the name of the interface, or local = "auto"')
        return value

    @field_validator("local", mode="after")
    @classmethod
    def _as_they_send(cls, value: object, info: ValidationInfo) -> object:
        senders = info.data.get("load_balancers")
        if senders and isinstance(value, IPv4Address | IPv6Address) and value.version != senders[0].version:
            wanted = f'write an IPv{senders[0].version} address of this host, or "auto"'
            raise Refused(f'found "{value}", and the load balancers send over IPv{senders[0].version}: {wanted}')
        return value

    @field_validator("key", "checksum", mode="before")
    @classmethod
    def _gre_only(cls, value: object, info: ValidationInfo) -> object:
        encapsulation = info.data.get("encapsulation")
        if encapsulation in ("gue", "fou") and info.field_name == "checksum":
            wanted = "remove this line: packets are taken with and without a checksum, as UDP says of each"
            raise Refused(f"found {show(value)}: {wanted}")
        if encapsulation not in (None, "gre"):
            remedy = 'remove this line or write encapsulation = "gre"'
            raise Refused(f"found {show(value)}: {encapsulation} has no {info.field_name}, {remedy}")
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _udp_only(cls, value: object, info: ValidationInfo) -> object:
        encapsulation = info.data.get("encapsulation")
        if encapsulation not in (None, "gue", "fou") and value is not None:
            remedy = 'remove this line or write encapsulation = "gue" or encapsulation = "fou"'
            raise Refused(f"found {show(value)}: {encapsulation} has no port, {remedy}")
        if encapsulation == "fou" and value is None:
            raise Refused("is missing: write port = 5555, with the UDP port that the load balancers send to")
        return value

    @field_validator("name", mode="after")
    @classmethod
    def _not_where_it_arrives(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("local"):
            raise Refused(f"found {show(value)}, and local is that too: name is what this tunnel's own link is called")
        return value

    @field_validator("vrf", mode="after")
    @classmethod
    def _not_itself(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and value == info.data.get("name"):
            raise Refused(f"found {show(value)}, the name of this tunnel's own link: give the tunnel another name")
        return value


class VipSettings(Section):
    """``[[vip]]``: one virtual address."""

    address: Annotated[IPv4Address | IPv6Address, PlainValidator(values.vip_address)]
    name: Annotated[str, BeforeValidator(values.vip_name)] = Field(default_factory=lambda data: str(data["address"]))
    device: Annotated[str, BeforeValidator(values.device)] | None = None
    """What makes this host accept it; `None` is ``lo``, or the VRF of its tunnels."""
    tunnels: (
        Annotated[Several[Annotated[str, BeforeValidator(values.tunnel_reference)]], several('["dsr-ipip"]')] | None
    ) = None
    """The tunnels its requests come through; `None` means all, whichever there are."""
    services: Annotated[Several[Annotated[str, BeforeValidator(values.service)]], several('["udp/1812"]')] = ()
    dscp: Annotated[int, BeforeValidator(values.dscp)] | None = None
    """The code point that a balancer marks its requests with instead of wrapping them."""


class Settings(BaseSettings):
    """
    The whole file. ``Settings(vip=[{"address": "192.0.2.10"}])`` reads nothing but its arguments.

    `loading.load` brings files and environment; see there.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,  # makes the environment's text into numbers where a number is wanted; files get no such mercy
        env_prefix=ENV_PREFIX,
        env_nested_delimiter=ENV_DELIMITER,
    )

    agent: AgentSettings = AgentSettings()
    http: HttpSettings = HttpSettings()
    agent_check: AgentCheckSettings = AgentCheckSettings()
    guard: GuardSettings = GuardSettings()
    listeners: ListenersSettings = ListenersSettings()
    probe: ProbeSettings = ProbeSettings()
    tunnel: Several[TunnelSettings] = ()
    vip: Several[VipSettings] = ()
    check: Several[CheckSettings] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read behind the caller's back: no process environment, no dotenv, no secrets directory."""
        return (init_settings,)
