"""Official checkpoints of CrossTimeNet, SimMTM and TimeDRL, read from the parity fixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoTokenizer

from hf_tsrep import CrossTimeNetForPreTraining, TimeDRLModel, convert_checkpoint
from hf_tsrep.hub import ConversionError, check_model_folder
from hf_tsrep.modeling.modeling_simmtm import convert_simmtm_heads
from hf_tsrep.modeling.modeling_timedrl import convert_timedrl_state_dict

FIXTURES = Path(__file__).parents[2] / "parity" / "fixtures"
HEADS = {"num_attention_heads": 2}


def crosstimenet_tensors(fixture):
    """Parameters and other tensors of a fixture."""
    with safe_open(FIXTURES / f"{fixture}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    parameters = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    return parameters, tensors


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_a_tokenizer_of_crosstimenet_becomes_a_tokenizer_folder(tmp_path, suffix):
    parameters, tensors = crosstimenet_tensors("vqvae_train_ema")
    path = tmp_path / f"model{suffix}"
    save_file(parameters, path) if suffix == ".safetensors" else torch.save(parameters, path)
    arguments = {"data_shape": [40, 3], "n_embed": 24, "wave_length": 5, "block_num": 2, "hidden_dim": 16}
    folder = convert_checkpoint(
        "crosstimenet", path, tmp_path / "out", hyperparameters={**arguments, "domain": "har", "seed": 2023}
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids, _, _ = tokenizer.tokenize_values(tensors["input.x"])
    assert torch.equal(ids, tensors["output.ids"] + 4)
    assert [domain.name for domain in tokenizer.domains] == ["har"]
    assert path.name in (folder / "README.md").read_text()


def test_a_model_of_crosstimenet_becomes_a_folder_with_its_tokenizer(tmp_path):
    parameters, tensors = crosstimenet_tensors("bert_mlm_loss")
    checkpoint = {"model_state_dict": parameters, "epoch": 3, "best_loss": "1.0"}
    torch.save(checkpoint, tmp_path / "best_model.pth")
    folder = convert_checkpoint(
        "crosstimenet", tmp_path / "best_model.pth", tmp_path / "out", hyperparameters=HEADS, pooling="max"
    )
    check_model_folder(folder)
    model = AutoModelForPreTraining.from_pretrained(folder)
    assert type(model) is CrossTimeNetForPreTraining
    assert model.config.pooling == "max"
    assert [one["name"] for one in model.config.domains] == ["ecg", "eeg", "har"]
    mask = tensors["input.mask_draws"] < 0.3
    loss = model(past_values=tensors["input.x"], domain="eeg", mask=mask).loss
    torch.testing.assert_close(loss, tensors["output.loss"], rtol=1e-5, atol=1e-5)
    hidden = AutoModel.from_pretrained(folder).encode(tensors["input.x"], domain="eeg")
    assert hidden.shape == (4, 16)


def test_the_official_arguments_of_crosstimenet_are_honoured(tmp_path):
    parameters, _ = crosstimenet_tensors("bert_mlm_loss")
    torch.save(parameters, tmp_path / "model.pt")
    arguments = {
        "mask_ratio": 0.5,
        "embeding": "word_mapping",
        "params": 1,
        "frozen": 0,
        "n_embed": 512,
        "classifier": 1,
    }
    bert = {"num_attention_heads": 2, "hidden_act": "relu", "layer_norm_eps": 1e-3, "vocab_size": 60}
    folder = convert_checkpoint(
        "crosstimenet", tmp_path / "model.pt", tmp_path / "out", hyperparameters={**arguments, "bert_config": bert}
    )
    config = AutoModelForPreTraining.from_pretrained(folder).config
    assert (config.mask_ratio, config.classifier) == (0.5, "flatten")
    assert (config.embedding_initialization, config.backbone_name) == ("word_sample", "bert-base-uncased")
    assert (config.backbone_config.hidden_act, config.backbone_config.layer_norm_eps) == ("relu", 1e-3)


def test_the_classification_heads_of_crosstimenet_are_kept_when_asked_for(tmp_path):
    parameters, tensors = crosstimenet_tensors("bert_classify")
    save_file(parameters, tmp_path / "model.safetensors")
    folder = convert_checkpoint(
        "crosstimenet",
        tmp_path / "model.safetensors",
        tmp_path / "out",
        hyperparameters={**HEADS, "head": "classification"},
    )
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    logits = model(past_values=tensors["input.x"], domain="har").logits
    np.testing.assert_allclose(logits.detach(), tensors["output.logits"], rtol=1e-5, atol=1e-5)


def changed(**tensors):
    return lambda parameters: {**parameters, **tensors}


@pytest.mark.parametrize(
    ("fixture", "change", "hyperparameters", "message"),
    [
        ("vqvae_train_ema", changed(), {"wave_length": 4}, "patch_length=4 was given, .* patch_length=5"),
        ("vqvae_train_ema", changed(), {"data_shape": [50, 3]}, "context_length=50 was given"),
        ("vqvae_train_ema", changed(), {"n_embd": 24}, "tokenizer has no hyper-parameter 'n_embd'. Did you mean"),
        ("vqvae_train_ema", changed(), {"kernel_size": 5}, "kernel_size=5 was given, .* kernel_size=3"),
        ("vqvae_train_ema", changed(), {"dilations": [1, 2, 4]}, "4 residual blocks in the encoder for 3 dilations"),
        ("vqvae_train_ema", changed(), {"d_model": 8, "hidden_dim": 16}, "contradicts hidden_size=8"),
        ("vqvae_train_ema", changed(extra=torch.ones(1)), {}, "unknown: extra"),
        ("vqvae_train_ema", lambda one: {"a": torch.ones(1)}, {}, "no tokenizer of CrossTimeNet: enc.input_proj"),
        (
            "vqvae_train_ema",
            lambda one: {key: value for key, value in one.items() if key != "dec.blocks.output.bias"},
            {},
            "missing: decoder.output_projection.bias",
        ),
        (
            "vqvae_train_ema",
            lambda one: {**one, "quantize.embed": one["quantize.embed"] * torch.nan},
            {},
            "quantize.embed is not finite",
        ),
        ("bert_classify", changed(), {}, "give num_attention_heads"),
        ("bert_classify", changed(), {**HEADS, "head": "both"}, "head='both' is unknown"),
        (
            "bert_classify",
            changed(),
            {"bert_config": {**HEADS, "position_embedding_type": "relative_key"}},
            "Only position_embedding_type='absolute'",
        ),
        ("bert_classify", changed(), {"bert_config": {"hiden_act": "relu"}}, "hiden_act.*Did you mean 'hidden_act'"),
        ("bert_classify", changed(), {**HEADS, "hidden_size": 32}, "hidden_size=32 was given"),
        ("bert_classify", changed(), {**HEADS, "poolin": "max"}, "'poolin'. Did you mean 'pooling'"),
        ("bert_classify", changed(other=torch.ones(2)), HEADS, "no parameters other"),
        ("bert_classify", changed(**{"emb_layer.weight": torch.ones(30, 16)}), HEADS, "31 rows are needed"),
        (
            "bert_classify",
            changed(**{"encoder.cls.predictions.transform.dense.bias": torch.ones(4)}),
            HEADS,
            "head.dense.bias",
        ),
        (
            "bert_classify",
            lambda one: {key: value for key, value in one.items() if key != "head.eeg-data.2.bias"},
            HEADS,
            "head.eeg-data.2.bias is missing",
        ),
    ],
)
def test_what_does_not_fit_crosstimenet_is_refused_and_nothing_is_written(
    tmp_path, fixture, change, hyperparameters, message
):
    parameters, _ = crosstimenet_tensors(fixture)
    torch.save(change(parameters), tmp_path / "model.pt")
    with pytest.raises(ConversionError, match=message) as refusal:
        convert_checkpoint("crosstimenet", tmp_path / "model.pt", tmp_path / "out", hyperparameters=hyperparameters)
    assert "model.pt" in str(refusal.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


@pytest.fixture
def write_simmtm(tmp_path):
    def write(name, left_out=(), **changed):
        tensors = load_file(FIXTURES / f"simmtm_{name}.safetensors")
        state = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
        state = {key: value for key, value in (state | changed).items() if key not in left_out}
        path = tmp_path / f"{name}.pt"
        torch.save(state, path)
        return path, tensors

    return write


def test_the_forecasting_encoder_of_simmtm_is_converted(write_simmtm, tmp_path):
    path, tensors = write_simmtm("forecast_finetune_etth2_defaults")
    folder = convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters={"n_heads": 8, "C": 3})
    model = AutoModel.from_pretrained(folder).eval()
    assert (model.config.context_length, model.config.prediction_length, model.config.mask_across_series) == (
        *(336, 24),
        True,
    )
    found = model(tensors["input.x"]).last_hidden_state
    torch.testing.assert_close(found.flatten(0, 1), tensors["output.encoder"], rtol=1e-5, atol=1e-5)


def test_the_classification_encoder_of_simmtm_is_converted(write_simmtm, tmp_path):
    path, tensors = write_simmtm("cls_pretrain_step")
    folder = convert_checkpoint("simmtm", path, tmp_path / "model")
    model = AutoModel.from_pretrained(folder).eval()
    assert (model.config.encoder_type, model.config.context_length, model.config.hidden_size) == ("resnet", 178, 16)
    assert model.encode(tensors["input.x"].transpose(1, 2).numpy()).shape == (3, 16)
    assert np.isfinite(model.encode(np.zeros((5, 1)))).all()


def test_simmtm_needs_the_number_of_heads(write_simmtm, tmp_path):
    path, _ = write_simmtm("forecast_pretrain_step")
    with pytest.raises(ConversionError, match=r"num_attention_heads \(official name n_heads\)"):
        convert_checkpoint("simmtm", path, tmp_path / "model")


def test_what_is_missing_unknown_or_contradictory_in_simmtm_is_named(write_simmtm, tmp_path):
    path, _ = write_simmtm("cls_pretrain_step", left_out=["conv_block2.1.running_var"], surplus=torch.zeros(1))
    with pytest.raises(ConversionError, match=r"missing: conv_block2.1.running_var; unknown: surplus"):
        convert_checkpoint("simmtm", path, tmp_path / "model")
    path, _ = write_simmtm("forecast_pretrain_step")
    with pytest.raises(ConversionError, match="hidden_size=32"):
        convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters={"d_model": 32, "n_heads": 4})


def test_official_arguments_of_simmtm_become_fields_or_go_to_training(write_simmtm, tmp_path):
    path, _ = write_simmtm("forecast_finetune_etth2_defaults")
    arguments = {
        "n_heads": 8,
        "enc_in": 3,
        "activation": "relu",
        "dropout": 0.4,
        "masked_rule": "masked tail",
        "features": "MS",
        **{"model": "SimMTM", "embed": "timeF", "factor": 1, "output_attention": True, "lradj": "type1", "rbtp": 1},
    }
    folder = convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters=arguments)
    config = AutoModel.from_pretrained(folder).config
    assert (config.activation, config.mask_rule, config.num_output_channels) == ("relu", "tail", 1)
    assert config.dropout == config.attention_dropout == 0.4


@pytest.mark.parametrize("embed", ["fixed", "learned"])
def test_time_features_that_simmtm_never_calls_are_left_out(write_simmtm, tmp_path, embed):
    name = "hour_embed.emb.weight" if embed == "fixed" else "hour_embed.weight"
    tables = {f"enc_embedding.temporal_embedding.{name}": torch.zeros(24, 16)}
    unused = ["enc_embedding.temporal_embedding.embed.weight"]
    path, _ = write_simmtm("forecast_pretrain_step", left_out=unused, **tables)
    arguments = {"n_heads": 4, "embed": embed}
    assert convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters=arguments).is_dir()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("forecast_pretrain_step", {"activaton": "relu"}, "no hyper-parameter 'activaton'. Did you mean 'activation'"),
        ("forecast_pretrain_step", {"model": "PatchTST"}, "model='PatchTST' is another method"),
        ("forecast_pretrain_step", {"select_channels": 0.5}, "select_channels=0.5 trains every step on some"),
        ("forecast_pretrain_step", {"mask_rate": 0.4, "masking_ratio": 0.5}, "contradicts mask_ratio=0.4"),
        ("cls_pretrain_step", {"CNNoutput_channel": 12}, "CNNoutput_channel=12 was given, but .* 10 positions"),
        ("cls_pretrain_step", {"input_channels": 2}, "num_input_channels=2 was given"),
        ("cls_encoder_eval", {"L": 178, "num_classes_target": 5}, "num_labels=5 was given"),
    ],
)
def test_what_simmtm_does_not_understand_or_do_is_refused_by_name(write_simmtm, tmp_path, name, arguments, words):
    path, _ = write_simmtm(name)
    with pytest.raises(ConversionError, match=words):
        convert_checkpoint("simmtm", path, tmp_path / "model", hyperparameters={"n_heads": 4, **arguments})


def test_the_classification_decoder_of_simmtm_writes_two_channels_side_by_side():
    """There a linear layer writes channel after channel; ours writes both channels of each timestamp."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "conv_block1.0.weight": torch.zeros(32, 2, 25),
        "conv_block3.0.weight": torch.zeros(4, 64, 8),
        "head.weight": torch.randn(2 * 6, 4 * 3, generator=generator),
        "head.bias": torch.randn(2 * 6, generator=generator),
    }
    points = torch.randn(5, 4, 3, generator=generator)  # (num_rows, width, num_positions), as there
    expected = torch.nn.functional.linear(points.flatten(1), state["head.weight"], state["head.bias"])
    ours = convert_simmtm_heads(state)
    weight, bias = ours["decoder.projection.weight"], ours["decoder.projection.bias"]
    found = torch.nn.functional.linear(points.transpose(1, 2).flatten(1), weight, bias)
    torch.testing.assert_close(found.unflatten(1, (6, 2)).transpose(1, 2).flatten(1), expected)


