from __future__ import annotations

import pytest

from creche.protocol.timers import NEVER, Timers, Verdict


def make_timers(
    ping_interval: float | None = 20,
    ping_timeout: float | None = 20,
    stall_timeout: float | None = 40,
    close_timeout: float = 10,
    linger_timeout: float = 120,
    message_timeout: float | None = 60,
) -> Timers:
    return Timers(
        *(0, ping_interval, ping_timeout, stall_timeout),
        *(close_timeout, linger_timeout, message_timeout),
    )


def ping(timers: Timers, now: float, delivered: int = 0, in_flight: int = 0) -> None:
    """A ping is due and sent."""
    assert timers.expired(now, delivered, in_flight) is Verdict.PING
    timers.expect_pong(now)


def test_a_quiet_peer_is_pinged_every_ping_interval() -> None:
    timers = make_timers()
    for now in (20, 40, 60):
        assert timers.next_timeout == now
        assert timers.expired(now - 1, 0, 0) is Verdict.NOTHING
        ping(timers, now)
        timers.all_answered()


def test_the_first_ping_may_come_sooner_by_half_the_interval_at_most() -> None:
    for part, first in ((0, 20), (0.5, 15), (1, 10)):
        timers = make_timers()
        timers.ping_sooner(part)
        for now in (first, first + 20):
            assert timers.next_timeout == now
            ping(timers, now)
            timers.all_answered()
    timers = make_timers(ping_interval=None)
    timers.ping_sooner(1)
    assert timers.next_timeout == NEVER


def test_a_peer_that_talks_is_not_pinged() -> None:
    timers = make_timers()
    timers.last_received = 15
    assert timers.expired(20, 0, 0) is Verdict.NOTHING
    assert timers.next_timeout == 35
    ping(timers, 35)


def test_a_peer_that_answers_nothing_is_dead_after_ping_timeout() -> None:
    timers = make_timers()
    ping(timers, 20)
    assert timers.expired(39.9, 0, 0) is Verdict.NOTHING
    assert timers.expired(40, 0, 0) is Verdict.DEAD
    assert "20 s" in timers.describe(Verdict.DEAD)


def test_any_byte_since_the_ping_counts_as_life() -> None:
    timers = make_timers()
    ping(timers, 20)
    timers.last_received = 21
    assert timers.expired(40, 0, 0) is Verdict.NOTHING
    assert timers.pong_due == NEVER
    ping(timers, 41)


def test_an_earlier_ping_keeps_its_deadline() -> None:
    timers = make_timers(ping_interval=10, ping_timeout=15)
    ping(timers, 10)
    timers.expect_pong(12)
    assert timers.pong_due == 25
    assert timers.expired(20, 0, 0) is Verdict.NOTHING  # no second keepalive ping meanwhile
    assert timers.expired(25, 0, 0) is Verdict.DEAD


def test_a_missing_pong_is_not_held_against_a_peer_that_we_do_not_read() -> None:
    timers = make_timers(ping_interval=100)
    timers.expect_pong(0)
    timers.set_paused(True, 5)
    assert timers.expired(20, 0, 0) is Verdict.NOTHING
    timers.set_paused(False, 30)
    assert timers.pong_due == 50
    assert timers.expired(50, 0, 0) is Verdict.DEAD


def test_pausing_without_a_ping_changes_no_deadline() -> None:
    timers = make_timers()
    timers.set_paused(True, 1)
    timers.set_paused(False, 2)
    assert timers.next_timeout == 20


def test_a_peer_that_takes_what_is_in_flight_is_alive_however_slow() -> None:
    timers = make_timers(ping_interval=100)
    ping(timers, 100, delivered=1000, in_flight=500)
    assert timers.expired(120, 1200, 300) is Verdict.NOTHING  # it takes
    assert timers.expired(140, 1500, 0) is Verdict.NOTHING  # it has just got to the ping
    assert timers.expired(160, 1500, 0) is Verdict.DEAD


def test_a_peer_whose_kernel_took_the_ping_is_dead_all_the_same() -> None:
    timers = make_timers()
    ping(timers, 20, delivered=1000, in_flight=0)
    assert timers.expired(40, 1006, 0) is Verdict.DEAD


def test_a_peer_that_takes_nothing_is_stalled_after_stall_timeout() -> None:
    timers = make_timers(ping_interval=None)
    assert not timers.is_watching_output()
    timers.output_waits(0, 100)
    assert timers.is_watching_output()
    for now in (10, 20, 30):
        assert timers.next_timeout == now
        assert timers.expired(now, 100, 50) is Verdict.NOTHING
    assert timers.expired(40, 100, 50) is Verdict.STALLED
    assert "40 s" in timers.describe(Verdict.STALLED)


