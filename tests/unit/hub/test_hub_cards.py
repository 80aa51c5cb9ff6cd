"""Cards, of which every number comes from a results object, and what may be published beside them."""

import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from domain_models import make_domain_model, make_forecasting_corpus, make_labelled_corpus
from huggingface_hub import ModelCard

import hf_tsrep
from hf_tsrep import CrossTimeNetForTimeSeriesClassification, TS2VecConfig, TS2VecModel, get_method
from hf_tsrep.data import CorpusMetadata
from hf_tsrep.hub import (
    IncompleteModelError,
    accept_files,
    build_model_card,
    check_model_folder,
    check_sums,
    feature_extractor_of_corpus,
    push_to_hub,
)
from hf_tsrep.hub.card_parts import result_rows
from hf_tsrep.hub.cards import quantised_share
from hf_tsrep.hub.folders import published_files
from hf_tsrep.results import EvaluationResult, write_results

METADATA = CorpusMetadata(
    name="ett/ETTh1",
    task="forecasting",
    channel_names=("minute", "hour", "weekday", "day", "day_of_year", "month", "iso_week", "load", "oil"),
    num_time_features=7,
    freq="h",
    scaler={"kind": "standard", "mean": [1.0, 2.0], "scale": [3.0, 4.0]},
    time_feature_scaler={"kind": "standard", "mean": [0.0] * 7, "scale": [1.0] * 7},
    licence="cc-by-nd-4.0",
    source="somewhere",
    notes=("a | b",),
)
RESULTS = [
    EvaluationResult(
        protocol="forecasting",
        method="ts2vec",
        corpus="ett/ETTh1",
        corpus_fingerprint="ab" * 32,
        seed=seed,
        metrics={"mse_24": 0.5123456789 + seed, "mae_24": 0.25},
        settings={"setting": "multivariate", "horizons": [24]},
        timings={"encode": 3.0},
    )
    for seed in (1, 2)
] + [
    EvaluationResult(
        protocol="classification", corpus="uea/BasicMotions", seed=7, metrics={"svm_accuracy": 0.975, "kappa": None}
    )
]


@pytest.fixture
def folder(tmp_path):
    config = TS2VecConfig(num_input_channels=9, hidden_size=4, embedding_size=6, num_hidden_layers=2)
    TS2VecModel(config).save_pretrained(tmp_path)
    feature_extractor_of_corpus(METADATA).save_pretrained(tmp_path)
    return tmp_path


def test_the_metadata_of_a_card_survive_and_equal_the_results_file(folder):
    write_results(folder, RESULTS)
    build_model_card(folder, corpus_metadata=METADATA).save(folder / "README.md")
    data = ModelCard.load(folder / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "hf-tsrep",
        "time-series-feature-extraction",
        "unknown",
    )
    assert {"time-series", "time-series-embedding", "representation-learning", "ts2vec"} == set(data.tags)
    assert data.datasets is None, "no dataset of the Hub has this name"
    values = {(entry.dataset_name, entry.metric_name): entry for entry in data.eval_results}
    stored = json.loads((folder / "results.json").read_text())["results"]
    mse = values["ett/ETTh1", "mse_24"]
    assert mse.metric_value == np.mean([result["metrics"]["mse_24"] for result in stored[:2]])
    assert mse.metric_args["seeds"] == [1, 2]
    assert mse.metric_args["standard_deviation"] == pytest.approx(2**-0.5)
    assert (mse.task_type, mse.dataset_config) == ("time-series-forecasting", "multivariate")
    assert mse.dataset_args == {"fingerprint": "ab" * 32}
    assert values["uea/BasicMotions", "svm_accuracy"].metric_value == stored[2]["metrics"]["svm_accuracy"]
    assert set(values) == {
        ("ett/ETTh1", "mse_24"),
        ("ett/ETTh1", "mae_24"),
        ("uea/BasicMotions", "svm_accuracy"),
    }


