"""From text or numbers to dates: one form a column, found from all its rows, never cell by cell."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from ..errors import near_matches, one_line
from .corpus import CorpusError
from .options import ReadingOptions

# Numbers at least this large are seconds, milliseconds, microseconds or nanoseconds since 1970 (from March 1973 on).
EPOCH_UNITS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
# Whole numbers that are written dates, by their number of digits.
COMPACT_FORMS = {14: "%Y%m%d%H%M%S", 12: "%Y%m%d%H%M", 10: "%Y%m%d%H", 8: "%Y%m%d", 6: "%Y%m", 4: "%Y"}
FORMS_WITH_NAMES = ("%d-%b-%y", "%d %b %y", "%d/%b/%Y", "%b-%y", "%b-%Y", "%b %Y", "%B %Y", "%Y-%b", "%Y %b", "%Y %B")

_TIME = (
    r"(?:(?:\s*T\s*|\s*,\s*|\s+)(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[AaPp])\.?[Mm]\.?)?\s*(?P<zone>Z|[+-]\d{2}:?\d{2}|[+-]\d{2})?)?"
)
_NUMBERS = r"(?P<first>\d{1,4})(?P<mark>[-/.])(?P<middle>\d{1,2})(?P=mark)(?P<third>\d{1,4})\.?" + _TIME
_HAS_ZONE = r"(?:T\d{2}|:\d{2}(?:[.,]\d+)?)(?:\s*[AaPp]\.?[Mm]\.?)?\s*(?:Z|[+-]\d{2}(?::?\d{2})?)$"
_QUARTER = r"(\d{4})\s?-?\s?[Qq]([1-4])"


def parse_dates(
    column: Any, *, name: str, place: str, lines: np.ndarray, options: ReadingOptions
) -> tuple[np.ndarray, bool] | None:
    """Read a column of dates, of numbers that write dates such as 20240131, or of seconds to nanoseconds since 1970.

    Args:
        column: pandas Series.
        name: Its name, for messages.
        place: The file, for messages.
        lines: (time,) line numbers, for messages.
        options: date_format and day_first.

    Returns:
        (time,) `datetime64[ms]`, and whether they are instants (universal time) and no local times; None where the
        numbers are plain step counts.

    Raises:
        CorpusError: A cell that is no date, or of another form than the others, naming its line; or dates that can be
            read in two ways.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    if pd.api.types.is_datetime64_any_dtype(column):
        parsed, is_instant = _without_zone(column)
    elif pd.api.types.is_numeric_dtype(column) and not options.date_format:
        numbers = _dates_of_numbers(column, name)
        if numbers is None:
            return None
        parsed, is_instant = numbers
    else:
        text = column.astype(object).map(_cell_text, na_action="ignore")
        parsed, is_instant = _dates_of_text(text, name, place, lines, options)
    values = parsed.to_numpy()
    bad = np.flatnonzero(np.isnat(values))
    if bad.size:
        raise CorpusError(
            f"{place}, line {lines[bad[0]]}, column {name!r}: {shown(column, int(bad[0]))} is not a date. Write dates "
            "as 2016-07-01 00:00:00, give their date_format, or name the right column with timestamp_column."
        )
    return values.astype("datetime64[ms]"), is_instant


def shown(column: Any, row: int) -> str:
    """Return a cell as a message shows it, without the type of NumPy."""
    cell = column.iloc[row]
    return repr(cell.item() if isinstance(cell, np.generic) else cell)


def _cell_text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell).strip()


def _without_zone(column: Any) -> tuple[Any, bool]:
    if getattr(column.dt, "tz", None) is None:
        return column, False
    return column.dt.tz_convert("UTC").dt.tz_localize(None), True


