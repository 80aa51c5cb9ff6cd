"""Dates: one form a column, found from all its rows; what can be read in two ways is refused."""

import numpy as np
import pandas as pd
import pytest

from hf_tsrep.data import CorpusError, corpus_metadata, get_series, get_timestamps, load_corpus

JANUARY = [f"{day:02d}/01/2024" for day in range(1, 32)]


def load_dates(cells, **options):
    frame = pd.DataFrame({"date": cells, "value": np.arange(float(len(cells)))})
    return get_timestamps(load_corpus(frame, **options)["train"])[0].astype("datetime64[m]").astype(str).tolist()


@pytest.mark.parametrize("mark", ["/", ".", "-"])
@pytest.mark.parametrize("time", ["", " 00:00", " 00:00:00"])
def test_a_day_beyond_twelve_says_the_order_of_all_rows(tmp_path, mark, time):
    rows = "".join(f"{date.replace('/', mark)}{time},{value}\n" for value, date in enumerate(JANUARY))
    (tmp_path / "d.csv").write_text("date,value\n" + rows)
    split = load_corpus(tmp_path / "d.csv")["train"]
    expected = pd.date_range("2024-01-01", periods=31).to_numpy()
    np.testing.assert_array_equal(get_timestamps(split)[0], expected)
    assert split[0]["freq"] == "D"


@pytest.mark.parametrize("mark", ["/", ".", "-"])
def test_days_that_may_be_months_are_refused_until_it_is_said(mark):
    cells = [date.replace("/", mark) for date in JANUARY[:12]]
    with pytest.raises(CorpusError, match=r"day, month, year or as month, day, year.*--day-first.*--date-format"):
        load_dates(cells)
    days = [f"2024-01-{day:02d}T00:00" for day in range(1, 13)]
    assert load_dates(cells, day_first=True) == load_dates(cells, date_format=f"%d{mark}%m{mark}%Y") == days
    assert load_dates(cells, day_first=False) == [f"2024-{month:02d}-01T00:00" for month in range(1, 13)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["01/01/2024", "02/02/2024"], ["2024-01-01T00:00", "2024-02-02T00:00"]),  # both orders say the same
        (["12/31/2024 11:30 PM", "01/01/2025 12:05 AM"], ["2024-12-31T23:30", "2025-01-01T00:05"]),
        (["2024-1-5 0:15", "2024-1-5 0:30"], ["2024-01-05T00:15", "2024-01-05T00:30"]),
        (["2024/01/05", "2024/01/06 12:00"], ["2024-01-05T00:00", "2024-01-06T12:00"]),
        (["31/01/99", "01/02/99"], ["1999-01-31T00:00", "1999-02-01T00:00"]),
        (["13.01.2024 10:00+01:00", "13.01.2024 12:00+02:00"], ["2024-01-13T09:00", "2024-01-13T10:00"]),
        (["Jan 5, 2024", "May 6, 2024"], ["2024-01-05T00:00", "2024-05-06T00:00"]),
        (["5-Jan-24", "6-May-24"], ["2024-01-05T00:00", "2024-05-06T00:00"]),
        (["2024Q1", "2024Q2"], ["2024-01-01T00:00", "2024-04-01T00:00"]),
        ([20240131, 20240201], ["2024-01-31T00:00", "2024-02-01T00:00"]),
        ([202401312345, 202402010000], ["2024-01-31T23:45", "2024-02-01T00:00"]),
        ([20240131234500, 20240201000000], ["2024-01-31T23:45", "2024-02-01T00:00"]),
        ([202401, 202402], ["2024-01-01T00:00", "2024-02-01T00:00"]),
        ([1706745600, 1706745660], ["2024-02-01T00:00", "2024-02-01T00:01"]),
    ],
)
def test_a_column_is_read_in_its_one_form(cells, expected):
    assert load_dates(cells) == expected


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["13/01/2024", "01/13/2024"], "line 3, column 'date': '01/13/2024' is not a date in the form of the other"),
        (["01/02/24", "02/03/24"], "as year, month, day in every row"),
        (["30/02/2024", "31/12/2024"], "line 2.*'30/02/2024' is not a date"),
        (["2024-01-01", "02/01/2024"], "line 3, column 'date': '02/01/2024' is not a date"),
        (["2024-01-01 00:00+01:00", "2024-01-01 01:00"], "line 3.*do not both have an offset"),
        (["13/01/2024 25:00", "14/01/2024 00:00"], "line 2.*'13/01/2024 25:00' is not a date"),
        (["01 02 2024", "02 02 2024"], "date_format"),
        ([45292.5, 45293.5], "line 2, column 'date': 45292.5 is neither a date nor the number of a step"),
        (["2024-01-01", None], "line 3"),
    ],
)
def test_what_has_no_one_form_is_refused(cells, message):
    with pytest.raises(CorpusError, match=message):
        load_dates(cells)


def test_a_wrong_form_is_named():
    with pytest.raises(CorpusError, match=r"date_format='%Q' is no form of dates"):
        load_dates(["2024-01-01"], date_format="%Q")
    with pytest.raises(CorpusError, match=r"line 2.*is not a date"):
        load_dates(["2024-01-01"], date_format="%d.%m.%Y")