def test_the_body_tells_everything_that_was_recorded(folder):
    (folder / "loss.png").write_bytes(b"x")
    card = build_model_card(
        folder,
        corpus_metadata=METADATA,
        corpus_fingerprint="cd" * 32,
        training={"learning_rate": 1e-3, "model": {"alpha": 0.5}, "seed": 3, "hub_token": "hf_x", "output_dir": "/x"},
        results=RESULTS,
        figures={"Loss curve": folder / "loss.png"},
        model_id="me/encoder",
    )
    text = card.text
    for expected in (
        "# encoder",
        'AutoModel.from_pretrained("me/encoder")',
        "trust_remote_code=True",
        "| licence | cc-by-nd-4.0 |",
        "a \\| b",
        "cd" * 32,
        "| `learning_rate` | 0.001 |",
        "| `model.alpha` | 0.5 |",
        "![Loss curve](loss.png)",
        "| ett/ETTh1 | forecasting, multivariate | mse_24 | 2.012 ± 0.71 | 1, 2 | 0.599 |",
        "| uea/BasicMotions | classification | kappa | undefined | 7 |  |",
        "| embedding size | 6 |",
        "mean and deviation; seven calendar features",
        "## Departures from the paper",
        "never on test data",
        get_method("ts2vec").paper.bibtex,
    ):
        assert expected in text, expected
    assert "hf_x" not in text
    assert "output_dir" not in text
    assert str(folder) not in text
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("tst", r"reach 85% of the encoder's parameters, those of its 9 linear layers"),
        ("ts2vec", "reach 1% of the encoder's parameters, those of its one linear layer"),
    ],
)
def test_a_card_says_what_int8_weights_reach(method, words):
    config_class, tiny = get_method(method).config_class, get_method(method).tiny_config
    assert re.fullmatch(words, quantised_share(config_class(**tiny)))


def test_a_card_claims_nothing_that_was_not_recorded(folder):
    card = build_model_card(folder, license="unknown", converted_from="model.pkl")
    assert card.data.eval_results is None
    assert card.data.datasets is None
    assert card.data.license == "unknown"
    for expected in (
        "corpus was not recorded",
        "settings were not recorded",
        "No results were recorded",
        "`model.pkl`",
    ):
        assert expected in card.text


def test_the_snippet_of_a_card_runs(folder, monkeypatch):
    (snippet,) = re.findall(r"```python\n(.*?)```", build_model_card(folder, model_id=str(folder)).text, re.DOTALL)
    names = {}
    exec(snippet, names)
    assert names["embeddings"].shape == (1, 6)
    assert names["timestamps_embedded"].shape == (1, 200, 6)
    assert names["windows_embedded"].shape == (1, 4, 6)


@pytest.mark.parametrize("with_model", [True, False])
def test_the_snippet_without_feature_extractor_runs(folder, with_model):
    (folder / "preprocessor_config.json").unlink()
    source = TS2VecModel.from_pretrained(folder) if with_model else folder
    (snippet,) = re.findall(r"```python\n(.*?)```", build_model_card(source, model_id=str(folder)).text, re.DOTALL)
    names = {}
    exec(snippet, names)
    assert names["embeddings"].shape == (1, 6)


def test_paths_of_local_corpora_are_not_published(folder, tmp_path):
    table = tmp_path / "private" / "mine.csv"
    card = build_model_card(folder, corpus_metadata=CorpusMetadata(name=str(table)))
    assert "mine.csv" in card.text
    assert "private" not in card.content
    (row,) = result_rows([{"protocol": "clustering", "corpus": str(table), "metrics": {"ari": 1}}])
    assert row.corpus == "mine.csv"


def test_a_corpus_of_the_hub_is_linked(folder):
    card = build_model_card(folder, corpus_metadata=CorpusMetadata(name="someone/waves"))
    assert card.data.datasets == ["someone/waves"]


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="Result 0: an entry has no 'metrics'"):
        build_model_card(folder, results=[{"protocol": "forecasting", "corpus": "x"}])
    with pytest.raises(FileNotFoundError, match=r"figure .*absent.png is not in"):
        build_model_card(folder, figures=["absent.png"])
    with pytest.raises(FileNotFoundError, match=r"no config.json"):
        build_model_card(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="Did you mean 'ts2vec'"):
        build_model_card(folder, method="ts2vek")


def test_the_feature_extractor_of_a_corpus_prepares_as_the_corpus_was():
    extractor = feature_extractor_of_corpus(METADATA)
    assert extractor.num_channels == 2
    assert extractor.channel_names == ["load", "oil"]
    assert extractor.input_channel_names == list(METADATA.channel_names)
    assert (extractor.mean, extractor.scale, extractor.frequency) == ([1.0, 2.0], [3.0, 4.0], "h")


