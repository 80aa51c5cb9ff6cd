"""Fine-tuning on streams: the items that a corpus in memory gives, resumed bit for bit, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from training_runs import assert_equal_files, losses

from hf_tsrep import TS2VecConfig, TS2VecForTimeSeriesClassification, TS2VecModel
from hf_tsrep.data import CorpusError, get_labels, get_series, load_corpus
from hf_tsrep.data.corpus import RawCorpus, SeriesRecord, attach_metadata, corpus_metadata
from hf_tsrep.data.hub_layout import build_corpus
from hf_tsrep.results import read_results
from hf_tsrep.training import SettingsError, finetune
from hf_tsrep.training.finetuning.run import FinetuningRun
from hf_tsrep.training.resolve import resolve_finetuning

QUICK = {"disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 4, "scaler": "standard", "seed": 3}
QUICK |= {"logging_steps": 1, "learning_rate": 0.01}
NAMES = ("calm", "wild;loud", "loud")


def store(folder, splits, label_names=None):
    """Write splits of records as Parquet files, two a split."""
    corpus = build_corpus(RawCorpus(splits, ("first", "second"), label_names=label_names))
    for name, rows in corpus.items():
        half = len(rows) // 2 + 1
        for place, part in enumerate((rows.select(range(half)), rows.select(range(half, len(rows))))):
            part.to_parquet(str(folder / f"{name}-{place:05d}-of-00002.parquet"), batch_size=3)
    return str(folder)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Series of unequal lengths with a class that their size tells, some values missing."""
    generator = np.random.default_rng(0)

    def record(number):
        values = generator.normal(size=(9 + number % 5, 2)).astype(np.float32) + 3 * (number % 3)
        values[2, number % 2] = np.nan
        return SeriesRecord(values, f"s{number}", label=NAMES[number % 3])

    sizes = {"train": 21, "validation": 7, "test": 8}
    splits = {name: [record(number) for number in range(size)] for name, size in sizes.items()}
    return store(tmp_path_factory.mktemp("labelled"), splits, NAMES)


@pytest.fixture(scope="module")
def stretches(tmp_path_factory):
    """Three series, each cut into the stretches train, validation and test; the latter are shorter than a window."""
    whole = np.random.default_rng(1).normal(size=(3, 60, 2)).astype(np.float32)
    borders = {"train": (0, 40), "validation": (40, 48), "test": (48, 60)}
    splits = {
        name: [SeriesRecord(one[start:stop], f"s{number}") for number, one in enumerate(whole)]
        for name, (start, stop) in borders.items()
    }
    return store(tmp_path_factory.mktemp("stretches"), splits)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return TS2VecModel(TS2VecConfig(num_input_channels=2, hidden_size=8, embedding_size=12, num_hidden_layers=2))


def datasets(encoder, corpus, tmp_path, **fields):
    given = {"model": encoder, "corpus": corpus, "output_dir": str(tmp_path / "none"), **QUICK, **fields}
    run = FinetuningRun(resolve_finetuning(given))
    run.load()
    return run.data


def rows(batches):
    """Return the items of some batches as sorted rows of bytes."""
    items = [dict(zip(batch, one, strict=True)) for batch in batches for one in zip(*batch.values(), strict=True)]
    return sorted(b"".join(value.numpy().tobytes() for _, value in sorted(one.items())) for one in items)


@pytest.mark.parametrize(
    ("corpus", "fields"),
    [
        ("labelled", {}),
        ("labelled", {"task": "multi-label"}),
        ("stretches", {"task": "forecasting", "context_length": 10, "prediction_length": 4, "stride": 3}),
    ],
)
def test_a_stream_gives_the_items_of_the_corpus_in_memory(corpus, fields, encoder, tmp_path, request):
    folder = request.getfixturevalue(corpus)
    held = datasets(encoder, folder, tmp_path, **fields)
    streamed = datasets(encoder, folder, tmp_path, streaming=True, per_device_train_batch_size=1, **fields)
    assert streamed.facts == held.facts
    assert (streamed.class_names, streamed.problem_type) == (held.class_names, held.problem_type)
    np.testing.assert_allclose(streamed.metadata.scaler["mean"], held.metadata.scaler["mean"], rtol=1e-12)
    # Scalers that are summed in another order differ in the last bit.
    for name in ("validation", "test"):
        for found, expected in zip(streamed.datasets[name], held.datasets[name], strict=True):
            for key, value in expected.items():
                torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, equal_nan=True)
    unscaled = {**fields, "scaler": "none"}
    expected = datasets(encoder, folder, tmp_path, **unscaled).datasets["train"]
    expected = [{key: value[None] for key, value in expected[index].items()} for index in range(len(expected))]
    train = datasets(encoder, folder, tmp_path, streaming=True, per_device_train_batch_size=1, **unscaled)
    epochs = [list(train.datasets["train"].loader()) for _ in range(2)]
    assert rows(epochs[0]) == rows(epochs[1]) == rows(expected)
    assert not all(torch.equal(one["past_values"], two["past_values"]) for one, two in zip(*epochs, strict=True))


