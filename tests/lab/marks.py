"""Which machines a test runs on: parameters for the fixture that everything in a module depends on."""

from __future__ import annotations

import os

import pytest

# The fast one, and each time also a Debian machine with its own kernel.
BOTH = ["fast", pytest.param("debian", marks=pytest.mark.reference)]
# The Debian machine only in a long campaign: it needs minutes for this.
MOSTLY_FAST = ["fast", pytest.param("debian", marks=[pytest.mark.reference, pytest.mark.long])]
# The applications of the lab are on the machines; this host is not given any.
ON_A_MACHINE = pytest.mark.skipif(os.environ.get("DSR_LAB") == "here", reason="needs the applications of the machines")

# A campaign that spares no time: ``tests/run --long``.
LONG = bool(os.environ.get("DSR_LONG"))
# What is no other on the Debian machine, and needs minutes there.
NOT_UNDER_EMULATION = pytest.mark.skipif(
    os.environ.get("DSR_LAB") == "qemu" and not LONG, reason="needs minutes under emulation: --long"
)
