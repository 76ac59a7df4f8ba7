"""How the report writes values: shares, counts, durations, intervals. A missing value is a dash."""

import math

from genre_jax.console import printable
from genre_jax.report.runs import finite

DASH = "–"


def text(value: object) -> str:
    """A text on one line, without control characters and marks that reorder it; a dash for None."""
    return DASH if value is None else printable(" ".join(str(value).split()))


def percent(value: object, digits: int = 1) -> str:
    """0.8437 → "84.4 %"; a dash for a missing value."""
    return f"{100 * known:.{digits}f} %" if math.isfinite(known := finite(value)) else DASH


def spread(value: object) -> str:
    """(0.984, 0.002) → "98.4 ± 0.2 %", the mean and the standard deviation; "98.4 %" without the latter."""
    mean, deviation = value if isinstance(value, tuple) else (None, None)
    if not math.isfinite(finite(deviation)):
        return percent(mean)
    return f"{percent(mean).removesuffix(' %')} ± {percent(deviation)}"


def signed(value: object) -> str:
    """0.0123 → "+1.2 %", -0.0123 → "−1.2 %"; a dash for a missing value."""
    return f"{100 * known:+.1f} %".replace("-", "−") if math.isfinite(known := finite(value)) else DASH


def signed_interval(value: object) -> str:
    """(-0.004, 0.021) → "−0.4 % to +2.1 %"; a dash for a missing value."""
    low, high = value if isinstance(value, tuple) else (None, None)
    return f"{signed(low)} to {signed(high)}" if math.isfinite(finite(low)) else DASH


def number(value: object, digits: int = 0) -> str:
    """8041219 → "8,041,219"; a dash for a missing value."""
    return f"{known:,.{digits}f}" if math.isfinite(known := finite(value)) else DASH


def decimal(value: object) -> str:
    """0.84371 → "0.844"; a dash for a missing value."""
    return number(value, 3)


def significant(value: object) -> str:
    """0.0123456 → "0.01235", 12 → "12"; a dash for a missing value."""
    return f"{known:.4g}" if math.isfinite(known := finite(value)) else DASH


def prefixed(value: object, unit: str = "", base: int = 1000) -> str:
    """1.23e9 → "1.23 G", with the prefixes of 1000, or of 1024 ("Ki"); a dash for a missing value."""
    known = finite(value)
    if not math.isfinite(known):
        return DASH
    prefixes = ("", "k", "M", "G", "T", "P") if base == 1000 else ("", "Ki", "Mi", "Gi", "Ti", "Pi")
    place = 0
    while abs(known) >= base and place < len(prefixes) - 1:
        known, place = known / base, place + 1
    return f"{known:.3g} {prefixes[place]}{unit}".strip() if known < 1000 else f"{known:,.0f} {prefixes[place]}{unit}".strip()


def size(value: object) -> str:
    """1288490189 → "1.2 GiB"; a dash for a missing value."""
    return prefixed(value, "B", 1024)


def interval(value: object) -> str:
    """(0.641, 0.933) → "64.1 % – 93.3 %"; a dash for a missing value."""
    low, high = value if isinstance(value, tuple) else (None, None)
    return f"{percent(low)} – {percent(high)}" if math.isfinite(finite(low)) else DASH


def duration(seconds: object) -> str:
    """5025 → "1 h 23 min"; a dash for a missing value."""
    known = finite(seconds)
    if not math.isfinite(known):
        return DASH
    whole = round(known)
    if whole < 60:
        return f"{known:.1f} s" if known < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def shorten(name: str, most: int = 26) -> str:
    """Return a class name of at most `most` characters for an axis."""
    return name if len(name) <= most else name[: most - 1] + "…"
