"""One text names a source of data; `prepare` reads it and splits it by time into what trains and what tests."""

import os
import tomllib
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import parse_qsl

from training.config import Config
from training.data import injected, nezha, prometheus, rows, synthetic
from training.data.days import DataError, Day, contents, iso
from training.features import series_features
from training.told import Told, nobody

FORMS = """\
  nezha:DIR                                     the Nezha days, or the folder that holds them as nezha/
  prometheus:http://host:9090?days=14           a Prometheus server
  rows:s3://bucket/prefix?days=14, rows:DIR     feature rows that the collector wrote
  synthetic:?days=14&seed=0&drift_day=10        generated
Options, after ? with & between:
  all but nezha   days=14  share=0.8 of the time trains
  prometheus, rows   end=2026-01-31T00:00:00Z (default: now)
                     inject=auto|on|off: faults that are made (auto: where fewer than 10 are labelled)
  prometheus   step=60  timeout=60  token_file=FILE (or PROMETHEUS_TOKEN)  queries=FILE.toml
               or each by itself, percent-encoded: cpu= memory= disk_io= faults= labels=namespace,pod
  synthetic   seed=0  pods=6  start=2026-01-05  drift_day=N  drift=level,limits,persistence
               kinds=cpu_stress,cpu_step,memory_leak,disk_storm  weekend=0.6 of the load of other days"""
FEWEST_LABELLED = 10
"""Fewer, as of a chaos experiment now and then, would leave one or two to test with: others are injected as well."""
CONTINUOUS = {"days", "share"}
STORED = CONTINUOUS | {"end", "inject"}
OPTIONS = {
    "nezha": set(),
    "prometheus": STORED | {"step", "timeout", "token_file", "queries", "cpu", "memory", "disk_io", "faults", "labels"},
    "rows": STORED,
    "synthetic": CONTINUOUS | {"seed", "pods", "start", "drift_day", "drift", "kinds", "weekend"},
}


@dataclass(frozen=True)
class Source:
    """A source that was understood and not yet read.

    Attributes:
        kind: `nezha`, `prometheus`, `rows` or `synthetic`.
        where: Its address: a folder, a URL or nothing.
        options: What stood after `?`.
    """

    kind: str
    where: str
    options: dict[str, str]

    def read(self, config: Config, told: Told = nobody) -> list[Day]:
        """Reads all of it: each Nezha day, or one day that lasts as long as the others' time.

        Raises:
            DataError: It cannot be read, or an option's value makes no sense.
        """
        return {"nezha": _nezha, "prometheus": _prometheus, "rows": _rows, "synthetic": _synthetic}[self.kind](
            self, config, told
        )

    def last(self, days: int) -> "Source":
        """The same source, cut to its last days where it is one of time."""
        return replace(self, options={**self.options, "days": str(days)}) if "end" in OPTIONS[self.kind] else self

    def number(self, name: str, default: float, least: float, most: float = 1e12) -> float:
        """An option that is a number.

        Raises:
            DataError: It is none, or not between `least` and `most`.
        """
        text = self.options.get(name)
        try:
            value = default if text is None else float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            msg = f"{self.kind}: {name}={text} is not a number from {least:g} to {most:g}"
            raise DataError(msg)
        return value


@dataclass(frozen=True)
class Prepared:
    """What trains and what tests. No sample of a training day lies in the window of a test row's features.

    Attributes:
        train: Days to fit and calibrate on.
        test: Days that the models must not have seen.
        notes: What was done to the data, one sentence each, those of the days included.
    """

    train: list[Day]
    test: list[Day]
    notes: list[str] = field(default_factory=list)


