"""Bytes and words: commands, answers, sense data, keys."""

from __future__ import annotations

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from btw_scsi_pr import cdb, sense
from btw_scsi_pr.cdb import Capabilities, In, Keys, Out, Registration, Reservation
from btw_scsi_pr.key import LAST_TERM, key, name, parts, shown
from btw_scsi_pr.sense import Reply
from btw_scsi_pr.sgio import _Header

NAMES = st.text(min_size=1, max_size=20)
TERMS = st.integers(1, LAST_TERM)


# ---- keys
@given(NAMES, NAMES, TERMS)
def test_a_key_says_who_and_under_which_term(cluster: str, node: str, term: int) -> None:
    """64 bits, the first hex digit is not 0, and it is taken apart again."""
    number = int(key(cluster, node, term))
    assert len(f"{number:x}") == 16
    found = parts(number)
    assert found == key(cluster, node, term)
    assert (found.term, name(found.node, ["another", node])) == (term, node)


@given(NAMES, NAMES, NAMES, TERMS, TERMS)
def test_keys_of_two_terms_differ(cluster: str, one: str, two: str, first: int, second: int) -> None:
    """Also where the hashes of two names are the same."""
    if first != second:
        assert int(key(cluster, one, first)) != int(key(cluster, two, second))


def test_keys_stay_the_same() -> None:
    """A new release has to know the keys of the one before: node and cluster hash as ever."""
    assert shown(int(key("lab", "n2", 7))) == "0x882ab3cb00000007"


def test_a_term_without_room_is_refused() -> None:
    """One that is none as well."""
    for term in (0, -1, LAST_TERM + 1):
        with pytest.raises(ValueError, match="has no room"):
            key("c", "n", term)
    assert name(0x1F, []) == "of number 001f"


# ---- commands
def test_commands_as_bytes() -> None:
    """SPC-4 6.15 and 6.16, byte by byte."""
    assert cdb.reserve_in(In.READ_FULL_STATUS, 0x1234).hex() == "5e030000000000123400"
    command, listed = cdb.reserve_out(Out.PREEMPT_AND_ABORT, 5, 0x1122334455667788, 0x99, persist=True)
    assert command.hex() == "5f050500000000001800"
    assert listed.hex() == "1122334455667788" "0000000000000099" "00000000" "01" "000000"
    assert Out.REGISTER_AND_IGNORE.words == "REGISTER AND IGNORE"


def test_the_header_of_sg_io_is_that_of_the_kernel() -> None:
    """sizeof(struct sg_io_hdr) on 64 bits, and where its pointers and results are."""
    if ctypes.sizeof(ctypes.c_void_p) == 8:
        assert ctypes.sizeof(_Header) == 88
        assert (_Header.dxferp.offset, _Header.status.offset, _Header.resid.offset) == (16, 64, 72)


def answer(body: bytes, generation: int = 3) -> bytes:
    return struct.pack(">II", generation, len(body)) + body


