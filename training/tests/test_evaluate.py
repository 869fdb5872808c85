"""The metrics on a day small enough to count by hand."""

from dataclasses import replace

import numpy as np
import pytest

from training.features import Table
from training.model import Outputs
from training.scoring.evaluate import count_episodes, evaluate

ALARMS = [20, 21, 22, 40, 51, 52]
"""Minutes: a false episode of three, one more, and an event's second and third sample."""


def answers() -> Outputs:
    """Given alarms and a forecast of 10 percent."""
    score = np.full(100, 0.1, dtype=np.float32)
    score[ALARMS] = 0.9
    return Outputs(score >= 0.5, score, np.full(100, 10.0, dtype=np.float32))


def make_table() -> Table:
    count = 100
    features = np.ones((count, 5), dtype=np.float32)
    features[:15] = np.nan
    event = np.full(count, -1)
    event[50:53], event[5] = 0, 1
    judged = np.ones(count, dtype=bool)
    judged[53] = False
    target = np.full(count, 12.0)
    target[-5:] = np.nan
    time = 60 * np.arange(count)
    return Table(features, np.full(count, 9.0), target, event, judged, time, np.zeros(count, dtype=np.int64))


def test_metrics_by_hand() -> None:
    found = evaluate(answers(), make_table(), episode_gap=300)
    assert (found.rows, found.events) == (85, 2)
    assert found.event_recall == 0.5, "the event in the warm-up counts as missed"
    assert found.median_delay_minutes == 1.0
    assert found.false_samples_per_pod_day == pytest.approx(4 / (85 / 1440))
    assert found.false_episodes_per_pod_day == pytest.approx(2 / (85 / 1440))
    assert (found.forecast_mae, found.forecast_mae_naive, found.forecast_mae_baseline) == (2.0, 3.0, 11.0)
    assert found.base_rate == pytest.approx(3 / 84)


def test_episodes_are_counted_for_each_series() -> None:
    table = make_table()
    alarm = np.zeros(100, dtype=bool)
    alarm[[20, 25, 31]] = True
    assert count_episodes(table, alarm, 300) == 2
    assert count_episodes(table, alarm, 299) == 3
    split = replace(table, series=(np.arange(100) >= 25).astype(np.int64))
    assert count_episodes(split, alarm, 600) == 2


def test_day_without_events_is_refused() -> None:
    with pytest.raises(ValueError, match="needs CPU events"):
        evaluate(answers(), replace(make_table(), event=np.full(100, -1)), 300)
