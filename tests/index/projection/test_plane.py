"""Vectors in a plane, their groups, the names of these, and times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flowbed.index.projection.labels import FIELDS, names_of, place_of, seconds, times_of
from flowbed.index.projection.plane import COMPONENTS, fit, groups, nearest, scaled
from flowbed.index.search.times import KEYS


def clouds(number: int, each: int, dimensions: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors around `number` places, and the place of each."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(number, dimensions))
    own = np.repeat(np.arange(number), each)
    return (centres[own] + random.normal(scale=0.05, size=(number * each, dimensions))).astype(
        np.float32
    ), own


def test_fit_axes_are_those_of_a_singular_value_decomposition() -> None:
    vectors, _ = clouds(5, 40)
    axes = fit(vectors)
    centred = vectors - vectors.mean(axis=0)
    _, values, _ = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    shares = values**2 / (values**2).sum()
    assert axes.shares == pytest.approx(shares[:COMPONENTS], abs=1e-6)
    projected = axes.project(vectors)
    assert projected.dtype == np.float32
    assert projected.var(axis=0)[:4] == pytest.approx(values[:4] ** 2 / len(vectors), rel=1e-3)


def test_fit_same_rows_in_another_order_give_the_same_map() -> None:
    vectors, _ = clouds(4, 30)
    order = np.random.default_rng(2).permutation(len(vectors))
    assert fit(vectors[order]).project(vectors) == pytest.approx(fit(vectors).project(vectors), abs=1e-4)


@pytest.mark.parametrize(("rows", "dimensions"), [(1, 8), (2, 8), (3, 1), (40, 2)])
def test_fit_few_rows_or_dimensions_still_give_a_plane(rows: int, dimensions: int) -> None:
    """Also equal vectors, which have no axis."""
    vectors = np.ones((rows, dimensions), np.float32)
    axes = fit(vectors)
    positions = axes.project(vectors)
    assert np.isfinite(positions).all()
    assert np.isfinite(axes.shares).all()
    assert nearest(positions, groups(positions)).tolist() == [0] * rows


def test_groups_find_clouds_that_are_apart() -> None:
    vectors, own = clouds(6, 50)
    positions = fit(vectors).project(vectors)
    found = nearest(positions, groups(positions))
    # Each cloud is of one group, whose number of groups may be larger.
    for each in range(6):
        assert len(set(found[own == each].tolist())) <= 2
    assert len({tuple(sorted(set(found[own == each].tolist()))) for each in range(6)}) == 6


def test_scaled_points_keep_their_proportions_inside_the_box() -> None:
    found = scaled(np.array([[-2.0, 5.0], [2.0, 6.0], [0.0, 5.5]], np.float32))
    assert found.tolist() == [[0.0, 0.375], [1.0, 0.625], [0.5, 0.5]]
    assert scaled(np.ones((3, 2), np.float32)).tolist() == [[0.5, 0.5]] * 3


def test_names_of_groups_are_words_that_tell_them_apart() -> None:
    texts = ["the key rotation is due", "rotation of a key", "lunch menu of the day", "the lunch menu"] * 3
    assert names_of(texts, [0, 0, 1, 1] * 3, 2) == ["key, rotation, due", "lunch, menu, day"]
    assert names_of(["12 34", "@@"], [0, 1], 2) == ["group 1", "group 2"]
    assert names_of([], [], 0) == []


def test_names_of_groups_in_scripts_without_spaces_are_words_too() -> None:
    """Neither sentences, which no two texts share, nor endings and particles."""
    keys = ["会議室の鍵を紛失しました。総務部へ連絡します", "会議室のエアコンを修理しました。v2の連絡です"]
    menus = ["昼食のメニューはカレーです", "今日の昼食のメニューは何ですか"]
    assert names_of([*keys, *menus], [0, 0, 1, 1], 2) == ["会議, 連絡", "メニュー, 昼食"]
    thai = ["กุญแจถูกเปลี่ยนทุกวันจันทร์", "กุญแจหาย"]
    assert names_of([*thai, *menus], [0, 0, 1, 1], 2) == ["กุญแจ", "メニュー, 昼食"]


def test_place_of_values_beyond_the_most_are_others() -> None:
    places, names = place_of(["b", "a", "a", "c", "d"], 3)
    assert names == ["a", "b", "others"]
    assert places.tolist() == [1, 0, 0, 2, 2]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, 1_700_000_000),
        (1_700_000_000_123, 1_700_000_000.123),
        (1_700_000_000_123_456, 1_700_000_000.123456),
        ("1700000000.5", 1_700_000_000.5),
        ("2026-11-30T00:00:00Z", 1_796_000_000 - 3_200),
        ("2026-11-30", 1_796_000_000 - 3_200),
        ("Monday", math.nan),
        (2026, math.nan),
        (True, math.nan),
        (None, math.nan),
        (-5, math.nan),
        (float("inf"), math.nan),
        (10**400, math.nan),
        ("9999-12-31T23:59:59+00:00", 253_402_300_799),
        ("0001-01-01", -62_135_596_800),
    ],
)
def test_seconds_of_a_value(value: object, expected: float) -> None:
    found = seconds(value)
    assert math.isnan(found) if math.isnan(expected) else found == pytest.approx(expected)


def test_times_of_chats_are_those_that_searches_order_by() -> None:
    """So are the times of every other source."""
    _, times = times_of([{"first_ts": 1.7e9, "last_ts": 1.7e9 + 60}] * 2)
    assert times is not None
    assert (times.field, times.first) == ("last_ts", 1.7e9 + 60)
    assert set(KEYS) <= set(FIELDS)


def test_times_of_rows_are_of_the_field_that_most_have() -> None:
    rows = [{"ts": 1.7e9 + n, "date": "2020-01-01"} for n in range(3)] + [{}]
    found, times = times_of(rows)
    assert times is not None
    assert (times.field, times.first, times.last) == ("ts", 1.7e9, 1.7e9 + 2)
    assert math.isnan(found[3])
    assert times_of([{"ts": 1.7e9}, {}, {}])[1] is None
    assert times_of([])[1] is None
