"""The block bootstrap draws whole blocks, covers what it promises where single rows do not, and pairs models."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from training.scoring.bootstrap import (
    Blocks,
    average_precision,
    difference,
    event_recall,
    interval,
    mean_absolute_error,
)

MINUTE = 60


def one_series(rows: int, seconds: int) -> Blocks:
    return Blocks(np.zeros(rows, dtype=np.int64), MINUTE * np.arange(rows), seconds)


def test_a_block_is_consecutive_and_goes_round() -> None:
    blocks = one_series(10, 10 * MINUTE - 3 * MINUTE)
    assert blocks.number == 1
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        drawn = blocks.draw(rng)
        assert drawn.sum() == 7
        assert set(drawn.tolist()) <= {0.0, 1.0}
        assert np.sum(drawn != np.roll(drawn, 1)) == 2, "one run on the circle"
        seen.add(tuple(drawn.tolist()))
    assert len(seen) == 10, "every row starts one"


def test_blocks_stay_in_their_series_whatever_the_order_of_rows() -> None:
    series = np.repeat([4, 2, 9], [50, 30, 5])
    time = np.concatenate([MINUTE * np.arange(50), MINUTE * np.arange(30), MINUTE * np.arange(5)])
    mix = np.random.default_rng(1).permutation(85)
    blocks = Blocks(series[mix], time[mix], 10 * MINUTE)
    rng = np.random.default_rng(2)
    total = np.zeros(85)
    for _ in range(4000):
        drawn = blocks.draw(rng)
        back = np.empty(85)
        back[mix] = drawn
        assert len(set(back[80:].tolist())) == 1, "a series shorter than a block is drawn whole"
        assert back[:50].sum() % 10 == 0
        assert back[50:80].sum() % 10 == 0
        total += back
    assert blocks.number == round(85 / ((80 * 10 + 5 * 5) / 85))
    assert np.ptp(total[:80]) < 0.15 * total[:80].mean(), "rows of long series are drawn equally often"


def test_gaps_shorten_blocks_because_they_are_by_time() -> None:
    time = MINUTE * np.concatenate([np.arange(20), 500 + np.arange(20)])
    blocks = Blocks(np.zeros(40, dtype=np.int64), time, 30 * MINUTE)
    assert (blocks._end[:20] == 20).all(), "none of the first twenty reaches over the gap"
    assert blocks._end[30] - 30 == 10 + 20, "ten to the end, twenty minutes more from the beginning"


def test_blocks_cover_where_single_rows_do_not() -> None:
    """Means of AR(0.9) noise, whose true difference is 0: 90 % intervals from blocks and from single rows."""
    rng = np.random.default_rng(5)
    rows, trials = 2000, 80
    covered = {MINUTE: 0, 100 * MINUTE: 0}
    for _ in range(trials):
        noise = rng.normal(size=rows + 200)
        for row in range(1, len(noise)):
            noise[row] += 0.9 * noise[row - 1]
        gap = noise[200:]
        metric = difference(
            mean_absolute_error(np.zeros(rows), 50 + gap), mean_absolute_error(np.zeros(rows), np.full(rows, 50.0))
        )
        for seconds in covered:
            found = interval(metric, one_series(rows, seconds), rounds=150)
            covered[seconds] += found.low <= 0 <= found.high
    assert covered[MINUTE] / trials < 0.5
    assert covered[100 * MINUTE] / trials > 0.75


def test_pairing_takes_out_what_models_share() -> None:
    rng = np.random.default_rng(0)
    target = 10 * rng.standard_t(3, size=3000)
    one, other = mean_absolute_error(target, np.full(3000, 0.5)), mean_absolute_error(target, np.zeros(3000))
    blocks = one_series(3000, 60 * MINUTE)
    both, single = interval(difference(one, other), blocks, rounds=300), interval(one, blocks, rounds=300)
    assert both.point == pytest.approx(one(np.ones(3000)) - other(np.ones(3000)))
    assert both.high - both.low < 0.2 * (single.high - single.low)
    assert both == interval(difference(one, other), blocks, rounds=300), "the seed fixes it"
    assert both != interval(difference(one, other), blocks, rounds=300, seed=1)
    assert interval(difference(one, one), blocks, rounds=20).high == 0


def test_metrics_count_rows_as_often_as_drawn() -> None:
    rng = np.random.default_rng(4)
    label, score = rng.random(500) < 0.1, np.round(rng.random(500), 1)
    times = rng.integers(0, 4, size=500)
    drawn = times.astype(float)
    expected = average_precision_score(np.repeat(label, times), np.repeat(score, times))
    assert average_precision(label, score)(drawn) == pytest.approx(expected)
    assert np.isnan(average_precision(label, score)(np.where(label, 0.0, 1.0)))

    target, forecast = rng.normal(size=500), rng.normal(size=500)
    target[::7] = np.nan
    expected = np.nanmean(np.abs(np.repeat(forecast, times) - np.repeat(target, times)))
    assert mean_absolute_error(target, forecast)(drawn) == pytest.approx(expected)

    event = np.full(500, -1)
    event[10:20], event[50:60], event[90:95] = 0, 1, 2
    alarm = np.zeros(500, dtype=bool)
    alarm[[18, 300, 92]] = True
    weights = np.zeros(500)
    assert np.isnan(event_recall(event, alarm)(weights))
    weights[[10, 50]] = 2, 3
    assert event_recall(event, alarm)(weights) == pytest.approx(2 / 5)
    assert event_recall(event, alarm)(np.ones(500)) == pytest.approx(2 / 3)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        one_series(0, 60)
    with pytest.raises(ValueError, match="blocks of 0 s"):
        one_series(5, 0)
    label = np.zeros(1000, dtype=bool)
    label[500] = True
    rare = average_precision(label, label.astype(float))
    with pytest.raises(ValueError, match="the metric is defined in 0 of 50 drawings"):
        interval(average_precision(np.zeros(1000, dtype=bool), label.astype(float)), one_series(1000, 600), rounds=50)
    with pytest.raises(ValueError, match="give more events or shorter blocks"):
        interval(lambda drawn: rare(drawn) if drawn[500] > 1 else float("nan"), one_series(1000, 600), rounds=50)
