"""What the log is told of checks: each change in one line, and of very many at once only the first few."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dsr_agent.service.journal import Kind, carrying
from dsr_agent.truth.checks import Asked, Checked
from dsr_agent.truth.reach import Reached

log = logging.getLogger("dsr_agent")

# So many lines within so many seconds; the rest is told as a number.
_ONE_BY_ONE = 5
_WINDOW = 5.0


class Telling:
    """*clock* is steady."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = float("-inf")
        self._told = 0
        self._more = 0

    def changed(self, asked: Asked, before: Checked, now: Checked) -> None:
        """One more answer has come in."""
        if before.unasked != now.unasked and now.unasked:
            text = f"VIP {asked.ip}: {asked.check} check: {now.state}"
            self._say(logging.WARNING, text, Kind.WARNED, asked)
        was, is_ = before.reach.state, now.reach.state
        if was is is_ or (was is Reached.UNTRIED and is_ is Reached.UP):
            return  # what was fine from the start is no news
        if is_ is Reached.FALLEN:
            self._say(logging.ERROR, f"VIP {asked.ip}: {now.why_not(asked.check)}", Kind.CHECK_FAILED, asked)
        else:
            self._say(logging.INFO, f"VIP {asked.ip}: {asked.check} check: answers again", Kind.CHECK_PASSED, asked)

    def _say(self, level: int, text: str, kind: Kind, asked: Asked) -> None:
        if self._clock() - self._since > _WINDOW:
            self.flush()
            self._since, self._told = self._clock(), 0
        self._told += 1
        if self._told > _ONE_BY_ONE:
            self._more += 1
            return
        log.log(level, "%s", text, extra=carrying(kind, (("VIP", str(asked.ip)), ("CHECK", asked.check))))

    def flush(self) -> None:
        """Tell of those that were only counted."""
        if self._more:
            text = f"and {self._more} more changes of checks within {_WINDOW:g} s; see dsr-agent status"
            log.warning("%s", text, extra=carrying(Kind.WARNED))
            self._more = 0