ARGUMENTS = {"n_heads": 2, "patch_len": 4, "stride": 2, "enable_channel_independence": True}


def official_state(width=8, layers=2, channels=3, patch_length=4, independent=True, kernel=3, positions="learnable"):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    token_size = patch_length if independent else channels * patch_length
    state = {"cls_token": random(1, channels if independent else 1, token_size)}
    state["input_layer.token_embedding.tokenConv.weight"] = random(width, token_size, kernel)
    if positions == "learnable":
        state["input_layer.position_embedding.pe"] = random(40, width)
    if positions == "fixed":
        state["input_layer.position_embedding.pe"] = random(1, 40, width)
    shapes = {f"attention.{name}_projection": (width, width) for name in ("query", "key", "value", "out")}
    shapes |= {"conv1": (4 * width, width, 1), "conv2": (width, 4 * width, 1), "norm1": (width,), "norm2": (width,)}
    for layer in range(layers):
        for name, shape in shapes.items():
            state[f"encoder.attn_layers.{layer}.{name}.weight"] = random(*shape)
            state[f"encoder.attn_layers.{layer}.{name}.bias"] = random(shape[0])
    state |= {"encoder.norm.weight": random(width), "encoder.norm.bias": random(width)}
    state |= {"predictive_linear.1.weight": random(token_size, width), "predictive_linear.1.bias": random(token_size)}
    return state


