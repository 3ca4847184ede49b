"""``python3 -m tests.lab.machine [--lane LANE] -- command...``: run a command in a machine."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from tests.lab.machine import lanes
from tests.lab.machine.job import NO_RESULT, Job, LaneError, say


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.lab.machine", description=__doc__)
    parser.add_argument("--lane", choices=[*lanes.LANES, "auto"], default="auto")
    parser.add_argument(
        "--profile", choices=["lean", "full"], default="lean", help="full: udev and networkd as shipped"
    )
    parser.add_argument("--debian", choices=["13", "12"], default="13", help="of the qemu lane")
    parser.add_argument("--reboots", action="store_true", help="a reboot inside does not end the job (qemu lane)")
    parser.add_argument("--counted", action="store_true", help="1 ns inside is one instruction (qemu lane)")
    parser.add_argument("--file", action="append", default=[], metavar="NAME=PATH", help="take this along, too")
    parser.add_argument("--timeout", type=float, default=900.0, metavar="S", help="seconds for the whole job")
    parser.add_argument("--memory", type=int, default=1024, metavar="MB")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the files the job leaves in out/ go")
    parser.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="for the job's environment")
    parser.add_argument("command", nargs="+", help="runs as root, in a copy of this repository")
    return parser.parse_args()


def main() -> int:
    """Run the command; its exit status is ours."""
    options = arguments()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    environment = dict(item.split("=", 1) for item in options.env)
    files = {name: Path(path) for name, path in (item.split("=", 1) for item in options.file)}
    job = Job(
        options.command,
        options.out,
        options.timeout,
        options.profile,
        environment,
        options.memory,
        options.debian,
        options.reboots,
        files,
        options.counted,
    )
    try:
        result = lanes.run(lanes.choose(options.lane, options.profile), job)
    except LaneError as reason:
        say(f"cannot run this: {reason}")
        return NO_RESULT
    except KeyboardInterrupt:
        return 130
    if result.trouble:
        say(f"FAILED: {result.trouble}")
    say(f"{result.lane}: exit status {result.exit_status} after {result.seconds:.1f} s")
    return result.exit_status


sys.exit(main())
