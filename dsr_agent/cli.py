"""
The verbs, and printing; no decisions.

Exit codes: 0 fine, 1 not in sync or a check failed, 2 wrong usage or a file that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from dsr_agent import printing, printing_doctor
from dsr_agent.command_line import parser
from dsr_agent.config import Loaded, load, netns_of
from dsr_agent.kernel.host import Host
from dsr_agent.kernel.netns import enter, path_of
from dsr_agent.reconcile.loop import apply_once, carry_out, plan_now
from dsr_agent.reconcile.plan import teardown
from dsr_agent.service import daemon, notify, selftest
from dsr_agent.service.clock import SteadyClock
from dsr_agent.service.instance import Instance, running
from dsr_agent.service.listeners import look_once
from dsr_agent.service.span_keeper import HOLD, UnreadableError, kept, place
from dsr_agent.service.span_rows import held_json
from dsr_agent.service.status import Status
from dsr_agent.service.subjects import find_vip
from dsr_agent.service.web.sockets import default_socket
from dsr_agent.state.errors import ConfigError, DsrError
from dsr_agent.state.model import EVERYTHING, AddressKey, Desired

__all__ = ["main", "parser"]

FINE, NOT_IN_SYNC, UNUSABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        code: int = asyncio.run(_COMMANDS[arguments.verb](arguments))
        sys.stdout.flush()  # at the interpreter's end it would be too late to say that nobody reads it
    except ConfigError as error:
        return _refuse(arguments, error)
    except DsrError as error:
        return _fail(arguments, str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # "dsr-agent status | head"
        return _unread()
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(f"dsr-agent: what is printed cannot be written: {error.strerror}", file=sys.stderr)
        return _unread()
    return code


def _unread() -> int:
    """The exit code; what is left to print is not tried again at the interpreter's end."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return NOT_IN_SYNC


# --- the verbs ------------------------------------------------------------------------------------------------------


async def _run(arguments: argparse.Namespace) -> int:
    # A SIGHUP that comes before it can be heeded waits until then; the default would be to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    read = _loader(arguments)
    loaded = _arrived(read())
    logging.basicConfig(handlers=[notify.log_handler(os.environ)])
    logging.getLogger("dsr_agent").setLevel(loaded.settings.agent.log_level.upper())
    instance = Instance()
    if instance.taken is not None:
        return _fail(arguments, f"dsr-agent already runs here (process {instance.taken}); stop that one first")
    try:
        await daemon.run(read, loaded)
    finally:
        instance.close()
    return FINE


async def _check(arguments: argparse.Namespace) -> int:
    loaded = _loader(arguments)()
    if arguments.json:
        _print_json(printing.checked_json(loaded))
    else:
        print(printing.checked(loaded))
    return FINE


async def _plan(arguments: argparse.Namespace) -> int:
    loaded = _arrived(_loader(arguments)())
    holds = _holds(loaded, _says(loaded, running()))
    async with Host() as host:
        todo, _ = await plan_now(host, _without(loaded.desired, holds))
    if arguments.json:
        _print_json(printing.plan_json(todo, holds))
    else:
        print(printing.plan(todo, holds))
    return NOT_IN_SYNC if todo else FINE


async def _apply(arguments: argparse.Namespace) -> int:
    loaded = _arrived(_loader(arguments)())
    holds = _holds(loaded, _says(loaded, running()))
    async with Host(hold=True) as host:  # so that the agent that comes after can own the guard as it is
        report = await apply_once(host, _without(loaded.desired, holds), SteadyClock())
    if arguments.json:
        _print_json(printing.report_json(report, holds))
    else:
        print(printing.report(report, holds))
    return FINE if report.in_sync else NOT_IN_SYNC


