"""The referee's judgement, on made-up reports. That it bites on machines is in test_vm_lab.py."""

from __future__ import annotations

import pytest

from vm.referee import Report, overlaps, spans


def active(node: str, first: float, last: float, *, life: str = "", error: float = 0.001) -> list[Report]:
    """Reports every 20 ms, both ends included."""
    count = round((last - first) / 0.02)
    return [Report("svc", node, life or node, first + index * 0.02, error) for index in range(count + 1)]


def test_one_after_the_other_is_no_overlap() -> None:
    """A failover and the way back: three spans, nothing to say."""
    reports = active("n1", 0, 5) + active("n2", 5.1, 8) + active("n1", 8.1, 9, life="again")
    assert [span.node for span in spans(reports)] == ["n1", "n2", "n1"]
    assert overlaps(reports) == []


@pytest.mark.parametrize("order", [1, -1])
def test_both_at_a_time_is_one(order: int) -> None:
    """Two at a time are found in whatever order reports arrive, with since when and how long."""
    reports = (active("n1", 0, 5) + active("n2", 4, 8))[::order]
    (found,) = overlaps(reports)
    assert found.since == pytest.approx(4)
    assert found.seconds == pytest.approx(1, abs=0.01)


def test_one_report_in_the_midst_of_another_span() -> None:
    """A machine that was frozen while another took over, and acts once when it wakes: that is two."""
    reports = active("n1", 0, 5) + active("n2", 40, 60) + active("n1", 50, 50)
    (found,) = overlaps(reports)
    assert (found.since, found.a.node, found.b.node) == (50, "n2", "n1")


def test_frozen_is_not_active() -> None:
    """A machine that stood still for all of the other's time was not active in it."""
    reports = active("n1", 0, 5) + active("n2", 10, 20) + active("n1", 30, 35)
    assert overlaps(reports) == []


def test_within_the_error_of_clocks_nothing_is_claimed() -> None:
    """What clocks cannot tell apart is not called an overlap."""
    assert overlaps(active("n1", 0, 5, error=0.01) + active("n2", 4.99, 8, error=0.01)) == []
    assert overlaps(active("n1", 0, 5, error=0.01) + active("n2", 4.97, 8, error=0.01)) != []


def test_two_reporters_of_one_machine() -> None:
    """Twice on one machine is two as well."""
    assert overlaps(active("n1", 0, 5) + active("n1", 2, 3, life="other")) != []