def _dates_of_numbers(column: Any, name: str) -> tuple[Any, bool] | None:
    """Return the dates that numbers write, or the instants that they count; None for plain step counts."""
    import pandas as pd

    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    observed = values[~np.isnan(values)]
    if not observed.size or not np.isfinite(observed).all():
        return None
    if (observed == np.floor(observed)).all() and observed.min() > 0:
        digits = {len(str(int(number))) for number in (observed.min(), observed.max())}
        form = COMPACT_FORMS.get(digits.pop()) if len(digits) == 1 else None
        is_short = form in ("%Y", "%Y%m")  # step numbers may look like these
        if form is not None and (not is_short or name.strip().lower() in ("date", "ds", "year", "month", "period")):
            text = pd.Series(pd.array(values, dtype="Int64")).astype("string")
            parsed = pd.to_datetime(text, format=form, errors="coerce", exact=True)
            years = parsed.dt.year[~np.isnan(values)]
            if years.notna().all() and years.between(1800, 2200).all():
                return parsed, False
    unit = next((unit for bound, unit in EPOCH_UNITS if np.abs(observed).max() >= bound), None)
    if unit is None:
        return None
    return pd.to_datetime(column, unit=unit, errors="coerce"), True


def _dates_of_text(text: Any, name: str, place: str, lines: np.ndarray, options: ReadingOptions) -> tuple[Any, bool]:
    """Return the dates of a column of text: by the form that was said, else by the one that fits every row."""
    zoned = text.str.contains(_HAS_ZONE, regex=True).eq(True).to_numpy(dtype=bool)
    if options.date_format is not None:
        has_zone = "%z" in options.date_format
        parsed = _to_datetime(text, options.date_format, has_zone)
        if parsed is None:
            raise CorpusError(f"date_format={options.date_format!r} is no form of dates; write such as '%d.%m.%Y'.")
        return (_without_zone(parsed)[0] if has_zone else parsed), has_zone
    if zoned.any() and not zoned.all():
        row = int(np.flatnonzero(zoned != zoned[0])[0])
        raise CorpusError(
            f"{place}, line {lines[row]}, column {name!r}: {text.iloc[row]!r} and {text.iloc[0]!r} do not both have "
            "an offset from universal time; give every date one, or none."
        )
    is_instant = bool(zoned.any())
    parsed = _to_datetime(text, "ISO8601", is_instant)
    if parsed is not None and parsed.notna().all() and (parsed.dt.year >= 1000).all():
        return (_without_zone(parsed)[0] if is_instant else parsed), is_instant
    dates = _dates_of_parts(text, name, place, lines, options, is_instant)
    if dates is None:
        dates = _dates_of_names(text, name, place, lines, is_instant)
    return dates, is_instant


def _to_datetime(text: Any, form: str, utc: bool) -> Any:
    """Return the dates, NaT where the form does not fit; None where it is no form."""
    import pandas as pd

    try:
        return pd.to_datetime(text, format=form, errors="coerce", utc=utc)
    except (ValueError, TypeError, OverflowError, KeyError):
        return None


def _dates_of_parts(
    text: Any, name: str, place: str, lines: np.ndarray, options: ReadingOptions, is_instant: bool
) -> Any:
    """Return the dates of three numbers a row, in the one order of day, month and year that fits all rows.

    Returns:
        The dates in universal time where they have an offset; None where there are other things than three numbers.
    """
    first_cell = str(text.iloc[0])
    match = re.fullmatch(_NUMBERS, first_cell)
    if match is None:
        return None
    orders = _orders(match, options)
    readings = {} if is_instant else _read_by_form(text, match, orders)
    if not any(dates.notna().all() for dates in readings.values()):  # slower: rows differ in how they write the time
        parts = text.str.extract(f"^{_NUMBERS}$")
        if parts["first"].isna().any():
            return None
        times = _time_of_day(parts)
        readings = {order: _calendar_of(parts, order) + times for order in orders}
    whole = {order: dates for order, dates in readings.items() if dates.notna().all()}
    if not whole:
        best = min(readings.values(), key=lambda dates: int(dates.isna().sum()), default=None)
        row = 0 if best is None else int(np.flatnonzero(best.isna().to_numpy())[0])
        other = text.iloc[0 if row else -1]
        form = "" if other == text.iloc[row] else f" in the form of the other rows, such as {other!r}"
        raise CorpusError(
            f"{place}, line {lines[row]}, column {name!r}: {text.iloc[row]!r} is not a date{form}. Give every row "
            "one form, or say it with date_format (--date-format)."
        )
    first, *others = whole.values()
    if any(not first.equals(other) for other in others):
        raise CorpusError(
            f"{place}, column {name!r}: dates such as {first_cell!r} can be read as {' or as '.join(whole)} in every "
            "row. Say day_first=True or False (--day-first, --no-day-first), or date_format such as '%d/%m/%Y' "
            "(--date-format)."
        )
    return first