AUTUMN = pd.date_range("2024-10-26 22:00", periods=8, freq="h", tz="UTC").tz_convert("Europe/Berlin")


def test_the_hour_that_is_repeated_in_autumn_needs_its_time_zone():
    local = AUTUMN.strftime("%Y-%m-%d %H:%M").tolist()
    assert local[2:4] == ["2024-10-27 02:00", "2024-10-27 02:00"]
    with pytest.raises(CorpusError, match=r"is the same timestamp .*--time-zone"):
        load_dates(local)
    expected = AUTUMN.tz_convert(None).strftime("%Y-%m-%dT%H:%M").tolist()
    assert load_dates(local, time_zone="Europe/Berlin") == expected
    assert load_dates(AUTUMN.strftime("%Y-%m-%d %H:%M%z").tolist()) == expected  # with offsets
    aware = pd.DataFrame({"value": np.arange(8.0)}, index=AUTUMN)
    for options in ({}, {"time_zone": "Europe/Berlin"}):
        split = load_corpus(aware, **options)["train"]
        assert get_timestamps(split)[0].astype("datetime64[m]").astype(str).tolist() == expected
        assert split[0]["freq"] == "h"


def test_each_item_repeats_the_hour_for_itself():
    local = AUTUMN.tz_localize(None)
    frame = pd.DataFrame({"item": ["a", "b"] * 8, "time": np.repeat(local, 2), "value": np.arange(16.0)})
    split = load_corpus(frame, item_column="item", time_zone="Europe/Berlin")["train"]
    for times in get_timestamps(split):
        np.testing.assert_array_equal(times, AUTUMN.tz_convert(None).to_numpy())


@pytest.mark.parametrize(
    ("cells", "zone", "message"),
    [
        (["2024-03-31 02:30", "2024-03-31 03:30"], "Europe/Berlin", "no local times of Europe/Berlin .*nonexistent"),
        (["2024-10-27 01:00", "2024-10-27 02:00"], "Europe/Berlin", "no local times of Europe/Berlin .*offset"),
        (["2024-01-01", "2024-01-02"], "Europe/Berln", "no time_zone='Europe/Berln'. Did you mean 'Europe/Berlin'"),
    ],
)
def test_times_that_a_zone_does_not_have_are_refused(cells, zone, message):
    with pytest.raises(CorpusError, match=message):
        load_dates(cells, time_zone=zone)


def write(path, frame, **options):
    frame.to_csv(path, **options)
    return path


def test_a_counter_and_what_repeats_the_dates_are_no_channels(tmp_path):
    dates = pd.date_range("2020-01-31", periods=4, name="date")
    frame = pd.DataFrame({"date": dates, "value": [1.5, 2.5, 3.5, 4.5]})
    with_index = load_corpus(write(tmp_path / "i.csv", frame))
    assert corpus_metadata(with_index).channel_names == ("value",)
    np.testing.assert_array_equal(get_timestamps(with_index["train"])[0], dates.to_numpy())
    chosen = load_corpus(write(tmp_path / "c.csv", frame.iloc[[0, 3]]))  # an index of rows that were chosen
    assert get_series(chosen["train"])[0].tolist() == [[1.5], [4.5]]
    parts = frame.assign(year=dates.year, month=dates.month, day=dates.day, hour=[5, 6, 5, 6])
    calendar = load_corpus(write(tmp_path / "p.csv", parts, index=False))
    assert corpus_metadata(calendar).channel_names == ("value", "hour")  # that hour is not the one of the dates
    asked = load_corpus(tmp_path / "p.csv", value_columns=["year", "value"])
    assert get_series(asked["train"])[0][0].tolist() == [2020, 1.5]


def test_a_counter_may_begin_anew_with_every_item(tmp_path):
    parts = [pd.DataFrame({"item": name, "value": [1.0, 2.0]}) for name in "ab"]
    corpus = load_corpus(write(tmp_path / "l.csv", pd.concat(parts)), item_column="item")
    assert corpus_metadata(corpus).channel_names == ("value",)
    with pytest.raises(CorpusError, match="a column has no name"):
        load_corpus(write(tmp_path / "n.csv", pd.DataFrame({"value": [1.0, 2.0]}, index=[0.5, 0.7])))


def test_a_year_with_its_month_and_day_is_the_date(tmp_path):
    frame = pd.DataFrame({"No": [1, 2], "year": [2010, 2010], "month": [1, 1], "day": [1, 1], "hour": [0, 1]})
    frame["pm2.5"] = [129.0, np.nan]
    corpus = load_corpus(write(tmp_path / "pm.csv", frame, index=False))
    assert corpus_metadata(corpus).channel_names == ("pm2.5",)
    assert (
        get_timestamps(corpus["train"])[0].tolist()
        == pd.to_datetime(["2010-01-01 00:00", "2010-01-01 01:00"]).to_pydatetime().tolist()
    )
    yearly = load_corpus(pd.DataFrame({"year": [2001, 2002, 2003], "value": [1.0, 2.0, 3.0]}))
    assert corpus_metadata(yearly).channel_names == ("value",)
    assert yearly["train"][0]["freq"].startswith("YS")
