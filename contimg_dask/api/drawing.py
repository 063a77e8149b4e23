"""Where the parts of a plot lie, as numbers: pure. Templates draw them as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from contimg_dask.catalogue.recent import RecentGroup

WIDTH, HEIGHT = 640, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 8, 12, 24
_HOUR_S = 3600.0
_STEPS = ("wait", "rows", "parts", "reduce", "verify", "publish")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark of an axis, in pixels, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar in pixels; ``kind`` is its class, ``text`` is said of it."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point in pixels."""

    x: float
    y: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot of one day; ``said`` tells people who do not see it what it shows."""

    said: str
    bars: tuple[Bar, ...] = ()
    dots: tuple[Dot, ...] = ()
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    line_y: float | None = None
    line_text: str = ""


def hours_until(now_s: float, hours: int) -> list[float]:
    """Return when each of the last hours began, the present one last [s since 1970]."""
    last = math.floor(now_s / _HOUR_S) * _HOUR_S
    return [last - _HOUR_S * (hours - 1 - number) for number in range(hours)]


def throughput(recent: Iterable[RecentGroup], now_s: float, hours: int = 24) -> Plot:
    """Return groups with and without a product, per hour."""
    begins = hours_until(now_s, hours)
    done, lost = [0] * hours, [0] * hours
    for group in recent:
        number = int((group.finished_s - begins[0]) // _HOUR_S)
        if 0 <= number < hours:
            counts = done if group.state == "published" else lost
            counts[number] += group.state in ("published", "failed", "quarantined")
    top = nice(max(max(d + n for d, n in zip(done, lost, strict=True)), 4))
    width = (WIDTH - _LEFT - _RIGHT) / hours
    bars = []
    for number in range(hours):
        x, text = _LEFT + number * width + 1, clock(begins[number])
        low = _y(done[number], top)
        if done[number]:
            bars.append(
                _bar(x, low, width, _y(0, top), "done", f"{text}: {done[number]} published")
            )
        if lost[number]:
            high = _y(done[number] + lost[number], top)
            bars.append(_bar(x, high, width, low, "lost", f"{text}: {lost[number]} failed"))
    return Plot(
        said=f"Groups per hour of the last {hours} hours: {sum(done)} published, {sum(lost)} failed.",
        bars=tuple(bars),
        x_ticks=_x_ticks(begins),
        y_ticks=_y_ticks(top, ""),
    )


def latency(
    recent: Iterable[RecentGroup], now_s: float, *, limit_s: float, hours: int = 24
) -> tuple[Plot, bool]:
    """Return how long groups took, and whether that is live latency.

    Live latency runs from a group's last file to its product. Where no group has one, it is how long
    conversions took. ``limit_s`` is drawn as a line [s].
    """
    published = [group for group in recent if group.state == "published"]
    live = any(group.latency_s is not None for group in published)
    values = [
        (group, value)
        for group in published
        if (value := group.latency_s if live else group.total_s) is not None
    ]
    begins = hours_until(now_s, hours)
    seconds = [value for _, value in values]
    top = nice(max([*seconds, 1.0]))
    scale = (WIDTH - _LEFT - _RIGHT) / (hours * _HOUR_S)
    dots = tuple(
        Dot(
            x=_LEFT + (group.finished_s - begins[0]) * scale,
            y=_y(value, top),
            kind="late" if value > limit_s else "done",
            text=f"{group.id}: {value:.1f} s",
        )
        for group, value in values
        if group.finished_s >= begins[0]
    )
    what = "Live latency" if live else "Time of conversions"
    said = (
        f"{what}: nothing was published."
        if not seconds
        else (
            f"{what} of {len(seconds)} groups: half within {quantile(seconds, 0.5):.1f} s, 95 % within "
            f"{quantile(seconds, 0.95):.1f} s, all within {max(seconds):.1f} s."
        )
    )
    plot = Plot(
        said=said,
        dots=dots,
        x_ticks=_x_ticks(begins),
        y_ticks=_y_ticks(top, ""),
        line_y=_y(limit_s, top) if limit_s <= top else None,
        line_text=f"{limit_s:.0f} s",
    )
    return plot, live


def steps(seconds: dict[str, float]) -> Plot:
    """Return the steps of an attempt, one below the other, by how long each took.

    ``rows`` and ``parts`` begin together, when the waiting is over; each other step begins when the
    one before it has ended.
    """
    total = max(seconds.get("total", 0.0), 1e-3)
    scale = (WIDTH - 80 - _RIGHT) / total
    bars, at = [], 0.0
    for row, name in enumerate(step for step in _STEPS if step in seconds):
        took = seconds[name]
        begin = seconds.get("wait", 0.0) if name in ("rows", "parts") else at
        at = max(at, begin + took)
        x = 80 + min(begin, total) * scale
        width = max(min(took, total - min(begin, total)) * scale, 1.5)
        text = f"{name}: {took:.2f} s"
        bars.append(
            Bar(x=x, y=8 + row * 24.0, width=width, height=18, kind=f"step-{name}", text=text)
        )
    return Plot(said=f"Steps of an attempt of {total:.2f} s.", bars=tuple(bars))


def quantile(values: Sequence[float], part: float) -> float:
    """Return the least value that this part of all does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def nice(value: float) -> float:
    """Return the end of an axis that shows this value: 1, 2, 4, 5 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 5, 10) if value <= power * step * (1 + 1e-9))


def clock(moment_s: float) -> str:
    """Return hours and minutes, UTC."""
    return datetime.fromtimestamp(moment_s, tz=UTC).strftime("%H:%M")


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * min(value / top, 1.0)


def _bar(x: float, y: float, width: float, below: float, kind: str, text: str) -> Bar:
    return Bar(x=x, y=y, width=width - 2, height=max(below - y, 1.0), kind=kind, text=text)


def _x_ticks(begins: Sequence[float]) -> tuple[Tick, ...]:
    width = (WIDTH - _LEFT - _RIGHT) / len(begins)
    return tuple(
        Tick(at=_LEFT + number * width, text=clock(begin))
        for number, begin in enumerate(begins)
        if begin / _HOUR_S % 4 == 0
    )


def _y_ticks(top: float, unit: str) -> tuple[Tick, ...]:
    return tuple(Tick(at=_y(value, top), text=f"{value:g}{unit}") for value in (0, top / 2, top))