def test_runs_with_different_settings_are_not_averaged():
    results = [replace(RESULTS[0], settings={**RESULTS[0].settings, "context_length": length}) for length in (201, 51)]
    rows = [row for row in result_rows([*results, replace(results[0], seed=5)]) if row.metric == "mse_24"]
    assert [(row.variant, row.seeds) for row in rows] == [
        ("multivariate, context_length=201", [1, 5]),
        ("multivariate, context_length=51", [1]),
    ]


ECG = {"name": "ecg", "num_input_channels": 1, "patch_length": 3, "codebook_size": 10}
QUICK = {"num_train_epochs": 1, "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 6}


def run_blocks(text, folder):
    """Run a card's lines of Python one block after the other, as a reader would; return the names."""
    names = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(re.sub(r'from_pretrained\("[^"]*"\)', f"from_pretrained({str(folder)!r})", block), names)
    return names


def check_shapes(names, text, num_channels):
    """Compare what the lines of code give with what stands behind them."""
    stated = dict(re.findall(r"^(\w+) = .*# (\([\d, ]+\))", text, re.MULTILINE))
    assert names["series"].shape[1] == num_channels
    for name in ("embeddings", "timestamps_embedded", "windows_embedded"):
        assert str(tuple(names[name].shape)) == stated[name]


def test_the_card_of_several_domains_shows_one_and_lists_all(tmp_path):
    make_domain_model().save_pretrained(tmp_path)
    text = build_model_card(tmp_path).text
    check_shapes(run_blocks(text, tmp_path), text, num_channels=3)
    assert 'model.encode([series], domain="har")' in text
    assert "a series of one of its 2 domains (har with 3 channels, ecg with 1 channel)" in text
    assert "| `har` | 3 | 4 | 16 |" in text
    assert "| `ecg` | 1 | 3 | 10 |" in text
    assert "| `num_input_channels` |" not in text
    assert "| `domains` |" not in text
    assert "above read series of `har`" in text
    assert "| normalisation of the input | by the tokenizer," in text


def test_the_card_shows_the_domain_of_the_training_or_of_the_only_head(tmp_path):
    make_domain_model().save_pretrained(tmp_path / "one")
    assert 'model.encode([series], domain="ecg")' in build_model_card(tmp_path / "one", domain="ecg").text
    with pytest.raises(ValueError, match="Did you mean 'ecg'"):
        build_model_card(tmp_path / "one", domain="ecgg")
    model = make_domain_model(model_class=CrossTimeNetForTimeSeriesClassification)
    model.config.domains[1]["num_labels"] = 2
    assert 'domain="ecg"' in build_model_card(model).text


def test_the_card_of_one_domain_needs_no_name(tmp_path):
    make_domain_model([ECG]).save_pretrained(tmp_path)
    text = build_model_card(tmp_path).text
    check_shapes(run_blocks(text, tmp_path), text, num_channels=1)
    assert "domain=" not in text.split("## The model")[0]
    assert "it turns a series of 1 input channel and" in text
    assert "| `ecg` | 1 | 3 | 10 |" in text


@pytest.mark.parametrize("fields", [{}, {"classifier": "flatten"}])
def test_the_card_of_a_fine_tuned_classifier_shows_its_domain(tmp_path, fields):
    corpus = make_labelled_corpus()
    hf_tsrep.finetune(make_domain_model(), corpus, tmp_path / "tuned", domain="ecg", **fields, **QUICK)
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    names = run_blocks(text, tmp_path / "tuned")
    check_shapes(names, text, num_channels=1)
    assert 'model.encode([series], domain="ecg")' in text
    assert names["answer"].probabilities.shape == (1, 2)


def test_the_card_of_a_fine_tuned_forecaster_shows_its_domain(tmp_path):
    fields = {"task": "forecasting", "domain": "ecg", "context_length": 24, "prediction_length": 6, **QUICK}
    hf_tsrep.finetune(make_domain_model(), make_forecasting_corpus(), tmp_path / "tuned", **fields)
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    names = run_blocks(text, tmp_path / "tuned")
    check_shapes(names, text, num_channels=1)
    assert names["future"].shape == (1, 6, 1)
    assert np.isfinite(names["future"]).all()


def test_the_card_of_a_fine_tuned_ts2vec_runs(tmp_path):
    model = hf_tsrep.TS2VecModel(hf_tsrep.TS2VecConfig(hidden_size=4, embedding_size=6, num_hidden_layers=1))
    hf_tsrep.finetune(model, make_labelled_corpus(), tmp_path / "tuned", **QUICK)
    text = (tmp_path / "tuned" / "README.md").read_text(encoding="utf-8")
    names = run_blocks(text, tmp_path / "tuned")
    check_shapes(names, text, num_channels=1)
    assert names["answer"].probabilities.shape == (1, 2)


@pytest.fixture
def publishable(tmp_path):
    TS2VecModel(
        TS2VecConfig(num_input_channels=2, hidden_size=4, embedding_size=6, num_hidden_layers=2)
    ).save_pretrained(tmp_path)
    build_model_card(tmp_path).save(tmp_path / "README.md")
    return tmp_path


def test_a_complete_folder_passes_and_checkpoints_are_left_behind(publishable):
    listed = list(published_files(publishable))
    for name in ("__pycache__", "checkpoint-600"):
        (publishable / name).mkdir()
        (publishable / name / "optimizer.pt").write_bytes(b"x")
    check_model_folder(publishable)
    assert list(published_files(publishable)) == listed


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "README.md").unlink(), "README.md, the card, is missing"),
        (
            lambda folder: (folder / "README.md").write_text("# hello"),
            "README.md has no library_name, license",
        ),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON"),
        (lambda folder: (folder / "modeling_ts2vec.py").unlink(), "modeling_ts2vec.py is missing, the code"),
        (
            lambda folder: (folder / "kernels_contrast.py").unlink(),
            "kernels_contrast.py is missing, which modeling_ts2vec.py",
        ),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "model.safetensors, the weights, is missing",
        ),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(b"version https"),
            "model.safetensors is damaged",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
            ),
            "model-00001-of-00002.safetensors, the weights, is missing",
        ),
        (lambda folder: (folder / "results.json").write_text("[]"), "results.json cannot be read"),
        (lambda folder: torch.save({}, folder / "training_args.bin"), "training_args.bin may run code"),
        (lambda folder: (folder / "index.pkl").write_bytes(pickle.dumps({})), "index.pkl may run code"),
        (
            lambda folder: ((folder / "deep").mkdir(), torch.save({}, folder / "deep" / "o.PT")),
            "deep/o.PT may run code",
        ),
        (lambda folder: (folder / "link.txt").symlink_to("/etc/hostname"), "link.txt is a link"),
        (lambda folder: (folder / ".env").write_text("HF_TOKEN=x"), ".env looks like a secret"),
    ],
)
def test_incomplete_and_unsafe_folders_are_refused_before_anything_is_sent(publishable, monkeypatch, spoil, message):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    spoil(publishable)
    with pytest.raises(IncompleteModelError, match=message):
        push_to_hub(publishable, "me/model")


def test_all_faults_are_listed_at_once(publishable):
    for name in ("README.md", "config.json", "model.safetensors"):
        (publishable / name).unlink()
    with pytest.raises(IncompleteModelError, match=r"(?s)config.json is missing.*weights.*card"):
        check_model_folder(publishable)


def test_one_flipped_bit_is_not_published_and_a_changed_card_is(publishable, caplog):
    accept_files(publishable)
    assert check_sums(publishable).changed == {}
    card = publishable / "README.md"
    card.write_text(card.read_text() + "\nMore words.\n")
    check_model_folder(publishable)
    assert "README.md differs: it is not what SHA256SUMS says. The card that is published is" in caplog.text
    weights = publishable / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IncompleteModelError, match=r"(?s)published:\n- model.safetensors differs.*--accept.$"):
        check_model_folder(publishable)
    assert check_sums(publishable).changed == {"README.md": "differs", "model.safetensors": "differs"}
    assert accept_files(publishable) == len(list(published_files(publishable))) - 1
    check_model_folder(publishable)
    (publishable / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="has no SHA256SUMS: an older version wrote it"):
        check_sums(publishable)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        push_to_hub(tmp_path / "nowhere", "me/model")
