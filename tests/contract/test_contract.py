"""The promises that every method keeps, tested for every model of the registry."""

import copy
import json
import logging
import re
from functools import partial

import numpy as np
import pytest
import torch
from contract_support import (
    HEADS,
    METHOD_NAMES,
    all_models,
    build,
    build_config,
    random_values,
    task_inputs,
)
from safetensors.torch import load_file, save_file
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
)
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_tsrep import get_method

every_method = pytest.mark.parametrize("name", METHOD_NAMES)
every_model = pytest.mark.parametrize(("name", "kind"), all_models())


@every_method
def test_outputs_have_the_promised_shapes(name):
    model = build(name, "model")
    values = random_values(model, batch_size=2, length=30)
    output = model(values, output_hidden_states=True)
    assert output.pooler_output.shape == (2, model.config.embedding_size)
    assert output.last_hidden_state.shape[0] == 2
    assert output.last_hidden_state.shape[-1] == model.config.embedding_size
    assert len(output.hidden_states) >= 2
    as_tuple = model(values, return_dict=False)
    torch.testing.assert_close(as_tuple[1], output.pooler_output)


@every_model
def test_loss_comes_first_and_reaches_every_parameter(name, kind):
    model = build(name, kind).train()
    output = model(**task_inputs(model, kind, batch_size=4, length=33))
    if kind == "model":
        loss = output.last_hidden_state.square().mean() + output.pooler_output.square().mean()
    else:
        assert next(iter(output.keys())) == "loss"
        loss = output.loss
    loss.backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert not without
    assert torch.isfinite(loss)


@every_model
def test_eval_is_deterministic_and_pretext_takes_a_generator(name, kind):
    model = build(name, kind)
    inputs = task_inputs(model, kind, batch_size=3, length=30)
    if kind == "pretraining":
        runs = [model(**inputs, generator=torch.Generator().manual_seed(5)).loss for _ in range(2)]
        other = model(**inputs, generator=torch.Generator().manual_seed(6)).loss
        assert runs[0] == runs[1] != other
        return
    first, second = model(**inputs), model(**inputs)
    for key in first:
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


@every_method
def test_missing_is_one_thing_however_it_is_said(name):
    model = build(name, "model")
    values = random_values(model, batch_size=2, length=30)
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[0, 10:14] = False
    mask[1, -5:] = False
    mask[1, 3, 0] = False
    by_nan = model(values.masked_fill(~mask, torch.nan))
    by_mask = model(values, mask)
    by_mask_and_garbage = model(values.masked_fill(~mask, 1e30), mask)
    by_name = model(values, past_observed_mask=mask)
    for output in (by_mask, by_mask_and_garbage, by_name):
        torch.testing.assert_close(output.pooler_output, by_nan.pooler_output, rtol=0, atol=0)
        torch.testing.assert_close(output.last_hidden_state, by_nan.last_hidden_state, rtol=0, atol=0)


@every_method
@pytest.mark.parametrize("side", ["before", "after", "both"])
def test_padding_changes_nothing(name, side):
    model = build(name, "model")
    values = random_values(model, batch_size=2, length=21)
    left, right = {"before": (9, 0), "after": (0, 11), "both": (4, 70)}[side]
    padded = torch.nn.functional.pad(values, (0, 0, left, right), value=torch.nan)
    alone, output = model(values), model(padded)
    torch.testing.assert_close(output.pooler_output, alone.pooler_output, rtol=1e-5, atol=1e-6)
    if model.config.channel_mode == "joint" and output.last_hidden_state.shape[1] == padded.shape[1]:
        torch.testing.assert_close(
            output.last_hidden_state[:, left : left + 21], alone.last_hidden_state, rtol=1e-5, atol=1e-6
        )
    steps, padded_steps = model.embed_timestamps(values)[0], model.embed_timestamps(padded)[0]
    torch.testing.assert_close(padded_steps[:, left : left + 21], steps, rtol=1e-5, atol=1e-6)


@every_model
def test_nothing_is_ever_nan(name, kind):
    model = build(name, kind).train()
    inputs = task_inputs(model, kind, batch_size=4, length=30)
    inputs["past_values"][0] = torch.nan
    inputs["past_values"][1, 4:9, 0] = torch.nan
    inputs["past_values"][2, :20] = torch.nan
    output = model(**inputs)
    for key in output:
        assert torch.isfinite(output[key]).all(), key
    if "loss" in output:
        output.loss.backward()
        assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


@every_model
def test_save_and_load_give_equal_outputs_in_safetensors(name, kind, tmp_path):
    model = build(name, kind)
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert "model.safetensors" in names
    assert not {path for path in names if path.endswith((".bin", ".pt", ".pkl"))}
    loaded = type(model).from_pretrained(tmp_path).eval()
    inputs = task_inputs(model, kind, batch_size=2, length=25)
    if kind == "pretraining":
        outputs = [one(**inputs, generator=torch.Generator().manual_seed(1)) for one in (model, loaded)]
    else:
        outputs = [one(**inputs) for one in (model, loaded)]
    for key in outputs[0]:
        torch.testing.assert_close(outputs[0][key], outputs[1][key], rtol=0, atol=0)


