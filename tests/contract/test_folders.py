"""Folders of every method: each field, file and bit is what was written, or one error names it."""

import json
import re

import pytest
import torch
from contract_support import METHOD_NAMES, build, build_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_tsrep import TimeSeriesFeatureExtractor, get_method
from hf_tsrep.modeling.files_time_series import SUMS_FILE, changed_files, read_sums
from hf_tsrep.opening import load_encoder

every_method = pytest.mark.parametrize("name", METHOD_NAMES)


@every_method
def test_a_saved_folder_has_sums_and_one_mode(name, tmp_path):
    """One flipped bit is known, also one that gives plausible embeddings."""
    build(name, "model").save_pretrained(tmp_path)
    assert changed_files(tmp_path) == {}
    files = [path for path in tmp_path.iterdir() if path.name != SUMS_FILE and path.is_file()]
    assert set(read_sums(tmp_path)) == {path.name for path in files}
    assert len({path.stat().st_mode for path in files}) == 1
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert changed_files(tmp_path) == {"model.safetensors": "differs"}


@every_method
def test_a_field_that_was_written_may_not_be_missing(name, tmp_path):
    """A deleted num_attention_heads fits the weights, and would take a default in silence."""
    config = build_config(name)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    assert set(saved["written_fields"]) >= set(type(config).field_types())
    for field in saved["written_fields"]:
        path.write_text(json.dumps({key: value for key, value in saved.items() if key != field}))
        with pytest.raises(ValueError, match=f"config.json lacks {field}, which it was written with"):
            AutoConfig.from_pretrained(tmp_path)


@every_method
def test_a_folder_of_a_version_without_a_field_loads(name, tmp_path):
    config = build_config(name)
    config.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    saved = json.loads(path.read_text())
    del saved["prediction_context_length"]
    for written in ([one for one in saved["written_fields"] if one != "prediction_context_length"], None):
        older = {key: value for key, value in saved.items() if key != "written_fields"}
        path.write_text(json.dumps(older if written is None else {**older, "written_fields": written}))
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert loaded.to_json_string() == config.to_json_string()


NO_SETTINGS = (None, "x", {}, [], 1.5, True, 10**30, float("nan"), float("inf"), {"a": None}, [None], ["1"], [[1]])
EXTRACTOR = TimeSeriesFeatureExtractor(2, [0.0, 1.0], [1.0, 2.0], ["a", "b"], frequency="h")


@pytest.mark.parametrize("field", sorted({*EXTRACTOR.to_dict()} - {"feature_extractor_type"}))
def test_the_preparation_of_wrong_types_or_without_a_field_is_refused_by_name(field):
    saved = EXTRACTOR.to_dict()
    told = [message_of(TimeSeriesFeatureExtractor, {**saved, field: value}) for value in NO_SETTINGS]
    assert len([one for one in told if one is not None]) >= len(NO_SETTINGS) // 2
    assert all(field in one or "num_channels" in one for one in told if one is not None), told
    if field in saved["written_fields"]:
        with pytest.raises(ValueError, match=f"preprocessor_config.json lacks {field}, which it was written with"):
            TimeSeriesFeatureExtractor.from_dict({key: value for key, value in saved.items() if key != field})
    older = {key: value for key, value in saved.items() if key != "written_fields"}
    assert TimeSeriesFeatureExtractor.from_dict(older).to_dict() == saved


@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
def test_keys_that_transformers_reads_first_are_checked_before(file, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "ts2vec"}')
    path = tmp_path / file
    for text in ("[]", "1", "null", '"x"', "{", "", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(file)):
            load_encoder(tmp_path)
    for key in ("auto_map", "feature_extractor_type", "model_type", "tokenizer_class"):
        for value in (None, 1.5, [], True, {"AutoConfig": 1.5}):
            path.write_text(json.dumps({"model_type": "ts2vec", key: value}))
            with pytest.raises(ValueError, match=re.escape(f"{file}.{key} is {value!r}; it must be ")):
                load_encoder(tmp_path)
    for value in ("x", [], [None], ["a.B"], [None, None], [1, "a.B"], ["a.B", None, None]):
        path.write_text(json.dumps({"model_type": "ts2vec", "auto_map": {"AutoTokenizer": value}}))
        with pytest.raises(
            ValueError, match=re.escape(f"{file}: auto_map.AutoTokenizer is {value!r}; it must be a l")
        ):
            load_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="model_type is missing; it says which method it is"):
        load_encoder(tmp_path)


NO_VALUES = (10**30, float("nan"), float("inf"), None, "x", {}, [], 1.5, True, {"a": 1}, [1.5, "x"])


@every_method
def test_a_config_of_wrong_types_is_refused_by_the_name_of_the_field(name):
    """Whatever stands in config.json: it loads, or one ValueError names the field."""
    config_class = get_method(name).config_class
    saved = build_config(name).to_dict()
    refused = 0
    for field in [*config_class.field_types(), "id2label", "architectures", "dtype", "problem_type"]:
        for value in NO_VALUES:
            told = message_of(config_class, {**saved, field: value})
            refused += told is not None
            # The sizes of a backbone contradict others, which the message names.
            assert told is None or field in told or field == "backbone_config", (field, value, told)
    assert refused > 4 * len(config_class.field_types())


def message_of(config_class, values):
    try:
        config_class.from_dict(values)
    except ValueError as error:
        return str(error)
    return None


@every_method
def test_weights_that_are_not_the_config_s_or_no_numbers_are_refused(name, tmp_path):
    model = build(name, "classification")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    encoder = [one for one, value in weights.items() if one.startswith("model.") and value.is_floating_point()]
    auto_class = AutoModelForSequenceClassification

    def load_with(changed):
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        return auto_class.from_pretrained(tmp_path)

    load_with(weights)
    with pytest.raises(ValueError, match=re.escape(f"the weights lack {encoder[0]}")):
        load_with({one: value for one, value in weights.items() if one != encoder[0]})
    further = f"{encoder[-1].rpartition('.')[0]}.further"
    with pytest.raises(ValueError, match=re.escape(f"the weights have {further}")):
        load_with({**weights, further: torch.zeros(2)})
    damaged = {one: value.clone() for one, value in weights.items()}
    parameter = next(one for one in encoder if one.removeprefix("model.") in dict(model.model.named_parameters()))
    damaged[parameter].view(-1)[0] = torch.nan
    with pytest.raises(ValueError, match=re.escape(f"{parameter.removeprefix('model.')} holds numbers that are not")):
        load_with(damaged)
    without_head = {one: value for one, value in weights.items() if one.startswith("model.")}
    assert type(load_with(without_head)) is type(model)  # a fresh head on a whole encoder is what fine-tuning wants