def _orders(match: re.Match[str], options: ReadingOptions) -> list[str]:
    """Return the orders that the first date may have, by the widths of its numbers."""
    widths = len(match["first"]), len(match["third"])
    if widths[0] == 4:
        return ["year, month, day"]
    if widths[0] > 2 or widths[1] not in (2, 4):
        return []
    if options.day_first is not None:
        return ["day, month, year" if options.day_first else "month, day, year"]
    return ["day, month, year", "month, day, year", *(["year, month, day"] if widths == (2, 2) else [])]


def _read_by_form(text: Any, match: re.Match[str], orders: list[str]) -> dict[str, Any]:
    """Return the dates by each order where every row is written as the first one, NaT in the others."""
    time = ""
    if match["hour"]:
        time = match.string[match.end("third") : match.start("hour")] + ("%I" if match["half"] else "%H") + ":%M"
        time += ":%S" if match["second"] else ""
        time += match.string[match.end("second")] + "%f" if match["fraction"] else ""
        half_at = max(match.end(key) for key in ("minute", "second", "fraction"))
        time += match.string[half_at : match.start("half")] + "%p" if match["half"] else ""
    wide = {"year": "%Y" if 4 in (len(match["first"]), len(match["third"])) else "%y", "month": "%m", "day": "%d"}
    forms = {order: match["mark"].join(wide[part] for part in order.split(", ")) + time for order in orders}
    readings = {order: _to_datetime(text, form, False) for order, form in forms.items()}
    return {order: dates for order, dates in readings.items() if dates is not None}


def _calendar_of(parts: Any, order: str) -> Any:
    """Return dates of three columns of text, NaT where there is no such day or a year has more or fewer digits."""
    import pandas as pd

    columns = dict(zip(order.split(", "), ("first", "middle", "third"), strict=True))
    numbers = {part: pd.to_numeric(parts[key]) for part, key in columns.items()}
    widths = parts[columns["year"]].str.len()
    return _calendar(**numbers).where(widths.isin((2, 4)) & (widths == widths.iloc[0]))


def _calendar(year: Any, month: Any, day: Any) -> Any:
    """Return dates, NaT where there is no such day; years of two digits are those from 1969 to 2068."""
    import pandas as pd

    year = year.where(year >= 100, year + np.where(year < 69, 2000, 1900))
    return pd.to_datetime({"year": year, "month": month, "day": day}, errors="coerce")


