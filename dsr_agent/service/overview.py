"""What is known of this host, put together from one `Report` after the other. Pure values; safe to hand to a thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dsr_agent.service.subjects import looked_at
from dsr_agent.state.model import Desired, Key, Observed
from dsr_agent.state.report import Report


@dataclass(frozen=True, slots=True)
class Overview:
    """
    The last look at everything.

    *undone* is all that was not as the file says when it was last looked at, each with the reasons; empty means in
    sync. *fights* are the keys that somebody keeps undoing. *passes* counts the reports that this was made of.
    """

    desired: Desired = field(default_factory=Desired)
    observed: Observed = field(default_factory=Observed)
    undone: Mapping[Key, tuple[str, ...]] = field(default_factory=dict)
    fights: Mapping[Key, int] = field(default_factory=dict)
    passes: int = 0

    @property
    def in_sync(self) -> bool:
        """Whether there was a pass, and nothing is known to be other than the file says."""
        return self.passes > 0 and not self.undone

    def after(self, report: Report) -> Overview:
        """The overview with what *report* saw. Costs what the pass touched, not what there is."""
        undone = {key: texts for key, texts in self.undone.items() if not looked_at(key, report.scope)}
        return Overview(
            desired=report.desired,
            observed=self._observed(report),
            undone=undone | reasons(report),
            fights=report.fights,
            passes=self.passes + 1,
        )

    def _observed(self, report: Report) -> Observed:
        """A look at single VIPs shows neither links nor sysctls, and one that failed shows nothing at all."""
        if report.observed is None:
            return self.observed
        if report.scope.host:
            return report.observed
        return replace(self.observed, addresses=report.observed.addresses)


def reasons(report: Report) -> dict[Key, tuple[str, ...]]:
    """
    What *report* left undone, by key, with what is said about each.

    The second look decides: a step whose answer was lost and that was carried out all the same is not undone.
    """
    if report.in_sync:
        return {}
    found: dict[Key, dict[str, None]] = {}
    for problem in report.problems:
        found.setdefault(problem.key, {})[str(problem.error)] = None
    for action in report.remaining.actions:
        if action.key not in found:
            found[action.key] = {f"{action} ({action.why})": None}
    return {key: tuple(texts) for key, texts in found.items()}