@every_model
def test_every_checkpoint_opens_with_the_auto_classes(name, kind, tmp_path):
    model = build(name, kind)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert type(loaded) is get_method(name).model_class
    series = random_values(model, batch_size=2, length=25).numpy()
    np.testing.assert_array_equal(loaded.encode(series), model.encode(series))
    assert type(AutoModelForPreTraining.from_pretrained(tmp_path)) is get_method(name).pretraining_class


@every_method
@pytest.mark.parametrize("kind", HEADS)
def test_another_class_opens_a_checkpoint_without_a_report_of_its_heads(name, kind, tmp_path):
    build(name, kind).save_pretrained(tmp_path)
    for other in {"model", "classification", "prediction"} - {kind}:
        _, found = (
            get_method(name)
            .model_classes[other]
            .from_pretrained(tmp_path, output_loading_info=True, ignore_mismatched_sizes=True)
        )
        assert not found["unexpected_keys"]
        assert all(key.startswith(("head.", "classifier.")) for key in found["missing_keys"])


@every_method
def test_no_state_hides_outside_the_state_dict(name):
    """Built on the meta device and filled from the state dict, so that what is not saved would be lost.

    Buffers that are not saved, such as the positions 0, 1, ... of a backbone, come from `_init_weights`.
    """
    model = build(name, "model")
    with torch.device("meta"):
        empty = type(model)(copy.deepcopy(model.config))
    assert all(value.is_meta for value in [*empty.parameters(), *empty.buffers()])
    filled = type(model).from_pretrained(None, config=copy.deepcopy(model.config), state_dict=model.state_dict())
    inputs = model.prepare_inputs(random_values(model, batch_size=2, length=25))
    torch.testing.assert_close(filled.eval()(**inputs).pooler_output, model(**inputs).pooler_output, rtol=0, atol=0)
    buffers = dict(model.named_buffers())
    assert buffers.keys() == dict(filled.named_buffers()).keys()
    for key, value in filled.named_buffers():
        torch.testing.assert_close(value, buffers[key], rtol=0, atol=0)


@every_method
def test_config_round_trips_and_heads_do_not_change_it(name, tmp_path):
    config = build_config(name)
    before = config.to_dict()
    for model_class in get_method(name).model_classes.values():
        model_class(config)
    assert config.to_dict() == before
    config.save_pretrained(tmp_path)
    added_by_loading = {"_name_or_path": "", "auto_map": None}
    assert AutoConfig.from_pretrained(tmp_path).to_dict() | added_by_loading == before | added_by_loading


@every_method
def test_an_unknown_config_key_is_refused_with_the_near_match_and_the_fields(name, tmp_path):
    config_class = get_method(name).config_class
    build_config(name).save_pretrained(tmp_path)
    words = r"no field 'num_input_chanels'. Did you mean 'num_input_channels'\? Its fields are .*classifier_dropout"
    from_folder = [partial(loader.from_pretrained, tmp_path) for loader in (config_class, AutoConfig)]
    for load in (config_class, *from_folder):
        with pytest.raises(TypeError, match=words):
            load(num_input_chanels=3)
    with pytest.raises(TypeError, match="no field 'foo'"):
        AutoConfig.from_pretrained(tmp_path, foo=1)
    assert AutoConfig.from_pretrained(tmp_path, prediction_length=7, num_labels=5).prediction_length == 7
    assert AutoConfig.from_pretrained(tmp_path, foo=1, return_unused_kwargs=True)[1] == {"foo": 1}


@every_method
def test_an_unknown_key_of_a_folder_is_kept_with_a_warning(name, tmp_path, caplog):
    build_config(name).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_input_chanels": 3, "of_a_later_version": [1]}))
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        config = AutoConfig.from_pretrained(tmp_path)
    finally:
        logger.removeHandler(caplog.handler)
    assert "no field 'num_input_chanels'" in caplog.text
    assert "Did you mean 'num_input_channels'?" in caplog.text
    assert config.of_a_later_version == config.to_dict()["of_a_later_version"] == [1]


@every_method
def test_a_config_value_out_of_range_is_refused(name):
    with pytest.raises(ValueError, match="num_input_channels is 0"):
        get_method(name).config_class(num_input_channels=0)
    with pytest.raises(ValueError, match="pooling is 'median'"):
        get_method(name).config_class(pooling="median")


@every_method
def test_wrong_shapes_are_refused_with_both_shapes(name):
    model = build(name, "model")
    with pytest.raises(ValueError, match="num_input_channels=3"):
        model(torch.zeros(2, 10, 5))
    with pytest.raises(ValueError, match="past_observed_mask"):
        model(torch.zeros(2, 10, 3), torch.ones(2, 9, 3))