def _time_of_day(parts: Any) -> Any:
    """Return the time that follows a date, less its offset, as a timedelta; NaT where there is no such time."""
    import pandas as pd

    hour, minute, second = (
        pd.to_numeric(parts[key]).fillna(0).astype(np.int64) for key in ("hour", "minute", "second")
    )
    half = parts["half"].str.lower()
    right = (hour < 24) & (minute < 60) & (second < 60) & (half.isna() | hour.between(1, 12))
    hour = hour.where(half.isna(), hour % 12 + 12 * (half == "p").astype(np.int64))
    fraction = pd.to_numeric("0." + parts["fraction"].fillna("0"))
    offset = parts["zone"].fillna("Z").replace("Z", "+00:00").str.replace(":", "").str.pad(5, "right", "0")
    shift = offset.str[1:3].astype(np.int64) * 60 + offset.str[3:5].astype(np.int64)
    minutes = hour * 60 + minute - shift.where(offset.str[0] == "+", -shift)
    times = pd.to_timedelta(minutes * 60_000 + second * 1000 + (fraction * 1000).round().astype(np.int64), unit="ms")
    return times.where(right.to_numpy(dtype=bool), pd.NaT)


def _dates_of_names(text: Any, name: str, place: str, lines: np.ndarray, is_instant: bool) -> Any:
    """Return the dates of text with names of months, with quarters, or with the year first."""
    import pandas as pd

    quarters = text.str.extract(f"^{_QUARTER}$")
    if quarters[0].notna().all():
        year, quarter = pd.to_numeric(quarters[0]), pd.to_numeric(quarters[1])
        return _calendar(year, quarter * 3 - 2, 1 + 0 * year)
    cells = [str(cell) for cell in text.dropna().unique()[:50]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        guesses = [pd.tseries.api.guess_datetime_format(cell) for cell in cells]
    forms = dict.fromkeys(form for form in guesses if form and (form.startswith("%Y") or "%b" in form.lower()))
    for form in (*forms, *FORMS_WITH_NAMES):
        parsed = _to_datetime(text, form, is_instant)
        if parsed is not None and parsed.notna().all():
            return _without_zone(parsed)[0]
    numeric = text.str.fullmatch(_NUMBERS).eq(True).to_numpy(dtype=bool)
    row = int(np.flatnonzero(~numeric)[0]) if numeric.any() else _first_unread(text, forms, is_instant)
    raise CorpusError(
        f"{place}, line {lines[row]}, column {name!r}: {text.iloc[row]!r} is not a date in one form with the other "
        "rows. Write dates as 2016-07-01 00:00:00, say their form with date_format (--date-format), or name the right "
        "column with timestamp_column."
    )


def _first_unread(text: Any, forms: Any, is_instant: bool) -> int:
    """Return the first row that the form of most rows does not fit."""
    best = 0, 0
    for form in ("ISO8601", *forms):
        parsed = _to_datetime(text, form, is_instant)
        if parsed is not None and parsed.isna().any():
            bad = parsed.isna().to_numpy()
            best = max(best, (int((~bad).sum()), int(np.flatnonzero(bad)[0])))
    return best[1]


def localise(timestamps: np.ndarray, zone: str, place: str, column: str) -> np.ndarray:
    """Return local times of one series as universal time; the order of the rows tells the two hours of autumn apart.

    Args:
        timestamps: (time,) `datetime64[ms]`, local.
        zone: Name of the time zone, such as `Europe/Berlin`.
        place: The file or item, for messages.
        column: The name of the column, for messages.

    Raises:
        CorpusError: An unknown zone, an hour that the clocks skipped, or one that they repeated but the rows do not.
    """
    import pandas as pd

    try:
        local = pd.DatetimeIndex(timestamps).tz_localize(zone, ambiguous="infer", nonexistent="raise")
    except (LookupError, OSError) as error:
        raise CorpusError(
            f"There is no time_zone={zone!r}.{_near_zones(zone)} Write such as 'Europe/Berlin'."
        ) from error
    except ValueError as error:
        raise CorpusError(
            f"{place}, column {column!r}: these are no local times of {zone} ({one_line(error)}). Give the dates "
            "their offset from universal time, such as 2024-10-27 02:00+02:00."
        ) from error
    return local.tz_convert(None).to_numpy().astype("datetime64[ms]")


def _near_zones(zone: str) -> str:
    import zoneinfo

    return near_matches(zone, sorted(zoneinfo.available_timezones()))
