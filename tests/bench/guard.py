"""
What the guard costs: instructions for each decapsulated packet, in a Debian 13 machine whose clock counts them.

::

    python -m tests.bench.guard [--json] [--only WORLD | --kinds] [--rules FILE]...

The counts are of one emulated processor, without caches and a network card: good for ratios, not for packets per
second. They do not depend on how busy the host is, and repeat within a few instructions. Needs what the lab's lane
``qemu`` needs.

Rules of your own are measured for the tunnel 10.0.3.2 with the balancer 10.2.0.1 and the VIP 198.18.0.1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from tests.bench.guard_cases import KINDS
from tests.lab.machine import lanes
from tests.lab.machine.job import Job, LaneError

HEADING = f"{'world':<36} {'what':<46} {'instr':>6} {'ratio':>7}"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.guard", description=__doc__.split("::")[0])
    parser.add_argument("--json", action="store_true", help="print the table as JSON, at the end")
    parser.add_argument("--only", default="", metavar="WORLD", help="only worlds whose name contains this")
    parser.add_argument(
        "--kinds", dest="only", action="store_const", const=KINDS, help="only the table of all encapsulations"
    )
    parser.add_argument("--rules", action="append", type=Path, default=[], metavar="FILE", help="measure these, too")
    parser.add_argument("--timeout", type=float, default=1800.0, metavar="S")
    return parser.parse_args()


def main() -> int:
    """Boot, count, print."""
    options = arguments()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    files = {f"rules/{path.name}": path for path in options.rules}
    command = ["python3", "-m", "tests.bench.guard_guest", "quiet" if options.json else "", options.only, *files]
    if not options.json:
        print(HEADING, flush=True)
    with tempfile.TemporaryDirectory() as out:
        job = Job(command, Path(out), options.timeout, files=files, counted=True)
        try:
            result = lanes.run(lanes.choose("qemu"), job)
        except LaneError as reason:
            print(f"cannot run this: {reason}", file=sys.stderr)
            return 1
        if result.exit_status == 0 and options.json:
            print(json.dumps(json.loads((Path(out) / "guard.json").read_text()), indent=1))
    return result.exit_status


if __name__ == "__main__":
    sys.exit(main())
