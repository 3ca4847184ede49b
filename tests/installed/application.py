"""``python3 -m tests.installed.application``: answers on every VIP, as RADIUS or TACACS+ would."""

from __future__ import annotations

import signal

from tests.lab.servers import PORT, VIPS
from tests.lab.traffic import echoes
from tests.lab.world import RS1

if __name__ == "__main__":
    with echoes(RS1, VIPS, [PORT]):
        signal.pause()