def open_source(text: str) -> Source:
    """Understands the text of a source; reads nothing.

    Raises:
        DataError: No such form or option; lists those that there are.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in OPTIONS:
        msg = f"{text!r} is no source of data: give one of\n{FORMS}"
        raise DataError(msg)
    where, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(options) - OPTIONS[kind]):
        msg = f"{kind}: no option {unknown[0]}: give one of\n{FORMS}"
        raise DataError(msg)
    if bool(where) is (kind == "synthetic"):
        msg = (
            f"{text!r}: {'synthetic: has no address' if where else f'{kind}: lacks its address'}: give one of\n{FORMS}"
        )
        raise DataError(msg)
    return Source(kind, where, options)


def prepare(text: str, config: Config, told: Told = nobody) -> Prepared:
    """Reads a source and splits it.

    Nezha is split by its days: `config.train_day` trains, `config.holdout_days` test. All others are split by time, see
    `split`; where few or no faults are labelled, others are injected first (`injected.py`), unless `inject=off`.

    Raises:
        DataError: The text, the data or an option is not usable.
    """
    source = open_source(text)
    share, mode = source.number("share", 0.8, 0.1, 0.95), source.options.get("inject", "auto")
    if mode not in ("auto", "on", "off"):
        msg = f"{source.kind}: inject={mode} is none of auto, on and off"
        raise DataError(msg)
    days = source.read(config, told)
    if source.kind == "nezha":
        return Prepared(days[:1], days[1:], [f"{d.name}: {n}" for d in days for n in d.notes])
    if source.kind != "synthetic" and (mode == "on" or (mode == "auto" and not _labelled(days))):
        told("injecting faults into quiet stretches")
        days = [injected.inject(day, config) for day in days]
    told("splitting by time")
    return split(days[0], config, share)


def _labelled(days: list[Day]) -> bool:
    return sum(fault.labelled_channel is not None for day in days for fault in day.faults) >= FEWEST_LABELLED


def split(day: Day, config: Config, share: float) -> Prepared:
    """Splits continuous data by time: train | a gap of one feature window | test.

    `share` of the time without the gap trains. Features of test rows are computed here, from the gap and the test rows,
    so that they look back into the gap and never into training; the gap's own rows are then dropped. Features that the
    source brought are kept: they looked back no further than a window either. A fault belongs to each side whose rows
    its window holds; a pod that lives only in the gap is in neither.

    Raises:
        DataError: There is less time than four windows, or a side has no rows.
    """
    first, last = day.span
    gap = config.features.window_seconds
    if last - first < 4 * gap:
        msg = f"{day.name}: {(last - first) / 3600:.1f} h are too few to split: give {4 * gap / 3600:g} h or more"
        raise DataError(msg)
    cut = first + int(share * (last - first - gap))
    train = part(day, first, cut, "train", config)
    test = part(day, cut + gap, last + 1, "test", config, context=gap)
    dropped = day.rows - train.rows - test.rows
    note = (
        f"train: {iso(first)} to {iso(cut)}, {train.rows} rows, {len(train.faults)} faults; "
        f"test: from {iso(cut + gap)}, {test.rows} rows, {len(test.faults)} faults; "
        f"{dropped} rows of the {gap / 3600:g} h between are dropped"
    )
    return Prepared([train], [test], [*day.notes, note])


def part(day: Day, begin: int, end: int, name: str, config: Config, *, context: int = 0) -> Day:  # noqa: PLR0913
    """The rows of `[begin, end)`; with `context`, features from that many seconds before them on."""
    series = []
    for one in day.series:
        low, start, stop = (int(i) for i in one.time.searchsorted([begin - context, begin, end]))
        if start == stop:
            continue
        seen = replace(one, time=one.time[low:stop], values=one.values[low:stop])
        features = None if one.features is None else one.features[start:stop]
        if context and features is None:
            features = series_features(seen, config.features)[start - low :]
        series.append(replace(one, time=one.time[start:stop], values=one.values[start:stop], features=features))
    if not series:
        msg = f"{day.name}: no rows to {name} with from {iso(begin)} to {iso(end)}: ask for more days"
        raise DataError(msg)
    spans = {s.name: (int(s.time[0]), int(s.time[-1])) for s in series}
    faults = [f for f in day.faults if f.pod in spans and _overlap(f.window(config.labels), spans[f.pod])]
    return replace(
        day,
        name=f"{name} {iso(min(s[0] for s in spans.values()))[:16]}",
        notes=[],
        **contents(series, faults),
    )


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def fingerprint(days: list[Day]) -> str:
    """SHA-256 over the sorted content hashes of days and faults: the same data, wherever it lies, in any order."""
    lines = sorted(f"{day.sha256} {day.faults_sha256}\n" for day in days)
    return sha256("".join(lines).encode()).hexdigest()


def _nezha(source: Source, config: Config, told: Told) -> list[Day]:
    folder = Path(source.where).expanduser()
    folder = folder / "nezha" if (folder / "nezha").is_dir() else folder
    days = []
    for name in (config.train_day, *config.holdout_days):
        told(f"reading {name}")
        days.append(nezha.read_day(folder, name, config.labels))
    return days


def _span(source: Source) -> tuple[int, int]:
    """First and last second asked for."""
    text = source.options.get("end")
    try:
        at = datetime.now(UTC) if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        msg = f"{source.kind}: end={text} is no time: write it as 2026-01-31T00:00:00Z"
        raise DataError(msg) from error
    end = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    return end - int(source.number("days", 14, 0.01, 3650) * 86_400), end


def _prometheus(source: Source, config: Config, told: Told) -> list[Day]:
    server = prometheus.Server(source.where, _token(source), timeout=source.number("timeout", 60, 0.1, 3600))
    begin, end = _span(source)
    step = int(source.number("step", 60, 1, 3600))
    return [prometheus.read(server, _queries(source), config, begin=begin, end=end, step=step, told=told)]


def _token(source: Source) -> str:
    """The bearer token from `token_file` or `PROMETHEUS_TOKEN`; empty if there is none."""
    path = source.options.get("token_file")
    if path is None:
        return os.environ.get("PROMETHEUS_TOKEN", "").strip()
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        msg = f"prometheus: token_file={path} cannot be read: {error.strerror}"
        raise DataError(msg) from error


def _queries(source: Source) -> prometheus.Queries:
    """The queries from a TOML file and single options, which win."""
    known = {f.name for f in fields(prometheus.Queries)}
    given: dict[str, object] = {}
    if path := source.options.get("queries"):
        try:
            given = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"prometheus: queries={path} is no TOML file that can be read: {error}"
            raise DataError(msg) from error
        if unknown := sorted(set(given) - known):
            msg = f"prometheus: {path} has no use for {unknown[0]}: give {', '.join(sorted(known))}"
            raise DataError(msg)
    given |= {name: source.options[name] for name in known & set(source.options)}
    labels = given.get("labels", ("namespace", "pod"))
    given["labels"] = tuple(labels.split(",") if isinstance(labels, str) else labels)
    return prometheus.Queries(**given)


def _rows(source: Source, config: Config, told: Told) -> list[Day]:
    begin, end = _span(source)
    return [rows.read(source.where, config, begin=begin, end=end, told=told)]


def _synthetic(source: Source, config: Config, told: Told) -> list[Day]:
    told("making synthetic data")
    days = int(source.number("days", 14, 2, 365))
    drift = int(source.number("drift_day", -1, -1, days - 1))
    start = source.options.get("start", "2026-01-05")
    try:
        datetime.fromisoformat(start)
    except ValueError as error:
        msg = f"synthetic: start={start} is no date: write it as 2026-01-05"
        raise DataError(msg) from error
    seeded = replace(config, seed=int(source.number("seed", config.seed, 0)))
    pods = int(source.number("pods", 6, 1, 1000))
    changes = _some_of(source, "drift", synthetic.DRIFTS, default="level")
    faults = _some_of(source, "kinds", synthetic.KINDS, default=",".join(synthetic.KINDS))
    at = None if drift < 0 else drift
    weekend = source.number("weekend", synthetic.WEEKEND, 0.01, 10)
    fleet = {"days": days, "pods": pods, "start": start, "weekend": weekend}
    return [synthetic.make_weeks(seeded, drift_day=at, drift=changes, kinds=faults, **fleet)]


def _some_of(source: Source, name: str, known: tuple[str, ...], default: str) -> tuple[str, ...]:
    """An option that lists some of what is known, with commas between."""
    given = tuple(source.options.get(name, default).split(","))
    if unknown := sorted(set(given) - set(known)):
        msg = f"{source.kind}: {name}={','.join(unknown)}: give some of {','.join(known)}"
        raise DataError(msg)
    return given