@every_model
def test_bfloat16_is_close_to_float32(name, kind):
    model = build(name, kind)
    inputs = task_inputs(model, kind, batch_size=3, length=30)
    if kind == "pretraining":
        inputs["generator"] = torch.Generator().manual_seed(0)
        expected = model(**inputs).loss
        inputs["generator"] = torch.Generator().manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(**inputs).loss
        found.backward()
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
        return
    key = {"model": "pooler_output", "classification": "logits", "prediction": "prediction_outputs"}[kind]
    expected = model(**inputs)[key]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(**inputs)[key]
    pure = copy.deepcopy(model).to(torch.bfloat16)(**inputs)[key]
    for found in (mixed, pure):
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@every_method
def test_gradient_checkpointing_changes_no_gradient(name):
    gradients = []
    for checkpointing in (False, True):
        model = build(name, "pretraining").train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        values = random_values(model, batch_size=3, length=30)
        model(values, generator=torch.Generator().manual_seed(0)).loss.backward()
        gradients.append([value.grad for value in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-7)


@every_method
def test_prepared_inputs_are_the_series(name):
    model = build(name, "model")
    values = random_values(model, batch_size=3, length=30)
    values[0, 3:9] = torch.nan
    mask = torch.rand(values.shape, generator=torch.Generator().manual_seed(0)) < 0.9
    for arguments in ((values,), (values, mask)):
        prepared = model.prepare_inputs(*arguments)
        assert all(len(value) == 3 for value in prepared.values())
        found, expected = model(**prepared), model(past_values=values, past_observed_mask=(*arguments, None)[1])
        torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=0, atol=0)
    with pytest.raises(TypeError, match="no_such_argument"):
        model.prepare_inputs(values, no_such_argument=1)


@every_method
@pytest.mark.parametrize("kind", ["classification", "prediction"])
def test_encoder_and_head_can_be_run_one_after_the_other(name, kind):
    model = build(name, kind)
    inputs = task_inputs(model, kind, batch_size=4, length=30)
    inputs["past_values"][0, 3:9] = torch.nan
    labels = {key: value for key, value in inputs.items() if key != "past_values"}
    whole = model(**inputs, output_hidden_states=True)
    encoded = model.compute_head_inputs(past_values=inputs["past_values"], output_hidden_states=True)
    assert all(len(value) == 4 for value in encoded.head_inputs.values())
    assert len(encoded.hidden_states) == len(whole.hidden_states) > 0
    apart = model(head_inputs=encoded.head_inputs, **labels)
    assert torch.equal(apart[0], whole[0])
    assert torch.equal(apart[1], whole[1])
    model.base_model.requires_grad_(False)
    model(head_inputs=encoded.head_inputs, **labels).loss.backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert trained
    assert all(parameter.grad is not None for parameter in trained)
    with pytest.raises(ValueError, match=r"past_values|input_ids"):
        model()


@every_method
@pytest.mark.parametrize("kind", HEADS)
def test_the_plain_trainer_trains_every_model(name, kind, tmp_path):
    from transformers import Trainer, TrainingArguments

    model = build(name, kind)
    inputs = task_inputs(model, kind, batch_size=8, length=24)
    rows = [{key: value[index] for key, value in inputs.items()} for index in range(8)]
    before = copy.deepcopy(model.state_dict())
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=3,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 3
    assert np.isfinite(losses).all()
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())


@every_method
def test_config_json_says_nothing_of_this_machine(name, tmp_path):
    build(name, "model").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == name
    assert set(config["auto_map"]) >= {
        "AutoConfig",
        "AutoModel",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
        "AutoModelForTimeSeriesPrediction",
    }


@every_method
def test_attention_is_what_was_asked_for_or_refused(name, tmp_path, monkeypatch):
    model = build(name, "model")
    model.save_pretrained(tmp_path)
    values = random_values(model, 2, 64)
    if not model._supports_sdpa:
        for implementation in ("sdpa", "flash_attention_2"):
            with pytest.raises(ValueError, match="does not support"):
                AutoModel.from_pretrained(tmp_path, attn_implementation=implementation)
        return
    calls = []

    def watched(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **options):
        calls.append(query.shape)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, is_causal=False
        )

    AttentionInterface.register("watched", watched)
    AttentionMaskInterface.register("watched", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    before = model(values).last_hidden_state
    for implementation in ("sdpa", "eager", "watched"):
        loaded = AutoModel.from_pretrained(tmp_path, attn_implementation=implementation)
        torch.testing.assert_close(loaded(values).last_hidden_state, before, atol=2e-5, rtol=1e-4)
    assert calls
    loaded.set_attn_implementation("eager")
    calls.clear()
    loaded(values)
    assert not calls


@every_method
def test_the_layer_that_series_enter_by_can_be_asked_for(name):
    model = build(name, "classification")
    entered = []
    model.get_input_embeddings().register_forward_hook(lambda *_: entered.append(True))
    model(random_values(model, 2, 33))
    assert entered


@every_method
def test_a_folder_of_before_the_classifier_had_its_name_keeps_its_head(name, tmp_path):
    model = build(name, "classification")
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {re.sub(r"^classifier\.", "head.", key): value for key, value in weights.items()}
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = get_method(name).classification_class.from_pretrained(tmp_path)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    loaded.save_pretrained(tmp_path / "again")
    assert set(load_file(tmp_path / "again" / "model.safetensors")) == set(weights)
