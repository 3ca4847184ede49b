"""
The steps about the UDP ports at which packets are taken out of UDP. Pure.

A port is opened when the link behind it is there, and another one beside it before it is closed.
"""

from __future__ import annotations

from dsr_agent.reconcile.resolve import Wanted
from dsr_agent.reconcile.steps import Steps
from dsr_agent.state.actions import LoadModule, Problem
from dsr_agent.state.errors import Foreign
from dsr_agent.state.model import Observed
from dsr_agent.state.outer import MODULE_OF_PORTS
from dsr_agent.state.port_actions import AddPort, DeletePort
from dsr_agent.state.ports import PortKey, UdpPort
from dsr_agent.state.why import Why


def plan_ports(wanted: Wanted, observed: Observed, steps: Steps) -> None:
    """Add to *steps* what is missing, and at the end what is ours and no longer wanted."""
    ports = {item.port: item for item in wanted.carried if item.port}
    missing = [key for key in ports if not any(port.serves(key) for port in observed.ports)]
    for key in missing:
        if stranger := _in_the_way(key, observed):
            steps.problems.append(Problem(key, _not_ours(stranger)))
            continue
        if MODULE_OF_PORTS in observed.obstacles:  # not the last word: somebody may load it meanwhile
            steps.problems.append(Problem(key, observed.obstacles[MODULE_OF_PORTS]))
        elif MODULE_OF_PORTS not in observed.modules and key == missing[0]:
            steps.links.append(LoadModule(MODULE_OF_PORTS, Why.NEEDED))
        moved = [port.key for port in observed.ports if port.ours and port.key.keeps_out(key) and port.key not in ports]
        steps.links += [DeletePort(port, Why.REPLACED) for port in moved]  # it gets nothing: the address is elsewhere
        steps.links.append(AddPort(key, Why.MISSING, (ports[key].link.key, *steps.after)))
    kept = {(tunnel.port, tunnel.version) for _, tunnel in wanted.waiting}
    closed = {action.port for action in steps.links if isinstance(action, DeletePort)}
    if steps.cannot(missing):
        return  # what was open before serves until its successor can be had
    for port in sorted(observed.ports, key=str):
        if port.ours and port.key not in closed | ports.keys() and (port.key.number, port.key.version) not in kept:
            steps.last.append(DeletePort(port.key, Why.UNWANTED, tuple(missing)))


def _in_the_way(key: PortKey, observed: Observed) -> UdpPort | None:
    """Somebody's port that has the place of *key*, and takes its packets otherwise."""
    return next((port for port in observed.ports if not port.ours and port.key.keeps_out(key)), None)


def _not_ours(port: UdpPort) -> Foreign:
    family = "-6 " if port.key.version == 6 else ""
    local = f" local {port.key.local}" if port.key.local else ""
    words = " and the rest of what ip fou show has of it" if port.narrow else ""
    return Foreign(
        f"somebody else has {port.key}, and it takes packets otherwise ({port.form})",
        f"remove it (ip {family}fou del port {port.key.number}{local}{words}), or write another port",
    )
