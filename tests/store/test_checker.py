"""The history checker, for some seconds; ``python -m tests.checker`` runs for longer, with networks that are parted."""

from random import SystemRandom

import pytest

from ..checker.checking import check
from ..checker.faults import FAULTS
from ..checker.history import report

FAULTS_OF = {1: ("kill", "pause", "cut", "worker"), 3: ("kill", "pause", "stepdown", "cut", "worker")}


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.concurrent
@pytest.mark.timeout(300)
@pytest.mark.parametrize("servers", [1, 3])
def test_whatever_fails_what_clients_see_can_be(servers: int) -> None:
    seed = SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    history, complaints = check(6.0 * servers**0.5, servers, FAULTS_OF[servers], seed, longest=2.0)
    assert not complaints, report(history, complaints)
    print(report(history, complaints))
    assert {save.client for save in history.saves if save.stored} > {"admin"}
    assert history.reads
    assert history.faults


def test_all_faults_but_those_that_need_a_network_of_their_own_are_made_here() -> None:
    assert set(FAULTS) - {"partition"} == set(FAULTS_OF[3])