async def _status(arguments: argparse.Namespace) -> int:
    from dsr_agent.service.web import client  # noqa: PLC0415  an HTTP client is for few verbs only

    try:
        loaded = _arrived(_loader(arguments)())
    except ConfigError as error:  # what is in force then is what a running agent read before
        _arrive_anyway(arguments)
        pid = running()
        return _refuse_status(arguments, error, pid, client.status(default_socket(os.environ), pid))
    pid = running()
    says = _says(loaded, pid)
    holds = _holds(loaded, says)
    desired = _without(loaded.desired, holds)
    async with Host() as host:
        _, observed = await plan_now(host, desired)
    found = look_once(desired, observed)
    status = Status.of(desired, observed, pid)
    if arguments.json:
        _print_json(printing.status_json(status, says, found, holds))
    else:
        print(printing.status(status, says, found, holds))
    return NOT_IN_SYNC if status.todo else FINE


async def _drain(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"vips": arguments.vips, "seconds": arguments.seconds})


async def _undrain(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"vips": arguments.vips})


async def _hold(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"vips": arguments.vips, "seconds": arguments.seconds})


async def _release(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"vips": arguments.vips})


def _change(arguments: argparse.Namespace, asked: Mapping[str, Any]) -> int:
    """Have the running agent do what the verb says; a file that cannot be used does not stand in the way."""
    from dsr_agent.service.web import client  # noqa: PLC0415  an HTTP client is for few verbs only

    try:
        path = _arrived(_loader(arguments)()).settings.http.socket
    except ConfigError:
        _arrive_anyway(arguments)
        path = None
    pid = running()
    if pid is None:
        return _fail(arguments, f"no dsr-agent runs here, so there is nobody to {arguments.verb}")
    try:
        answer = client.change(path or default_socket(os.environ), pid, arguments.verb, asked)
    except client.NotAskedError as error:
        return _fail(arguments, str(error))
    if arguments.json:
        _print_json(answer)
    else:
        is_drain = "drained" in answer
        lines = printing.drained(answer["drained"]) if is_drain else printing.held(answer["held"])
        print("\n".join(lines) or f"nothing is {'drained' if is_drain else 'held'}")
        if answer["not_kept"]:
            print(f"dsr-agent: a restart of the agent ends this: {answer['not_kept']}", file=sys.stderr)
    return FINE if answer["ok"] else NOT_IN_SYNC


async def _probe(arguments: argparse.Namespace) -> int:
    loaded = _arrived(_loader(arguments)())
    named = _named(arguments, loaded)
    loaded = replace(loaded, desired=_without(loaded.desired, _holds(loaded, _says(loaded, running()))))
    async with Host() as host:
        _, observed = await plan_now(host, loaded.desired)
    found = await selftest.once(loaded, observed, [key.ip for key in named])
    if arguments.json:
        _print_json(printing.probed_json(found))
    else:
        print(printing.probed(found))
    return FINE if found.fine else NOT_IN_SYNC


async def _doctor(arguments: argparse.Namespace) -> int:
    from dsr_agent.service import doctor  # noqa: PLC0415  all that it looks at is for this verb only
    from dsr_agent.truth.doctor.walk import diagnose  # noqa: PLC0415

    loaded = _arrived(_loader(arguments)())
    named = _named(arguments, loaded) or list(loaded.desired.vips)
    says = _says(loaded, running())
    loaded = replace(loaded, desired=_without(loaded.desired, _holds(loaded, says)))
    async with Host() as host:
        todo, observed = await doctor.look(host, loaded.desired, (says or {}).get("fights", ()))
    found = diagnose(await doctor.examine(loaded, todo, observed, named, arguments.seconds))
    if arguments.json:
        _print_json(printing_doctor.diagnosed_json(found))
    else:
        print(printing_doctor.diagnosed(found))
        if netns := loaded.settings.agent.netns:
            print(f"Commands are for network namespace {netns}: nsenter --net={path_of(netns)} COMMAND")
    return FINE if found.fine else NOT_IN_SYNC


