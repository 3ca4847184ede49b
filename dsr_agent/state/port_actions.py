"""What can be done to the ports at which packets are taken out of UDP; see `actions`."""

from __future__ import annotations

from dataclasses import dataclass

from dsr_agent.state.model import Key
from dsr_agent.state.ports import PortKey
from dsr_agent.state.why import Why


@dataclass(frozen=True, slots=True)
class AddPort:
    """Have packets to a port taken out of UDP, marked as ours; once the link that takes them then (*after*) is up."""

    port: PortKey
    why: Why = Why.MISSING
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> PortKey:
        return self.port

    @property
    def needs(self) -> tuple[Key, ...]:
        return self.after

    def __str__(self) -> str:
        return f"take packets out of {self.port}"


@dataclass(frozen=True, slots=True)
class DeletePort:
    """Have them taken out no longer, once what replaces it (*after*) is in place."""

    port: PortKey
    why: Why = Why.UNWANTED
    after: tuple[Key, ...] = ()

    @property
    def key(self) -> PortKey:
        return self.port

    @property
    def needs(self) -> tuple[Key, ...]:
        return self.after

    def __str__(self) -> str:
        return f"close {self.port}"


PortAction = AddPort | DeletePort
