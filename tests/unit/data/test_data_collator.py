"""Rows of a corpus become a batch, and the plain Trainer trains on series of any lengths."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from hf_tsrep import TS2VecConfig, TS2VecForTimeSeriesClassification
from hf_tsrep.data import TimeSeriesCollator
from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor


def rows():
    generator = np.random.default_rng(0)
    lengths = (7, 12, 9, 5, 12, 8)
    return [
        {"series": generator.normal(size=(length, 2)).tolist(), "label": index % 3, "item_id": f"s{index}"}
        for index, length in enumerate(lengths)
    ]


def test_a_shorter_series_ends_with_missing_timestamps():
    batch = TimeSeriesCollator()(rows())
    assert set(batch) == {"past_values", "labels"}
    assert batch["past_values"].shape == (6, 12, 2)
    assert batch["past_values"].isnan().all(-1).sum(1).tolist() == [5, 0, 3, 7, 0, 4]
    assert batch["labels"].tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose(batch["past_values"][0, :7], rows()[0]["series"], rtol=1e-6)
    assert TimeSeriesCollator(pad_to_multiple_of=8)(rows())["past_values"].shape == (6, 16, 2)
    last = TimeSeriesCollator(max_length=3)(rows())["past_values"]
    np.testing.assert_allclose(last[1], np.asarray(rows()[1]["series"])[-3:], rtol=1e-6)


def test_raw_series_are_prepared():
    preparation = TimeSeriesFeatureExtractor(num_channels=2, mean=[1.0, 2.0], scale=[2.0, 4.0])
    batch = TimeSeriesCollator(preparation)(rows())
    expected = (np.asarray(rows()[3]["series"]) - [1.0, 2.0]) / [2.0, 4.0]
    np.testing.assert_allclose(batch["past_values"][3, :5], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"label": 1}], "Row 0 has no series .its fields are label.*remove_unused_columns=False"),
        ([{"series": np.ones((3, 2))}, {"series": np.ones((3, 1))}], "one num_channels"),
        (
            [{"series": np.ones(3), "future_values": np.ones(2)}, {"series": np.ones(3), "future_values": np.ones(4)}],
            "future_values has shapes",
        ),
    ],
)
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        TimeSeriesCollator()(given)


def test_the_plain_trainer_runs_on_series_of_any_lengths(tmp_path):
    config = TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=1, num_labels=3)
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "report_to": [], "use_cpu": True}
    arguments = TrainingArguments(tmp_path, remove_unused_columns=False, disable_tqdm=True, logging_steps=1, **options)
    trainer = Trainer(
        TS2VecForTimeSeriesClassification(config),
        arguments,
        data_collator=TimeSeriesCollator(),
        train_dataset=Dataset.from_list(rows()),
    )
    trainer.train()
    assert np.isfinite([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]).all()


def test_the_feature_extractor_pads_as_transformers_collator_asks():
    extractor = TimeSeriesFeatureExtractor(num_channels=2)
    prepared = extractor.transform([np.asarray(row["series"]) for row in rows()], layout="ntc")
    features = [{"past_values": one, "labels": index} for index, one in enumerate(prepared)]
    batch = DataCollatorWithPadding(extractor, pad_to_multiple_of=8)(features)
    assert batch["past_values"].shape == (6, 16, 2)
    assert torch.equal(batch["past_observed_mask"], ~batch["past_values"].isnan())
    assert batch["labels"].tolist() == list(range(6))
    with pytest.raises(ValueError, match="more than max_length=4"):
        extractor.pad(features, padding="max_length", max_length=4)
