"""TimeMAE beyond what holds for every method: masks of unequal series, codewords, the momentum encoder, errors."""

import logging

import numpy as np
import pytest
import torch
from contract_support import build, random_values
from training_runs import assert_equal_files

from hf_tsrep import TimeMAEConfig, TimeMAEForPreTraining
from hf_tsrep.modeling.layers_attention import CrossAttention
from hf_tsrep.modeling.modeling_timemae import (
    TimeMAEDraws,
    codeword_ndcg,
    draw_codewords,
    draw_step,
    split_windows,
)
from hf_tsrep.training import pretrain
from hf_tsrep.training.callbacks import CodebookMonitor


def momentum_of(model):
    return {name: value.clone() for name, value in model.momentum_encoder.named_buffers()}


def test_a_shorter_series_has_the_masked_share_of_its_own_windows():
    config = TimeMAEConfig(mask_ratio=0.6)
    permutation = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    count = torch.tensor([10, 5, 2, 1, 0])
    split = split_windows(torch.arange(10) < count.unsqueeze(1), permutation, config)
    assert split.is_masked.sum(1).tolist() == [6, 3, 1, 0, 0]
    assert split.is_visible.sum(1).tolist() == [4, 2, 1, 1, 0]
    assert split.visible[0].tolist() == permutation[:4].tolist()
    assert split.masked[0].tolist() == permutation[4:].tolist()
    for row, number in enumerate(count):
        places = torch.cat([split.visible[row][split.is_visible[row]], split.masked[row][split.is_masked[row]]])
        assert sorted(places.tolist()) == list(range(number))


def test_the_loss_of_a_batch_of_unequal_series_is_that_of_its_masked_windows():
    model = build("timemae", "pretraining")
    values = random_values(model, 3, 40)
    values[1, 24:] = torch.nan
    values[2, 9:] = torch.nan
    draws = draw_step(model.config, 3, 40, torch.Generator().manual_seed(1))
    together = model(values, draws=draws)
    errors = []
    for row, length in enumerate((40, 24, 9)):
        num_windows = -(-length // model.config.patch_length)
        order = draws.permutation[draws.permutation < num_windows]
        noise = draws.gumbel_noise[row : row + 1, : model.config.count_masked(num_windows)]
        alone = model(values[row : row + 1, :length], draws=TimeMAEDraws(0, order, noise))
        assert torch.equal(together.codewords[row][together.is_masked[row]], alone.codewords[0])
        errors.append((alone.predicted_representations - alone.target_representations).square().flatten(0, 1))
    torch.testing.assert_close(together.alignment_loss, torch.cat(errors).mean())


def test_codewords_are_drawn_from_the_softmax_of_their_scores():
    scores = torch.tensor([1.0, 0.0, -1.0])
    noise = -torch.empty(40_000, 3).exponential_(generator=torch.Generator().manual_seed(0)).log()
    for temperature in (1.0, 0.5):
        drawn = draw_codewords(scores.expand(40_000, 3), noise, temperature)
        shares = torch.bincount(drawn, minlength=3) / len(drawn)
        torch.testing.assert_close(shares, (scores / temperature).softmax(0), rtol=0, atol=0.01)
    assert draw_codewords(scores) == 0
    model = build("timemae", "pretraining", codeword_temperature=0.0)
    values = random_values(model, 2, 30)
    assert draw_step(model.config, 2, 30, torch.Generator().manual_seed(0)).gumbel_noise is None
    assert model(values).codewords.shape == (2, 4)


def test_the_rank_of_the_right_codeword_gains():
    scores = torch.arange(12, 0, -1.0).expand(3, 12)
    found = codeword_ndcg(scores, torch.tensor([0, 2, 10]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.0]))


def test_cross_attention_takes_another_number_of_keys_whatever_computes_it():
    attention = CrossAttention(12, 3, dropout=1e-9)  # nothing is dropped, but the plain way is taken in training
    hidden, seen = torch.randn(2, 70, 12), torch.randn(2, 33, 12)
    mask = torch.rand(2, 1, 1, 33) < 0.7
    torch.testing.assert_close(attention.train()(hidden, seen, mask), attention.eval()(hidden, seen, mask))
    torch.testing.assert_close(attention.train()(hidden, seen), attention.eval()(hidden, seen))


