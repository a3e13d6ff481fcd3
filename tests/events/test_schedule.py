"""When sources are due: spans, cron in a time zone, staggered, and missed ticks once."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.errors import Misconfigured
from flowbed.events.schedule import SECOND, schedule, seconds_of

BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: ZoneInfo = BERLIN) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * SECOND)


def shown(time: int) -> str:
    return datetime.fromtimestamp(time / SECOND, BERLIN).strftime("%Y-%m-%d %H:%M")


def test_schedule_span_is_due_a_span_after_the_last_time() -> None:
    plan = schedule("s", every="6h", cron="", timezone="")
    assert plan.next(0) == 6 * 3_600 * SECOND
    assert 0 <= plan.due(0) - plan.next(0) < 60 * SECOND


@pytest.mark.parametrize(
    ("cron", "last", "next_"),
    [
        ("30 2 * * *", "2026-03-28 12:00", "2026-03-29 03:00"),  # 02:30 does not exist on that day
        ("30 2 * * *", "2026-10-24 12:00", "2026-10-25 02:30"),
        ("0 7 * * 1-5", "2026-11-27 08:00", "2026-11-30 07:00"),  # a Friday, and the Monday after it
        ("0 7 * * SUN", "2026-11-27 08:00", "2026-11-29 07:00"),
        ("@daily", "2026-11-27 08:00", "2026-11-28 00:00"),
    ],
)
def test_schedule_cron_follows_its_time_zone(cron: str, last: str, next_: str) -> None:
    plan = schedule("s", every="", cron=cron, timezone="Europe/Berlin")
    assert shown(plan.next(at(last))) == next_


def test_schedule_cron_hour_that_comes_twice_is_one_tick() -> None:
    """On the day on which clocks go back, a daily tick comes once."""
    plan = schedule("s", every="", cron="30 2 * * *", timezone="Europe/Berlin")
    first = plan.next(at("2026-10-24 12:00"))
    assert shown(plan.next(first)) == "2026-10-26 02:30"


def test_schedule_sources_of_one_time_are_staggered_and_each_stays_where_it_is() -> None:
    due = {name: schedule(name, every="", cron="0 * * * *", timezone="").due(0) for name in "abcdefgh"}
    assert len(set(due.values())) == 8
    assert all(0 <= each - 3_600 * SECOND < 60 * SECOND for each in due.values())
    assert due["a"] == schedule("a", every="", cron="0 * * * *", timezone="").due(0)


@given(st.integers(0, 2**50), st.sampled_from(["7s", "45m", "6h", "2d"]))
def test_schedule_missed_ticks_are_one(last: int, every: str) -> None:
    """However long ago the last time was, a source is due once: after it was done, the next tick is in the future."""
    plan = schedule("s", every=every, cron="", timezone="")
    now = last + 1_000 * seconds_of(every) * SECOND
    assert plan.due(last) <= now < plan.due(now)


@pytest.mark.parametrize(
    ("every", "cron", "timezone", "said"),
    [
        ("6", "", "", "write it as 90s, 30m, 6h or 2d"),
        ("0h", "", "", "write it as"),
        ("6h", "* * * * *", "", "both every and cron"),
        ("", "0 0 30 2 *", "", "no time that ever comes"),
        ("", "0 0 31 4 *", "", "no time that ever comes"),
        ("", "every day", "", "write five fields"),
        ("", "0 0 * * *", "Berlin", "timezone 'Berlin' is unknown"),
        ("", "0 0 * * *", "../../etc", "is unknown"),
    ],
)
def test_schedule_invalid_setting_is_named(every: str, cron: str, timezone: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=said) as error:
        schedule("team", every=every, cron=cron, timezone=timezone)
    assert "[sources.team]" in str(error.value)


def test_schedule_without_a_time_zone_is_in_utc() -> None:
    plan = schedule("s", every="", cron="0 7 * * *", timezone="")
    assert datetime.fromtimestamp(plan.next(0) / SECOND, UTC).hour == 7