def converted(tmp_path, state, **arguments):
    path = tmp_path / "model.pt"
    torch.save(state, path)
    return convert_checkpoint("timedrl", path, tmp_path / "converted", hyperparameters={**ARGUMENTS, **arguments})


def test_a_file_of_timedrl_becomes_a_complete_model_folder(tmp_path):
    state = official_state()
    folder = converted(tmp_path, state, seq_len=24, dropout=0.3, pretrain_learning_rate=0.1, base_d_model=4)
    check_model_folder(folder)
    model = AutoModel.from_pretrained(folder)
    assert type(model) is TimeDRLModel
    expected = {"num_input_channels": 3, "hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 32}
    expected |= {"channel_mode": "independent", "position_embedding": "learned", "max_position_embeddings": 40}
    expected |= {"token_kernel_size": 3, "prediction_target": "raw", "context_length": 24, "dropout": 0.3}
    assert {name: getattr(model.config, name) for name in expected} == expected
    attention = model.patch_encoder.encoder.transformer.layers[1].attention
    for part, name in zip(attention.input_projection.weight.chunk(3), ("query", "key", "value"), strict=True):
        torch.testing.assert_close(part, state[f"encoder.attn_layers.1.attention.{name}_projection.weight"])
    assert torch.isfinite(model(torch.randn(2, 30, 3)).pooler_output).all()


@pytest.mark.parametrize("positions", ["none", "fixed"])
def test_joint_channels_of_timedrl_follow_from_the_patch_length(tmp_path, positions):
    state = official_state(independent=False, positions=positions, kernel=5)
    folder = converted(tmp_path, state, enable_channel_independence=False)
    config = AutoModel.from_pretrained(folder).config
    assert (config.num_input_channels, config.channel_mode, config.token_kernel_size) == (3, "joint", 5)
    assert config.position_embedding == positions


def test_every_official_option_of_timedrl_is_a_field_or_refused(tmp_path):
    arguments = {"activation": "relu", "encoder_arch": "transformer_decoder", "get_i": "last", "data_aug": "scaling"}
    switches = {"disable_predictive_loss": True, "disable_stop_gradient": True, "disable_contrastive_loss": False}
    config = AutoModel.from_pretrained(converted(tmp_path, official_state(), **arguments, **switches)).config
    assert (config.activation, config.encoder, config.cls_position) == ("relu", "causal_transformer", "first")
    assert (config.instance_embedding, config.augmentation) == ("last", "scaling")
    assert (config.predictive_weight, config.contrastive_weight, config.stop_gradient) == (0.0, 0.5, False)


@pytest.mark.parametrize("directions", [1, 2])
def test_the_official_lstm_of_timedrl_is_converted(tmp_path, directions):
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(8, 6, batch_first=True, bidirectional=directions == 2)
    projection = torch.nn.Linear(6 * directions, 8)
    state = {key: value for key, value in official_state().items() if not key.startswith("encoder.")}
    state |= {f"encoder.lstm.{name}": value for name, value in lstm.state_dict().items()}
    state |= {f"encoder.linear.{name}": value for name, value in projection.state_dict().items()}
    kind = "lstm" if directions == 1 else "bilstm"
    model = AutoModel.from_pretrained(converted(tmp_path, state, encoder_arch=kind, n_layers=3, n_heads=None))
    assert (model.config.encoder, model.config.num_hidden_layers, model.config.recurrent_hidden_size) == (kind, 1, 6)
    values = torch.randn(2, 12, 3)
    states = model(values, output_hidden_states=True).hidden_states
    embedded = states[0].flatten(0, 1)
    expected = projection(lstm(embedded)[0]).unflatten(0, (2, 3))
    torch.testing.assert_close(states[-1], expected)
    torch.testing.assert_close(model(values).pooler_output, expected[:, :, 0].mean(1))


WRONG = {
    "another library's encoder": ({"encoder_arch": "resnet"}, "encoder_arch='resnet' is not converted"),
    "missing arguments": ({"n_heads": None, "stride": None}, "do not tell patch_stride.*num_attention_heads"),
    "patches": ({"patch_len": 8}, "cls_token has 3 rows of 4 values"),
    "mode": ({"enable_channel_independence": False}, "correct patch_len or enable_channel_independence"),
    "channels": ({"C": 5}, "num_input_channels=5 was given, but the parameters have 3"),
    "layers": ({"n_layers": 3}, "num_hidden_layers=3 was given"),
    "kernel": ({"token_embed_kernel_size": 7}, "token_kernel_size=7 was given"),
    "positions": ({"pos_embed_type": "none"}, "position_embedding='none' was given"),
    "width": ({"base_d_model": 16}, "hidden_size=32 was given"),
    "unknown": ({"n_head": 2}, "Did you mean 'n_heads'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_contradictions_of_a_timedrl_checkpoint_are_named(tmp_path, case):
    arguments, words = WRONG[case]
    with pytest.raises(ConversionError, match=words):
        converted(tmp_path, official_state(), **arguments)
    assert not (tmp_path / "converted").exists()


def test_another_network_is_no_timedrl():
    state = official_state()
    del state["encoder.attn_layers.1.conv2.bias"]
    state["encoder.lstm.weight"] = torch.zeros(1)
    with pytest.raises(
        ConversionError, match=r"missing: encoder\.attn_layers\.1\.conv2\.bias; unknown: encoder\.lstm"
    ):
        convert_timedrl_state_dict(state)


def timemae_state(*left_out):
    parameters, _ = crosstimenet_tensors("timemae_pretrain_three_steps")
    return {name: value for name, value in parameters.items() if not name.endswith(left_out or ("nothing",))}


def converted_timemae(tmp_path, state, **arguments):
    torch.save(state, tmp_path / "pretrain_model.pkl")
    given = {"attn_heads": 2, "device": "cuda:5", "lr": 0.001, **arguments}
    return convert_checkpoint("timemae", tmp_path / "pretrain_model.pkl", tmp_path / "out", hyperparameters=given)


def test_a_file_of_timemae_becomes_a_pretraining_model_with_its_momentum_encoder(tmp_path):
    state = timemae_state()
    arguments = {"mask_ratio": 0.3, "momentum": 0.9, "alpha": 2.0, "beta": 3.0, "dropout": 0.4, "data_shape": [51, 3]}
    folder = converted_timemae(tmp_path, state, **arguments)
    check_model_folder(folder)
    model = AutoModelForPreTraining.from_pretrained(folder)
    config = model.config
    assert (config.mask_ratio, config.momentum, config.alignment_weight, config.codeword_weight) == (
        0.3,
        0.9,
        2.0,
        3.0,
    )
    assert (config.dropout, config.attention_dropout, config.regressor_dropout) == (0.4, 0.4, 0.1)
    assert (config.context_length, config.longest_length, config.num_codewords) == (48, 48, 20)
    assert model.target_encoder is model.momentum_encoder
    official = state["momentum_encoder.TRMs.1.attn.linear_layers.2.weight"]
    found = model.momentum_encoder.layers[1].attention.input_projection.weight.chunk(3)[2]
    assert torch.equal(found, official)
    assert torch.isfinite(model(torch.randn(2, 48, 3)).loss)


def test_a_fine_tuned_timemae_is_told_by_its_number_of_classes(tmp_path):
    state = timemae_state("skipconnect1.a", "skipconnect2.a")
    regressor = {name: value for name, value in timemae_state().items() if name.startswith("reg.")}
    folder = converted_timemae(tmp_path, {**state, **regressor}, num_class=4, enable_res_parameter=0)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert not model.config.use_residual_gates
    assert torch.equal(model.classifier.projection.weight, state["predict_head.weight"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attn_heads": None}, "do not tell num_attention_heads .official name attn_heads"),
        ({"wave_lenght": 6}, "no hyper-parameter 'wave_lenght'. Did you mean 'wave_length'"),
        ({"wave_length": 8}, "patch_length=8 was given"),
        ({"enable_res_parameter": 0}, "use_residual_gates=False was given"),
        ({"num_class": 6}, "num_class=6 was given, but predict_head has 4"),
        ({"data_shape": [48, 5]}, "num_input_channels=5 was given"),
        ({"data_shape": [48, 3, 1]}, r"data_shape=\[48, 3, 1\] is no pair"),
    ],
)
def test_what_timemae_does_not_understand_is_refused_by_name(tmp_path, arguments, words):
    with pytest.raises(ConversionError, match=words):
        converted_timemae(tmp_path, timemae_state(), **arguments)
    with pytest.raises(ConversionError, match=r"missing: mask_token"):
        converted_timemae(tmp_path, timemae_state("mask_token"))
