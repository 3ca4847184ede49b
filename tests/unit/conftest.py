"""How hard hypothesis tries: modestly by default, long with ``tests/run --long``."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("short", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("long", settings.get_profile("short"), max_examples=3000)
settings.load_profile("long" if os.environ.get("DSR_LONG") else "short")
