"""Conversion of official TimeDRL checkpoints: what shapes and arguments tell together, and refusals."""

import pytest
import torch
from transformers import AutoModel

from hf_tsrep import TimeDRLModel, convert_checkpoint
from hf_tsrep.hub import ConversionError, check_model_folder
from hf_tsrep.modeling.modeling_timedrl import convert_timedrl_state_dict

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


def test_a_file_becomes_a_complete_model_folder(tmp_path):
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
def test_joint_channels_follow_from_the_patch_length(tmp_path, positions):
    state = official_state(independent=False, positions=positions, kernel=5)
    folder = converted(tmp_path, state, enable_channel_independence=False)
    config = AutoModel.from_pretrained(folder).config
    assert (config.num_input_channels, config.channel_mode, config.token_kernel_size) == (3, "joint", 5)
    assert config.position_embedding == positions


def test_every_official_option_is_a_field_or_refused(tmp_path):
    arguments = {"activation": "relu", "encoder_arch": "transformer_decoder", "get_i": "last", "data_aug": "scaling"}
    switches = {"disable_predictive_loss": True, "disable_stop_gradient": True, "disable_contrastive_loss": False}
    config = AutoModel.from_pretrained(converted(tmp_path, official_state(), **arguments, **switches)).config
    assert (config.activation, config.encoder, config.cls_position) == ("relu", "causal_transformer", "first")
    assert (config.instance_embedding, config.augmentation) == ("last", "scaling")
    assert (config.predictive_weight, config.contrastive_weight, config.stop_gradient) == (0.0, 0.5, False)


@pytest.mark.parametrize("directions", [1, 2])
def test_the_official_lstm_is_converted(tmp_path, directions):
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
def test_contradictions_are_named(tmp_path, case):
    arguments, words = WRONG[case]
    with pytest.raises(ConversionError, match=words):
        converted(tmp_path, official_state(), **arguments)
    assert not (tmp_path / "converted").exists()


def test_another_network_is_refused():
    state = official_state()
    del state["encoder.attn_layers.1.conv2.bias"]
    state["encoder.lstm.weight"] = torch.zeros(1)
    with pytest.raises(
        ConversionError, match=r"missing: encoder\.attn_layers\.1\.conv2\.bias; unknown: encoder\.lstm"
    ):
        convert_timedrl_state_dict(state)