def test_a_peer_that_takes_some_is_not_stalled() -> None:
    timers = make_timers(ping_interval=None)
    timers.output_waits(0, 100)
    assert timers.expired(30, 101, 50) is Verdict.NOTHING
    assert timers.expired(60, 101, 50) is Verdict.NOTHING
    assert timers.expired(70, 101, 50) is Verdict.STALLED


def test_once_all_is_taken_nothing_is_watched() -> None:
    timers = make_timers(ping_interval=None)
    timers.output_waits(0, 100)
    assert timers.expired(10, 150, 0) is Verdict.NOTHING
    assert timers.next_timeout == NEVER


def test_closing_and_the_end_have_deadlines_of_which_the_sooner_holds() -> None:
    timers = make_timers(ping_interval=None)
    timers.close_within(10, 0)
    timers.close_within(20, 0)
    timers.end_within(5, 0)
    assert timers.next_timeout == 5
    assert timers.expired(5, 0, 0) is Verdict.END
    assert timers.expired(5, 0, 0) is Verdict.NOTHING
    assert timers.expired(10, 0, 0) is Verdict.UNCLOSED
    assert "10 s" in timers.describe(Verdict.UNCLOSED)
    timers.end_within(5, 0)
    timers.end_taken()
    timers.stop()
    assert timers.next_timeout == NEVER


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("ping_interval", Verdict.PING),
        ("ping_timeout", Verdict.DEAD),
        ("stall_timeout", Verdict.STALLED),
        ("message_timeout", Verdict.UNFINISHED),
    ],
)
def test_a_deadline_that_is_turned_off_never_comes(name: str, verdict: Verdict) -> None:
    def verdicts(timers: Timers) -> set[Verdict]:
        seen = set()
        timers.message_began(0)
        if name != "ping_timeout":  # where our bytes are refused, the ping is not waited for
            timers.output_waits(0, 0)
        for now in range(0, 1000, 10):
            seen.add(timers.expired(now, 0, 1))
            if Verdict.PING in seen:
                timers.expect_pong(now)
        return seen

    assert verdict in verdicts(make_timers())
    options: dict[str, float | None] = {name: None}
    assert verdict not in verdicts(make_timers(**options))  # type: ignore[arg-type]


def test_a_ping_that_cannot_be_written_is_for_the_stall_timeout() -> None:
    timers = make_timers(ping_interval=1, ping_timeout=1, stall_timeout=40)
    timers.output_waits(0, 100)
    ping(timers, 1, 100, 50)
    assert [timers.expired(now, 100, 50) for now in (2, 10, 20, 30, 39)] == [Verdict.NOTHING] * 5
    assert timers.expired(40, 100, 50) is Verdict.STALLED


def test_pings_go_on_while_we_do_not_read() -> None:
    timers = make_timers()
    ping(timers, 20)
    timers.set_paused(True, 30)
    for now in (40, 60, 80, 1000):
        ping(timers, now)
    timers.set_paused(False, 1010)
    assert timers.expired(1020, 0, 0) is Verdict.NOTHING
    assert timers.expired(1030, 0, 0) is Verdict.DEAD


def test_a_message_must_be_finished_in_time() -> None:
    timers = make_timers(ping_interval=None, message_timeout=60)
    timers.message_began(5)
    assert timers.next_timeout == 65
    assert timers.expired(64, 0, 0) is Verdict.NOTHING
    assert timers.expired(65, 0, 0) is Verdict.UNFINISHED
    assert "message timeout" in timers.describe(Verdict.UNFINISHED)
    assert timers.next_timeout == NEVER


def test_a_message_has_no_less_time_because_we_do_not_read() -> None:
    timers = make_timers(ping_interval=None, message_timeout=60)
    timers.message_began(0)
    timers.set_paused(True, 20)
    assert timers.next_timeout == NEVER
    assert timers.is_watching_message()
    timers.set_paused(False, 1000)
    assert timers.next_timeout == 1040
    # One that begins while we do not read has all its time afterwards.
    timers.message_done()
    timers.set_paused(True, 1010)
    timers.message_began(1010)
    timers.set_paused(False, 2000)
    assert timers.next_timeout == 2060
    timers.message_done()
    assert not timers.is_watching_message()


def test_keepalive_can_be_changed() -> None:
    timers = make_timers()
    timers.last_received = 4
    timers.set_keepalive(5, 10, 3)
    assert timers.next_timeout == 14
    ping(timers, 14)
    assert timers.next_timeout == 17
    timers.set_keepalive(15, 10, 20)  # the ping that is under way has a new deadline, too
    assert timers.pong_due == 35
    assert timers.ping_due == 15
    timers.set_keepalive(15, None, None)
    assert timers.next_timeout == NEVER
