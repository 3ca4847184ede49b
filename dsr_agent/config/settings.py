"""
The file as a model: which keys there are, what they default to, and which values can stand.

A file holds ``[agent]``, ``[http]``, ``[agent_check]``, ``[guard]``, ``[listeners]``, ``[probe]``, any number of
``[[tunnel]]``, ``[[vip]]`` and ``[[check]]`` (see `check_settings`). The readers of single values are in `values`, what
must agree between several entries in `agreement`.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
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
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from dsr_agent.config import values
from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.config.section import Section, Several, no_repeats, several
from dsr_agent.config.wording import Refused, show

ENV_PREFIX = "DSR_AGENT_"
ENV_DELIMITER = "__"


def _load_balancers(value: object, entries: ValidatorFunctionWrapHandler) -> Any:
    wanted = 'write load_balancers = ["10.1.0.5"] with the addresses they send from, or load_balancers = "any"'
    if value == values.ANY:
        return ()
    if isinstance(value, str):
        if value.strip().lower() == values.ANY:
            raise Refused(f'found {show(value)}: write "any"')
        values.load_balancer(value)
        raise Refused(f'found {show(value)}: write a list: ["{value}"]')
    if not isinstance(value, list | tuple):
        raise Refused(f"found {show(value)}: {wanted}")
    if not value:
        raise Refused('found an empty list, which would let nobody send: list them or write load_balancers = "any"')
    found = entries(value)
    no_repeats(found)
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
    fall: Annotated[int, BeforeValidator(values.whole(1, 100))] = 3
    """So many in a row are lost before the VIP counts as not ready."""
    rise: Annotated[int, BeforeValidator(values.whole(1, 100))] = 2
    """So many in a row arrive before it counts as ready again."""


class TunnelSettings(Section):
    """``[[tunnel]]``: one way in."""

    # Read first: the default name and the refusal of key and checksum depend on it.
    encapsulation: Annotated[Literal["ipip", "gre"], BeforeValidator(values.encapsulation)]
    load_balancers: Annotated[
        Several[Annotated[IPv4Network, PlainValidator(values.load_balancer)]], WrapValidator(_load_balancers)
    ]
    """Who may send; empty means that the file says ``"any"``."""
    name: Annotated[str, BeforeValidator(values.tunnel_name)] = Field(
        default_factory=lambda data: f"dsr-{data['encapsulation']}"
    )
    local: Annotated[IPv4Address | str, PlainValidator(values.local)] = values.AUTO
    """``"auto"``, an address of this host, or (any other text) the name of an interface."""
    key: Annotated[int, BeforeValidator(values.gre_key)] | None = None
    checksum: Annotated[bool, BeforeValidator(values.boolean)] = False

    @field_validator("key", "checksum", mode="before")
    @classmethod
    def _gre_only(cls, value: object, info: ValidationInfo) -> object:
        if info.data.get("encapsulation") == "ipip":
            raise Refused(
                f'found {show(value)}: ipip has no {info.field_name}, remove this line or write encapsulation = "gre"'
            )
        return value


class VipSettings(Section):
    """``[[vip]]``: one virtual address."""

    address: Annotated[IPv4Address | IPv6Address, PlainValidator(values.vip_address)]
    name: Annotated[str, BeforeValidator(values.vip_name)] = Field(default_factory=lambda data: str(data["address"]))
    device: Annotated[str, BeforeValidator(values.device)] = "lo"
    tunnels: (
        Annotated[Several[Annotated[str, BeforeValidator(values.tunnel_reference)]], several('["dsr-ipip"]')] | None
    ) = None
    """The tunnels its requests come through; `None` means all, whichever there are."""
    services: Annotated[Several[Annotated[str, BeforeValidator(values.service)]], several('["udp/1812"]')] = ()


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