@pytest.mark.parametrize("saving", [{"save_steps": 3}, {}])
def test_a_killed_run_on_a_stream_ends_with_equal_bits(labelled, encoder, tmp_path, saving):
    fields = {**QUICK, **saving, "streaming": True, "shuffle_buffer": 8, "num_train_epochs": 3, "save_total_limit": 9}
    whole = finetune(encoder, labelled, tmp_path / "whole", **fields)
    assert [entry["step"] for entry in whole.history if "eval_loss" in entry] == (
        [3, 6, 9, 12, 15] if saving else [5, 10, 15]
    )
    assert whole.metrics["accuracy"] > 0.5
    assert (
        "beginning of a stream"
        in json.loads((whole.output_dir / "results.json").read_text())["results"][0]["corpus_fingerprint"]
    )
    killed = tmp_path / "killed"
    shutil.copytree(whole.output_dir, killed)
    first = 3 if saving else 5
    for path in [killed / "model.safetensors", *killed.glob("checkpoint-*")]:
        if path.name != f"checkpoint-{first}":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert (killed / f"checkpoint-{first}").is_dir()
    again = finetune(encoder, labelled, killed, resume_from_checkpoint=True, **fields)
    assert_equal_files(killed / "model.safetensors", whole.output_dir / "model.safetensors")
    assert losses(killed, ("loss", "epoch")) == losses(whole.output_dir, ("loss", "epoch"))
    assert again.metrics == whole.metrics


def test_forecasts_and_numbers_are_learnt_on_streams(stretches, labelled, encoder, tmp_path):
    fields = {**QUICK, "streaming": True, "num_train_epochs": 1}
    future = {"task": "forecasting", "context_length": 10, "prediction_length": 4}
    found = finetune(encoder, stretches, tmp_path / "future", **future, **fields)
    assert found.metrics["mse"] > 0
    assert found.facts["num_test_samples"] == 3 * (12 + 10 - 14 + 1)
    given = load_corpus(labelled, streaming=True)
    given = {name: one.map(_with_number, features=_features(one)) for name, one in given.items()}
    corpus = attach_metadata(given, corpus_metadata(load_corpus(labelled)))
    numbers = finetune(
        encoder, corpus, tmp_path / "number", task="regression", validation="none", mode="linear-probe", **fields
    )
    assert numbers.metrics["rmse"] > 0
    assert numbers.model.config.label_mean == pytest.approx([9 + 40 / 21])


def _with_number(row):
    return {**row, "target_value": float(len(row["series"]))}


def _features(stream):
    from datasets import Value

    return type(stream.features)({**stream.features, "target_value": Value("float32")})


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        ({"label_fraction": 0.5}, SettingsError, "label_fraction=0.5 is drawn by class"),
        ({"time_features": True}, SettingsError, "time_features cannot be had on a stream"),
        ({"dataloader_num_workers": 1}, SettingsError, "read by the process that trains"),
        ({"per_device_train_batch_size": 50}, ValueError, "21 training samples, fewer than a batch of 50"),
        ({"task": "regression", "label_column": "size"}, ValueError, "could not convert|no target values|number"),
        ({"split": "70/30"}, CorpusError, "a stream cannot be cut"),
        ({"streaming": False, "shuffle_buffer": 3}, SettingsError, "shuffle_buffer=3 is of streams"),
        ({"model": "shapenet", "num_input_channels": None}, SettingsError, "made of parts of the whole training data"),
    ],
)
def test_what_needs_all_of_a_corpus_is_refused_by_name(labelled, encoder, tmp_path, fields, error, told):
    given = {**QUICK, "streaming": True, **fields}
    model = given.pop("model", encoder)
    given = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(error, match=told):
        finetune(model, labelled, tmp_path / "none", **given)


PROGRAM = """
import json, sys
from hf_tsrep.training import finetune
finetune(**json.loads(sys.argv[1]))
"""


def test_two_processes_measure_every_sample_once(labelled, encoder, interpreters, tmp_path):
    """Each trains on its own part of the stream; the first reads what is measured, and both share it."""
    encoder.save_pretrained(tmp_path / "encoder")
    fields = {**QUICK, "model_or_folder": str(tmp_path / "encoder"), "corpus": labelled, "streaming": True}
    fields |= {"output_dir": str(tmp_path / "two"), "num_train_epochs": 2, "per_device_eval_batch_size": 3}
    assert interpreters.run(PROGRAM, [json.dumps(fields)], tmp_path, 2) == 0
    facts = json.loads((tmp_path / "two" / "finetuning.json").read_text())["facts"]
    assert (facts["num_processes"], facts["num_train_samples"]) == (2, 21)
    (result,) = read_results(tmp_path / "two" / "results.json")
    assert result.details["num_steps"] == 2 * (21 // 8)
    model = TS2VecForTimeSeriesClassification.from_pretrained(tmp_path / "two")
    test = load_corpus(labelled)["test"]
    found = model.predict(get_series(test)).probabilities.argmax(1)
    assert result.metrics["accuracy"] == pytest.approx(np.mean(found == get_labels(test)))