def test_the_momentum_encoder_is_the_encoder_up_to_the_first_step_and_follows_it_then():
    model = build("timemae", "pretraining")
    encoder = dict(model.model.encoder.named_parameters())
    assert model.target_encoder is model.model.encoder
    with torch.no_grad():
        for value in encoder.values():
            value.add_(1.0)  # an optimiser's step
    model.after_optimizer_step()
    first = momentum_of(model)
    assert model.target_encoder is model.momentum_encoder
    for name, value in encoder.items():
        torch.testing.assert_close(first[name], value.detach())
    with torch.no_grad():
        for value in encoder.values():
            value.add_(1.0)
    model.after_optimizer_step()
    for name, value in momentum_of(model).items():
        torch.testing.assert_close(value, 0.99 * first[name] + 0.01 * encoder[name].detach())
    own = {id(value) for value in model.parameters()}
    assert not own & {id(value) for value in model.momentum_encoder.buffers()}
    assert not list(model.momentum_encoder.parameters())
    apart = build("timemae", "pretraining", momentum_shares_first_step=False)
    assert apart.target_encoder is apart.momentum_encoder
    for name, value in momentum_of(apart).items():
        assert torch.equal(value, dict(apart.model.encoder.named_parameters())[name])


def test_an_encoder_that_becomes_a_pretraining_model_brings_its_momentum_encoder(tmp_path):
    build("timemae", "model", seed=3).save_pretrained(tmp_path)
    model = TimeMAEForPreTraining.from_pretrained(tmp_path)
    for name, value in model.model.encoder.named_parameters():
        assert torch.equal(momentum_of(model)[name], value), name
    assert model.num_momentum_updates == 0


def test_a_resumed_training_has_the_same_momentum_encoder_bit_for_bit(tmp_path):
    series = np.random.default_rng(0).standard_normal((12, 32, 2)).cumsum(1).astype(np.float32)
    np.savez(tmp_path / "series.npz", x_train=series, y_train=np.arange(12) % 2)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "num_regressor_layers": 1}
    given = {"corpus": str(tmp_path / "series.npz"), "use_cpu": True, "disable_tqdm": True, "logging_steps": 1}
    given |= {"per_device_train_batch_size": 4, "save_steps": 2, "validation_loss": False, **sizes}
    whole = pretrain("timemae", output_dir=tmp_path / "whole", max_steps=5, **given)
    pretrain("timemae", output_dir=tmp_path / "resumed", max_steps=2, **given)
    pretrain("timemae", output_dir=tmp_path / "resumed", max_steps=5, resume_from_checkpoint=True, **given)
    assert_equal_files(tmp_path / "whole" / "model.safetensors", tmp_path / "resumed" / "model.safetensors")
    assert whole.model.num_momentum_updates == 5
    assert any(
        not torch.equal(momentum_of(whole.model)[name], value)
        for name, value in whole.model.model.encoder.named_parameters()
    )
    assert all(0 < entry["codebook_perplexity"] <= 192 for entry in whole.history if "loss" in entry)


def test_a_collapsed_codebook_is_told_with_the_figure(caplog):
    model = build("timemae", "pretraining")
    inputs, monitor = {"past_values": random_values(model, 4, 40)}, CodebookMonitor()
    spread = monitor.measure(model, inputs)["codebook_perplexity"]
    with torch.no_grad():
        model.tokenizer.bias[0] = 100.0
    with caplog.at_level(logging.WARNING):
        assert monitor.measure(model, inputs, step=7)["codebook_perplexity"] == pytest.approx(1.0)
        monitor.measure(model, inputs, step=8)
    assert spread > 2
    assert [record.getMessage()[:54] for record in caplog.records] == [
        "Step 7: of 12 codewords 1.0 are in use (perplexity), be"[:54]
    ]
    assert monitor.measure(build("tst", "pretraining"), inputs) == {}


def test_too_short_and_too_long_series_are_told():
    pretraining, model = build("timemae", "pretraining"), build("timemae", "model", max_position_embeddings=12)
    with pytest.raises(ValueError, match="4 timestamps, which are one window of patch_length=4"):
        pretraining(torch.zeros(2, 4, 3))
    assert model.encode(np.zeros((1, 1, 3), np.float32), layout="ntc").shape == (1, 16)
    assert model.config.longest_length == 48
    assert model.encode(np.zeros((2, 48, 3), np.float32)).shape == (2, 16)
    with pytest.raises(ValueError, match=r"49 timestamps, which make 13 windows .* at most 48 timestamps"):
        model.encode(np.zeros((2, 49, 3), np.float32))
    with pytest.raises(ValueError, match="which makes 13 windows of patch_length=4, but there are 12 learned"):
        TimeMAEConfig(context_length=49, patch_length=4, max_position_embeddings=12)


def test_branches_without_gates_have_no_parameter_for_them():
    names = [name for name, _ in build("timemae", "pretraining", use_residual_gates=False).named_parameters()]
    assert not [name for name in names if name.startswith("model.") and "gate" in name]
    assert [name for name in names if name.startswith("regressor.") and "gate" in name]
