"""What the self-test's packets have added to the tunnels' counts, where no guard tells them apart."""

from __future__ import annotations

from dsr_agent.service.ledger import Probes
from dsr_agent.state.count import Count


def test_a_tunnel_that_left_the_file_takes_its_count_with_it() -> None:
    """Should one of that name come back, its link counts from 0, and nothing may be taken off that."""
    probes = Probes()
    probes.take("stays", Count(1, 48))
    probes.take("goes", Count(1, 48))

    probes.keep(["stays"])
    probes.give_back("goes", Count(1, 48))  # it was under way

    assert probes.own == {"stays": Count(1, 48)}
