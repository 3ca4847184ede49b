"""How the applications stand that are asked, as JSON, for ``status``. Pure."""

from __future__ import annotations

from typing import Any

from dsr_agent.truth.checks import ByVip


def check_rows(checks: ByVip) -> list[dict[str, Any]]:
    """A row for each check of each VIP."""
    return [
        {
            "vip": str(ip),
            "check": name,
            "up": each.up,
            "asked": not each.unasked,
            "state": each.state,
            "reason": None if each.up else each.trouble.reason,
            "seconds": None if each.seconds is None else round(each.seconds, 6),
        }
        for ip, of_vip in checks.copy().items()
        for name, each in of_vip.items()
    ]
