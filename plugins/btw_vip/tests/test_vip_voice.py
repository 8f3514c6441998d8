"""When an announcement may be sent, and when one is due."""

from __future__ import annotations

import os
from math import inf

from btw_vip import herald
from btw_vip.voice import AGAIN, BURST, DEFEND, LIVELY, Pulse, Voice

T = 30.0
PACE = 4.0
MAC, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"


def test_a_steady_pulse() -> None:
    """Right after a question, and for a short time; not for longer."""
    pulse = Pulse(100.0)
    for number in range(1, 10):
        now = 100.0 + number * PACE
        pulse.beat(now, T)
        assert pulse.lively(now, T)
    assert pulse.lively(now + LIVELY, T)
    assert not pulse.lively(now + LIVELY + 0.01, T)
    assert not pulse.lively(now + 0.26, 1.0)  # a quarter of a short timeout


def test_frozen() -> None:
    """After a gap longer than `timeout` the first question may be from before it, and so may what comes right behind
    it; the next one, a pace later, is from a manager that is awake and knows whether it holds the lock."""
    pulse = Pulse(100.0)
    pulse.beat(104.0, T)
    woke = 104.0 + T + 20.0
    assert not pulse.lively(woke, T)
    pulse.beat(woke, T)
    assert not pulse.lively(woke, T)
    pulse.beat(woke + 0.01, T)
    assert not pulse.lively(woke + 0.01, T)
    pulse.beat(woke + PACE, T)
    assert pulse.lively(woke + PACE, T)


def test_without_any_timeout() -> None:
    """A context without a deadline is no defect."""
    pulse = Pulse(100.0)
    pulse.beat(200.0, inf)
    assert pulse.lively(200.0, inf)


def test_again_then_refresh() -> None:
    """A second burst some seconds after the start, then one announcement per `refresh`."""
    voice = Voice(100.0)
    voice.heard(MAC)
    assert voice.due(100.0 + AGAIN - 0.01, MAC, 60.0) == 0
    assert voice.due(100.0 + AGAIN, MAC, 60.0) == BURST
    voice.spoke(106.0, MAC)
    assert voice.due(106.0 + 59.9, MAC, 60.0) == 0
    assert voice.due(106.0 + 60.0, MAC, 60.0) == 1
    assert voice.due(1e9, MAC, 0.0) == 0


def test_defence() -> None:
    """RFC 5227 2.4: at once, then at most once in DEFEND_INTERVAL."""
    voice = Voice(100.0)
    voice.spoke(110.0, MAC)
    voice.disputed = True
    assert voice.due(111.0, MAC, 60.0) == 1
    voice.spoke(111.0, MAC)
    voice.disputed = True
    assert voice.due(111.0 + DEFEND - 0.01, MAC, 0.0) == 0
    assert voice.due(111.0 + DEFEND, MAC, 0.0) == 1


def test_another_mac() -> None:
    """When the interface has got another MAC address everybody has to know."""
    voice = Voice(100.0)
    voice.spoke(110.0, MAC)
    assert voice.due(111.0, OTHER, 0.0) == BURST
    voice.spoke(111.0, OTHER)
    assert voice.due(112.0, OTHER, 0.0) == 0


def test_what_the_herald_sends() -> None:
    """The frame of an order that is fresh and from its own user; nothing else."""
    us = os.geteuid()
    order = herald.order(100.0, b"frame")
    assert herald.wanted(order, us, 100.0) == b"frame"
    assert herald.wanted(order, us, 100.0 + herald.STALE) == b"frame"
    for data, uid, now in (
        (order, us, 100.0 + herald.STALE + 0.01),
        (order, us, 99.9),
        (order, us + 1, 100.0),
        (order, -1, 100.0),
        (order[:8], us, 100.0),
        (b"", us, 100.0),
    ):
        assert herald.wanted(data, uid, now) == b""
