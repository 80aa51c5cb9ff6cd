"""The stage that trains CrossTimeNet's tokenizer: statistics, first codes, measures, pictures and its card."""

import json

import numpy as np
import pytest
import torch
from domain_models import make_domain_model, make_labelled_corpus

from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec, patches_with_values
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig
from hf_tsrep.training import pretrain
from hf_tsrep.training.crosstimenet.codec_training import (
    fit_statistics,
    initialise_codebook,
    latents_of,
    measure_codec,
)


def tiny_codec(**fields):
    torch.manual_seed(0)
    domain = {"num_input_channels": 2, "patch_length": 3, "codebook_size": 8, "hidden_size": 6, "num_blocks": 1}
    first = {"name": "a", **domain, **fields}
    second = {"name": "b", **domain, "num_input_channels": 1}
    return CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[first, second]))


def some_series(num_series=12, num_channels=2, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(7, 20, size=num_series)
    series = [generator.normal(3.0, 2.0, size=(length, num_channels)).astype(np.float32) for length in lengths]
    series[0][2:5, 0] = np.nan
    return series


def test_statistics_are_of_the_observed_training_values():
    codec, series = tiny_codec(), some_series()
    fit_statistics(codec, 0, series)
    values = np.concatenate(series).astype(np.float64)
    np.testing.assert_allclose(codec.domains[0].channel_mean, np.nanmean(values, axis=0), rtol=1e-5)
    np.testing.assert_allclose(codec.domains[0].channel_scale, np.nanstd(values, axis=0), rtol=1e-5)
    assert codec.domains[1].channel_scale.tolist() == [1.0]


def test_a_constant_or_missing_channel_gets_no_extreme_scale():
    codec = tiny_codec()
    series = [np.stack([np.full(9, 1000.1, np.float32), np.full(9, np.nan, np.float32)], axis=1)]
    fit_statistics(codec, 0, series)
    assert codec.domains[0].channel_scale.tolist() == [1.0, 1.0]
    assert codec.domains[0].channel_mean.tolist() == [pytest.approx(1000.1), 0.0]


def test_latents_are_those_of_patches_with_values():
    codec, series = tiny_codec(dropout=0.5), some_series()
    series.append(np.full((9, 2), np.nan, dtype=np.float32))
    codec.train()
    latents = latents_of(codec, 0, series)
    assert codec.training
    expected = sum(-(-len(one) // 3) for one in series[:-1])
    assert len(latents) == expected
    assert torch.equal(latents, latents_of(codec, 0, series))
    alone = codec.eval()(torch.from_numpy(series[1])[None], domain=0).latents[0]
    first = -(-len(series[0]) // 3)
    torch.testing.assert_close(latents[first : first + len(alone)], alone.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["kmeans", "data"])
def test_first_codes_lie_where_latents_are_and_depend_on_the_seed_only(kind):
    codec = tiny_codec()
    latents = latents_of(codec, 0, some_series(30))
    initialise_codebook(codec, 0, latents, kind, latents_a_step=40.0, seed=1)
    codebook = codec.domains[0].codebook
    codes = codebook.codes.clone()
    assert len(codes.unique(dim=0)) == 8
    low, high = latents.min(0).values, latents.max(0).values
    assert ((codes >= low) & (codes <= high)).all()
    torch.testing.assert_close(codebook.sums, codes * codebook.counts.unsqueeze(1))
    assert (codebook.counts >= 1.0).all()
    if kind == "data":
        assert all((latents == code).all(1).any() for code in codes)
        assert codebook.counts.tolist() == [5.0] * 8
    else:
        assert codebook.counts.sum() == pytest.approx(40.0, rel=0.2)
        assert used(codec, latents) > used_by_random_codes(latents)
    initialise_codebook(codec, 0, latents, kind, 40.0, seed=1)
    assert torch.equal(codebook.codes, codes)
    initialise_codebook(codec, 0, latents, kind, 40.0, seed=2)
    assert not torch.equal(codebook.codes, codes)


def used(codec, latents):
    return len(codec.domains[0].codebook(latents).unique())


def used_by_random_codes(latents):
    return used(tiny_codec(), latents)


def test_fewer_latents_than_codes_give_different_codes():
    codec = tiny_codec(codebook_size=20)
    for kind in ("kmeans", "data"):
        initialise_codebook(codec, 0, torch.randn(5, 6), kind, 5.0, seed=0)
        assert len(codec.domains[0].codebook.codes.unique(dim=0)) == 20
    same = torch.ones(50, 6)
    initialise_codebook(codec, 0, same, "kmeans", 5.0, seed=0)
    assert len(codec.domains[0].codebook.codes.unique(dim=0)) == 20
    assert codec.domains[0].codebook.codes.isfinite().all()


def test_random_codes_are_left_alone_and_other_words_refused():
    codec = tiny_codec()
    before = codec.domains[0].codebook.codes.clone()
    initialise_codebook(codec, 0, torch.randn(30, 6), "random", 5.0, seed=0)
    assert torch.equal(codec.domains[0].codebook.codes, before)
    with pytest.raises(ValueError, match="'kmean' is unknown"):
        initialise_codebook(codec, 0, torch.randn(30, 6), "kmean", 5.0, seed=0)


def test_measures_are_those_of_a_plain_loop_over_the_series():
    codec, series = tiny_codec().eval(), some_series()
    fit_statistics(codec, 0, series)
    measured = measure_codec(codec, 0, series)
    errors, codes = [], []
    for one in series:
        output = codec(torch.from_numpy(one)[None], domain=0)
        normalised = (output.reconstruction[0].detach() - torch.from_numpy(one)) / codec.domains[0].channel_scale
        errors.append(normalised.square()[~torch.from_numpy(one).isnan()])
        codes.append(
            output.codes[0][
                patches_with_values(~torch.from_numpy(one)[None].isnan(), codec.config.codec_domains[0])[0]
            ]
        )
    assert measured["normalised_mse"] == pytest.approx(float(torch.cat(errors).mean()), rel=1e-4)
    shares = torch.cat(codes).bincount() / len(torch.cat(codes))
    shares = shares[shares > 0]
    assert measured["codebook_perplexity"] == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-4)
    assert measured["codebook_use"] == len(shares) / 8
    assert measured["num_tokens"] == len(torch.cat(codes))


def test_the_learning_rate_is_multiplied_after_every_so_many_steps(tmp_path):
    from transformers import TrainingArguments

    from hf_tsrep.training import TimeSeriesTrainer

    arguments = TrainingArguments(
        str(tmp_path), learning_rate=1.0, warmup_steps=2, report_to="none", use_cpu=True, max_steps=12
    )
    trainer = TimeSeriesTrainer(model=torch.nn.Linear(1, 1), args=arguments, learning_rate_decay=(0.5, 3))
    optimizer = torch.optim.SGD(trainer.model.parameters(), lr=1.0)
    schedule = trainer.create_scheduler(12, optimizer)
    rates = []
    for _ in range(9):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_a_picture_of_tokens_is_drawn_and_wrong_shapes_are_refused(tmp_path):
    from hf_tsrep.visualization_tokens import plot_tokens

    series = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    path = plot_tokens(series, series + 0.1, np.arange(7) % 3, 3, tmp_path / "one.png", subtitle="seven tokens")
    assert path.read_bytes()[:4] == b"\x89PNG"
    for codes, reconstruction in ((np.arange(6), series), (np.arange(7), series[:19])):
        with pytest.raises(ValueError, match="do not fit"):
            plot_tokens(series, reconstruction, codes, 3, tmp_path / "two.png")
    assert not (tmp_path / "two.png").exists()


def test_the_pictured_series_is_neither_the_flattest_nor_the_wildest():
    from hf_tsrep.training.crosstimenet.codec_saving import _lively_series

    candidates = [np.linspace(0, size, 8, dtype=np.float32)[:, None] for size in (4, 1, 3, 2)]
    assert _lively_series(candidates, np.ones(1)) is candidates[0]
    candidates.append(np.full((8, 1), np.nan, dtype=np.float32))
    assert _lively_series(candidates, np.ones(1)) is candidates[2]


TINY = {"hidden_size": 8, "num_blocks": 1, "codebook_size": 8, "patch_length": 3}
QUICK = {"max_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
UNSEEN = "of series that the training did not see"


def with_validation(corpus):
    corpus["validation"] = corpus["test"]
    return corpus


def trained_card(corpora, folder, **fields):
    """Train a tokenizer for one step; return its card and what its record says of the domains."""
    pretrain("crosstimenet", corpora, folder, stage="tokenizer", **TINY, **QUICK, **fields)
    record = json.loads((folder / "pretraining.json").read_text())
    return (folder / "README.md").read_text(encoding="utf-8"), record["facts"]["domains"]


@pytest.mark.parametrize(
    ("prepare", "fields", "source", "expected", "wrong"),
    [
        (with_validation, {}, "validation part", f"All three are {UNSEEN}", "kept back may overlap"),
        (None, {}, "training series kept back", f"All three are {UNSEEN}", "Nothing was held out"),
        (None, {"validation_fraction": 0.0}, "training series", "Nothing was held out of `ecg`", UNSEEN),
        (None, {"validation_fraction": 0.01}, "training series", "Nothing was held out of `ecg`", UNSEEN),
    ],
)
def test_the_card_says_whether_anything_was_held_out(tmp_path, prepare, fields, source, expected, wrong):
    corpus = make_labelled_corpus()
    card, (domain,) = trained_card(corpus if prepare is None else prepare(corpus), tmp_path / "out", **fields)
    assert domain["measured_on"] == source
    assert expected in card
    assert wrong not in card
    assert f"| 8 | {source} |" in card


def test_domains_that_differ_are_told_apart(tmp_path):
    corpora = [make_labelled_corpus("ecg"), with_validation(make_labelled_corpus("har", 3))]
    card, _ = trained_card(corpora, tmp_path / "out", validation_fraction=0.0)
    assert "Nothing was held out of `ecg`: its figures are of the series that the codec was trained on." in card
    assert f"The others are {UNSEEN}" in card


def test_the_card_of_a_tokenizer_that_was_extended_lists_the_domains_that_it_took_over(tmp_path):
    make_domain_model().tokenizer.save_pretrained(tmp_path / "old")
    card, _ = trained_card(make_labelled_corpus("pulse"), tmp_path / "out", tokenizer=str(tmp_path / "old"))
    assert "# CrossTimeNet tokenizer of har, ecg, pulse" in card
    assert "| `har` | taken over from the tokenizer old | 3 | 4 | 16 | not measured again | | | |" in card
    assert "| `ecg` | taken over from the tokenizer old | 1 | 3 | 10 | not measured again | | | |" in card
    assert "| `pulse` | pulse | 1 | 3 | 8 | training series kept back |" in card
    assert str(tmp_path) not in card