def test_answers() -> None:
    """Keys, the holder, what a disk can, and the lines of full status with the initiator's name."""
    assert cdb.keys(answer(struct.pack(">QQ", 7, 8))) == Keys(3, (7, 8))
    assert cdb.keys(answer(b"")) == Keys(3, ())
    assert cdb.reservation(answer(b"")) is None
    assert cdb.reservation(answer(struct.pack(">Q4xxB2x", 9, 0x05))) == Reservation(9, 5)
    every = frozenset({1, 3, 5, 6, 7, 8})
    assert cdb.capabilities(bytes([0, 8, 1, 0x80, 0xEA, 0x01, 0, 0])) == Capabilities(True, every)
    assert cdb.capabilities(bytes([0, 8, 0, 0, 0, 0, 0, 0])) == Capabilities(False, None)
    iscsi = bytes([0x45, 0, 0, 28]) + b"iqn.2026-11.lab:n2,i,0x23d00".ljust(28, b"\0")
    lines = struct.pack(">Q4xBB4xHI", 7, 1, 5, 1, len(iscsi)) + iscsi + struct.pack(">Q4xBB4xHI", 8, 0, 5, 2, 0)
    found = cdb.full_status(answer(lines))
    assert found == (Registration(7, True, 5, 1, "iqn.2026-11.lab:n2,i,0x23d00"), Registration(8, False, 0, 2, ""))


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        (bytes([0, *[0] * 7, *range(0x10, 0x18), *[0] * 8]), "fc 10:11:12:13:14:15:16:17"),
        (bytes([6, 0, 0, 0, *range(0x50, 0x58), *[0] * 12]), "sas 5051525354555657"),
        (bytes([0x0F, 0, 0, 0, 0xAB, 0, 0, 0]), "protocol 15: ab"),
    ],
)
def test_initiators(transport: bytes, words: str) -> None:
    """As people know them (SPC-4 7.6.4)."""
    line = struct.pack(">Q4xBB4xHI", 7, 0, 0, 1, len(transport)) + transport
    assert cdb.full_status(answer(line))[0].initiator == words


@pytest.mark.parametrize("parse", [cdb.keys, cdb.reservation, cdb.capabilities, cdb.full_status])
def test_an_answer_that_is_cut_off_is_refused(parse: object) -> None:
    """And not taken for one without keys."""
    assert callable(parse)
    with pytest.raises(ValueError, match="bytes"):
        parse(b"\0\0\0")
    if parse is not cdb.capabilities:
        with pytest.raises(ValueError, match="more registrations than have room"):
            parse(struct.pack(">II", 1, 24) + b"\0" * 8)


@given(st.binary(max_size=200))
def test_no_answer_breaks_it(data: bytes) -> None:
    """Whatever a disk says: it is understood, or refused as too short."""
    for parse in (cdb.keys, cdb.reservation, cdb.capabilities, cdb.full_status):
        try:
            parse(data)
        except ValueError as error:
            assert "bytes" in str(error)


# ---- sense data
@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=96))
def test_whatever_comes_back_has_words(status: int, host: int, driver: int, data: bytes) -> None:
    """And only GOOD without trouble on the way is good."""
    reply = Reply(status, host, driver, data)
    assert sense.words(reply)
    assert sense.good(reply) == (status == 0 and host == 0)
    assert not (sense.good(reply) and (sense.again(reply) or sense.conflict(reply) or sense.lost(reply)))


FIXED = bytes([0xF0, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0])


@pytest.mark.parametrize(
    ("reply", "words", "again", "conflict", "lost"),
    [
        (Reply(2, sense=FIXED), "unit attention, power on, reset or bus device reset", True, False, False),
        (Reply(2, sense=bytes([0x72, 6, 0x2A, 3])), "unit attention, reservations preempted", True, False, False),
        (Reply(2, sense=bytes([0x72, 2, 4, 0xC])), "not ready, path unavailable", True, False, True),
        (Reply(2, sense=bytes([0x72, 5, 0x99, 0x98])), "illegal request, 99h/98h", False, False, False),
        (Reply(2), "check condition", False, False, False),
        (Reply(0x18), "reservation conflict", False, True, False),
        (Reply(0x18, host=0x11), "reservation conflict", False, True, False),
        (Reply(0x28), "task set full", True, False, False),
        (Reply(0, host=1), "no connection", False, False, True),
        (Reply(0, host=3), "timed out", False, False, True),
        (Reply(0, host=0x0D), "requeued", True, False, True),
        (Reply(0, host=0x77), "host status 77h", False, False, True),
    ],
)
def test_what_it_means(reply: Reply, words: str, again: bool, conflict: bool, lost: bool) -> None:
    """In words, and what is done about it."""
    assert sense.words(reply) == words
    assert (sense.again(reply), sense.conflict(reply), sense.lost(reply)) == (again, conflict, lost)
