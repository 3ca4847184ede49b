"""The verbs, their options, and what is said about them."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from dsr_agent import __version__
from dsr_agent.service.span_keeper import LONGEST

DEFAULT_CONFIG = "/etc/dsr-agent.toml"

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
    "hold": (
        "have VIPs left as they are, there or not",
        "What is taken away by hand is not put back, until release or the end of the time. A held VIP is not ready.",
    ),
    "release": ("end what hold began", "What is missing is put back at once. All held VIPs if none is named."),
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


_ENDED_BY = {"drain": "undrain", "hold": "release"}


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
        if verb in ("drain", "undrain", "release", "probe", "doctor"):
            added.add_argument("vips", metavar="VIP", nargs="*", help="an address or name of the file (default: all)")
        if verb == "hold":
            added.add_argument("vips", metavar="VIP", nargs="+", help="an address or name of the file")
        if verb in _ENDED_BY:
            end = f"when it ends by itself: 10m, 1h30m, 90s (default: with {_ENDED_BY[verb]})"
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
    if seconds > LONGEST:
        raise argparse.ArgumentTypeError(f"found {text!r}: write a time such as 10m, at most {LONGEST / 86400:.0f}d")
    if not seconds:
        raise argparse.ArgumentTypeError(f"found {text!r}: write a time such as 10m, 1h30m or 90s")
    return float(seconds)


def _seconds(text: str) -> float:
    """How long the doctor looks."""
    if not re.fullmatch(r"\d+(?:\.\d+)?", text, re.ASCII) or not 0 < float(text) <= _LONGEST_LOOK:
        raise argparse.ArgumentTypeError(f"found {text!r}: write a number of seconds up to {_LONGEST_LOOK}")
    return float(text)