async def _teardown(arguments: argparse.Namespace) -> int:
    if arguments.config.exists():  # it is not needed, but for where to go
        try:
            _arrived(_loader(arguments)())
        except ConfigError:
            _arrive_anyway(arguments)
    if (pid := running()) is not None:
        return _fail(arguments, f"dsr-agent runs here (process {pid}) and would put all back; stop it first")
    async with Host() as host:
        todo = teardown(await host.observe(EVERYTHING))
        outcomes = await carry_out(host, todo.actions)
        remaining = teardown(await host.observe(EVERYTHING))
    if arguments.json:
        _print_json(printing.torn_down_json(outcomes, remaining))
    else:
        print(printing.torn_down(outcomes, remaining))
    return NOT_IN_SYNC if remaining else FINE


_COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "run": _run,
    "check": _check,
    "plan": _plan,
    "apply": _apply,
    "status": _status,
    "drain": _drain,
    "undrain": _undrain,
    "hold": _hold,
    "release": _release,
    "probe": _probe,
    "doctor": _doctor,
    "teardown": _teardown,
}


# --- what they share --------------------------------------------------------------------------------------------------


def _loader(arguments: argparse.Namespace) -> Callable[[], Loaded]:
    """Reads the file that the arguments name."""
    return lambda: load(arguments.config, environ=os.environ)


def _arrived(loaded: Loaded) -> Loaded:
    """*loaded*, once this process is in the network namespace that it names. Raises `DsrError`."""
    enter(loaded.settings.agent.netns)
    return loaded


def _arrive_anyway(arguments: argparse.Namespace) -> None:
    """The same with a file that cannot be used, as far as it says where to go: the agent that runs may be there."""
    with contextlib.suppress(DsrError):
        enter(netns_of(arguments.config, environ=os.environ))


def _named(arguments: argparse.Namespace, loaded: Loaded) -> list[AddressKey]:
    """The VIPs that the arguments name, each once. Raises `ConfigError` for one that the file has not."""
    found: dict[AddressKey, None] = {}
    for name in arguments.vips:
        if (key := find_vip(loaded.desired, name)) is None:
            raise ConfigError((f"no VIP of that name or address: {name}",))
        found[key] = None
    return list(found)


def _says(loaded: Loaded, pid: int | None) -> Mapping[str, Any] | None:
    """What the agent with process id *pid* says of itself."""
    from dsr_agent.service.web import client  # noqa: PLC0415  an HTTP client is for few verbs only

    return client.status(loaded.settings.http.socket or default_socket(os.environ), pid)


def _holds(loaded: Loaded, says: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What is held: as the running agent says; without one that can be asked, as it was kept."""
    if says and "held" in says:
        held: Mapping[str, Any] = says["held"]
        return held
    file = place(HOLD, os.environ)
    try:
        return held_json(kept(file), loaded.desired, time.time())
    except UnreadableError as error:
        print(f"dsr-agent: {file} cannot be read, so nothing counts as held: {error}", file=sys.stderr)
        return {"vips": []}


def _without(desired: Desired, holds: Mapping[str, Any]) -> Desired:
    """*desired*, with what is held left alone."""
    return desired.holding([ip_address(row["vip"]) for row in holds["vips"]])


def _refuse_status(
    arguments: argparse.Namespace, error: ConfigError, pid: int | None, says: Mapping[str, Any] | None
) -> int:
    """A file that cannot be used, and what the running agent makes of it."""
    if arguments.json:
        _print_json(printing.unusable_json(error.refusals, pid, says))
        return UNUSABLE
    print(printing.unusable(pid, says))
    return _refuse(arguments, error)


def _refuse(arguments: argparse.Namespace, error: ConfigError) -> int:
    if arguments.json:
        _print_json({"ok": False, "refusals": list(error.refusals)})
    else:
        for refusal in error.refusals:
            print(refusal, file=sys.stderr)
    return UNUSABLE


def _fail(arguments: argparse.Namespace, why: str) -> int:
    if arguments.json:
        _print_json({"ok": False, "error": why})
    else:
        print(f"dsr-agent: {why}", file=sys.stderr)
    return NOT_IN_SYNC


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))
