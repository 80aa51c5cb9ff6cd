"""How files, frames and arrays of one's own are to be read: the arguments of `load_corpus` that readers get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import near_matches
from .corpus import CorpusError

LAYOUTS = ("ntc", "nct", "ucr", "table")


@dataclass(frozen=True)
class ReadingOptions:
    """How to read what nobody described; None leaves it to be found out, or refused where it cannot be.

    Attributes:
        item_column: Tables: the column that tells series apart (long form); None means one series.
        timestamp_column: Tables: the column of dates.
        label_column: Tables: class of an item, or 0/1 a step (anomaly).
        value_columns: Tables: the channels; every other column where None.
        frequency: Tables: pandas frequency string.
        one_series_per_column: Tables: every value column is a series with one channel (TS2Vec's Electricity).
        layout: Arrays: `ntc` for (series, time, channel), `nct` for (series, channel, time). Text: `ucr` for a row a
            series with its class first, `table` for a row a timestamp.
        header: Tables: whether the first line holds the names of the columns.
        delimiter: Tables: what stands between cells.
        decimal: Tables: the decimal mark.
        thousands: Tables: the mark between thousands.
        encoding: Text: name of the encoding.
        skip_rows: Tables: lines before the names of the columns.
        sheet: Excel: name of the sheet.
        date_format: Tables: form of the dates as `strptime` knows it, such as `%d.%m.%Y`.
        day_first: Tables: whether 01/02/2024 is the first of February.
        time_zone: Tables: where dates without an offset are local times, such as `Europe/Berlin`.
        missing_mark: A number that stands for a missing value, such as -9999 (known corpora only).
        keep_duplicates: Keep duplicate or unsorted timestamps as rows in file order (known corpora only).
        check_values: Whether infinite values are refused by the reader; see `load_corpus`.
    """

    item_column: str | None = None
    timestamp_column: str | None = None
    label_column: str | None = None
    value_columns: Sequence[str] | None = None
    frequency: str | None = None
    one_series_per_column: bool = False
    layout: str | None = None
    header: bool | None = None
    delimiter: str | None = None
    decimal: str | None = None
    thousands: str | None = None
    encoding: str | None = None
    skip_rows: int = 0
    sheet: str | None = None
    date_format: str | None = None
    day_first: bool | None = None
    time_zone: str | None = None
    missing_mark: float | None = None
    keep_duplicates: bool = False
    check_values: bool = True

    def __post_init__(self) -> None:
        if self.layout is not None and self.layout not in LAYOUTS:
            raise CorpusError(
                f"Unknown layout={self.layout!r}: one of {', '.join(map(repr, LAYOUTS))}."
                f"{near_matches(self.layout, LAYOUTS, cutoff=0.5)}"
            )
        if self.delimiter in ("tab", "\\t"):  # as a command line may say it
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise CorpusError(f"delimiter={self.delimiter!r} must be one character, such as ';' or a tab.")
        if self.decimal is not None and self.decimal not in (".", ","):
            raise CorpusError(f"decimal={self.decimal!r} must be '.' or ','.")
        if self.thousands is not None and self.thousands not in (".", ",", " ", "'", "\u00a0", "\u202f", "_"):
            raise CorpusError(f"thousands={self.thousands!r} must be one of '.', ',', ' ' and an apostrophe.")
        if self.thousands is not None and self.thousands == self.decimal:
            raise CorpusError(f"thousands={self.thousands!r} is the decimal mark, too; give decimal another one.")
        if isinstance(self.skip_rows, bool) or not isinstance(self.skip_rows, int) or self.skip_rows < 0:
            raise CorpusError(f"skip_rows={self.skip_rows!r} must be a number of lines.")
        for name in ("header", "day_first"):
            if getattr(self, name) not in (None, True, False):
                raise CorpusError(f"{name}={getattr(self, name)!r} must be True, False or None.")

    @property
    def names_columns(self) -> bool:
        """Whether a column is named: then a text is a table."""
        columns = (self.item_column, self.timestamp_column, self.label_column, self.value_columns)
        return any(column is not None for column in columns)
