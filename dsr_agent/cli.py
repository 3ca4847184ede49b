"""
The verbs, and printing; no decisions.

Exit codes: 0 fine, 1 not in sync or a check failed, 2 wrong usage or a file that cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsr_agent import __version__, printing, printing_doctor
from dsr_agent.config import Loaded, load
from dsr_agent.kernel.host import Host
from dsr_agent.reconcile.loop import apply_once, carry_out, plan_now
from dsr_agent.reconcile.plan import teardown
from dsr_agent.service import daemon, notify, selftest
from dsr_agent.service.clock import SteadyClock
from dsr_agent.service.drain_keeper import LONGEST
from dsr_agent.service.instance import Instance, running
from dsr_agent.service.listeners import look_once
from dsr_agent.service.status import Status
from dsr_agent.service.subjects import find_vip
from dsr_agent.service.web.sockets import default_socket
from dsr_agent.state.errors import ConfigError, DsrError
from dsr_agent.state.model import EVERYTHING, AddressKey

DEFAULT_CONFIG = "/etc/dsr-agent.toml"

FINE, NOT_IN_SYNC, UNUSABLE = 0, 1, 2

_LONGEST_LOOK = 600

_VERBS: dict[str, tuple[str, str]] = {
    "run": ("keep this host as the file says, until stopped", "Tunnels and VIPs stay when it stops."),
    "check": ("read the file and say what is wrong with it", "Looks at the file only, not at the host."),
    "plan": ("print what would be done, and do nothing", "Exit code 1 if there is anything to do."),
    "apply": ("do once what the file says, and end", "Exit code 1 if the host is not as the file says afterwards."),
    "status": ("print what this host has and lacks", "Exit code 1 if the host is not as the file says."),
    "drain": (
        "have the running agent say that VIPs are not ready",
        "Traffic goes on; a load balancer that asks for /readyz sends nobody new. All VIPs if none is named.",
    ),
    "undrain": ("end what drain began", "All VIPs if none is named."),
    "probe": (
        "send a packet through each tunnel to each VIP, and say what became of it",
        "Exit code 1 if any did not arrive. Nothing is sent where no tunnel would take it.",
    ),
    "doctor": (
        "walk the packet's way, and say what is wrong where, why, and what mends it",
        "Exit code 1 if a request would not be answered. Works with and without a running agent; changes nothing.",
    ),
    "teardown": ("remove everything that is marked ours, and nothing else", "The file is not needed."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        code: int = asyncio.run(_COMMANDS[arguments.verb](arguments))
    except ConfigError as error:
        return _refuse(arguments, error)
    except DsrError as error:
        return _fail(arguments, str(error))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # "dsr-agent status | head"
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_IN_SYNC
    return code


def parser() -> argparse.ArgumentParser:
    """The command line; completions are made from it, too."""
    made = argparse.ArgumentParser(
        prog="dsr-agent",
        description="Keeps a real server behind a Direct Server Return load balancer able to answer.",
        epilog="Exit codes: 0 fine, 1 not in sync or a check failed, 2 wrong usage or a file that cannot be used.",
    )
    made.add_argument("--version", action="version", version=f"dsr-agent {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=Path(os.environ.get("DSR_AGENT_CONFIG") or DEFAULT_CONFIG),
        help=f"the file (default: $DSR_AGENT_CONFIG or {DEFAULT_CONFIG})",
    )
    common.add_argument("--json", action="store_true", help="print JSON")
    verbs = made.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, (what, more) in _VERBS.items():
        about = f"{what[0].upper()}{what[1:]}. {more}"
        added = verbs.add_parser(verb, parents=[common], help=what, description=about)
        if verb in ("drain", "undrain", "probe", "doctor"):
            added.add_argument("vips", metavar="VIP", nargs="*", help="an address or name of the file (default: all)")
        if verb == "drain":
            end = "when it ends by itself: 10m, 1h30m, 90s (default: with undrain)"
            added.add_argument("--for", dest="seconds", metavar="TIME", type=_span, help=end)
        if verb == "doctor":
            long = "how long to look at what arrives (default: 3)"
            added.add_argument("--seconds", metavar="N", type=_seconds, default=3.0, help=long)
    return made


def _span(text: str) -> float:
    """A span of time as people write it, in seconds."""
    match = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text.strip(), re.ASCII)
    found = [int(part or 0) for part in match.groups()] if match else []
    seconds = sum(number * unit for number, unit in zip(found, (86400, 3600, 60, 1), strict=False))
    if not 0 < seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"found {text!r}: write a time such as 10m, 1h30m or 90s")
    return float(seconds)


def _seconds(text: str) -> float:
    """How long the doctor looks."""
    if not re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII) or not 0 < float(text) <= _LONGEST_LOOK:
        raise argparse.ArgumentTypeError(f"found {text!r}: write a number of seconds up to {_LONGEST_LOOK}")
    return float(text)


# --- the verbs ------------------------------------------------------------------------------------------------------


async def _run(arguments: argparse.Namespace) -> int:
    read = _loader(arguments)
    loaded = read()
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
    loaded = _loader(arguments)()
    async with Host() as host:
        todo, _ = await plan_now(host, loaded.desired)
    if arguments.json:
        _print_json(printing.plan_json(todo))
    else:
        print(printing.plan(todo))
    return NOT_IN_SYNC if todo else FINE


async def _apply(arguments: argparse.Namespace) -> int:
    loaded = _loader(arguments)()
    async with Host(hold=True) as host:  # so that the agent that comes after can own the guard as it is
        report = await apply_once(host, loaded.desired, SteadyClock())
    if arguments.json:
        _print_json(printing.report_json(report))
    else:
        print(printing.report(report))
    return FINE if report.in_sync else NOT_IN_SYNC


async def _status(arguments: argparse.Namespace) -> int:
    from dsr_agent.service.web import client  # noqa: PLC0415  an HTTP client is for this verb only

    try:
        loaded = _loader(arguments)()
    except ConfigError as error:  # what is in force then is what a running agent read before
        pid = running()
        return _refuse_status(arguments, error, pid, client.status(default_socket(os.environ), pid))
    async with Host() as host:
        _, observed = await plan_now(host, loaded.desired)
    found = look_once(loaded.desired, observed)
    status = Status.of(loaded.desired, observed, running())
    says = client.status(loaded.settings.http.socket or default_socket(os.environ), status.running)
    if arguments.json:
        _print_json(printing.status_json(status, says, found))
    else:
        print(printing.status(status, says, found))
    return NOT_IN_SYNC if status.todo else FINE


async def _drain(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"vips": arguments.vips, "seconds": arguments.seconds})


async def _undrain(arguments: argparse.Namespace) -> int:
    return _change(arguments, {"vips": arguments.vips})


def _change(arguments: argparse.Namespace, asked: Mapping[str, Any]) -> int:
    """Have the running agent do what the verb says; a file that cannot be used does not stand in the way."""
    from dsr_agent.service.web import client  # noqa: PLC0415  an HTTP client is for few verbs only

    pid = running()
    if pid is None:
        return _fail(arguments, "no dsr-agent runs here, so there is nobody to drain or undrain")
    try:
        path = _loader(arguments)().settings.http.socket
    except ConfigError:
        path = None
    try:
        answer = client.change(path or default_socket(os.environ), pid, arguments.verb, asked)
    except client.NotAskedError as error:
        return _fail(arguments, str(error))
    if arguments.json:
        _print_json(answer)
    else:
        print("\n".join(printing.drained(answer["drained"])) or "nothing is drained")
        if answer["not_kept"]:
            print(f"dsr-agent: a restart of the agent ends this: {answer['not_kept']}", file=sys.stderr)
    return FINE if answer["ok"] else NOT_IN_SYNC


async def _probe(arguments: argparse.Namespace) -> int:
    loaded = _loader(arguments)()
    named = _named(arguments, loaded)
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

    loaded = _loader(arguments)()
    named = _named(arguments, loaded) or list(loaded.desired.vips)
    async with Host() as host:
        todo, observed = await plan_now(host, loaded.desired)
    found = diagnose(await doctor.examine(loaded, todo, observed, named, arguments.seconds))
    if arguments.json:
        _print_json(printing_doctor.diagnosed_json(found))
    else:
        print(printing_doctor.diagnosed(found))
    return FINE if found.fine else NOT_IN_SYNC


async def _teardown(arguments: argparse.Namespace) -> int:
    if (pid := running()) is not None:
        return _fail(arguments, f"dsr-agent runs here (process {pid}) and would put all back; stop it first")
    async with Host() as host:
        todo = teardown(await host.observe(EVERYTHING))
        outcomes = await carry_out(host, todo.actions)
        remaining = teardown(await host.observe(EVERYTHING))
    if arguments.json:
        _print_json(printing.outcomes_json(outcomes, remaining))
    else:
        print(printing.outcomes(outcomes, "nothing here is marked ours"))
    return NOT_IN_SYNC if remaining else FINE


_COMMANDS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "run": _run,
    "check": _check,
    "plan": _plan,
    "apply": _apply,
    "status": _status,
    "drain": _drain,
    "undrain": _undrain,
    "probe": _probe,
    "doctor": _doctor,
    "teardown": _teardown,
}


# --- what they share --------------------------------------------------------------------------------------------------


def _loader(arguments: argparse.Namespace) -> Callable[[], Loaded]:
    """Reads the file that the arguments name."""
    return lambda: load(arguments.config, environ=os.environ)


def _named(arguments: argparse.Namespace, loaded: Loaded) -> list[AddressKey]:
    """The VIPs that the arguments name, each once. Raises `ConfigError` for one that the file has not."""
    found: dict[AddressKey, None] = {}
    for name in arguments.vips:
        if (key := find_vip(loaded.desired, name)) is None:
            raise ConfigError((f"no VIP of that name or address: {name}",))
        found[key] = None
    return list(found)


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
