"""CrossTimeNetTokenizer: ids back to series, how well they stand for them, and the tools that take a tokenizer.

What takes processes of its own is in tests/integration/test_tokenizer_use.py.
"""

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from tiny_codec import random_values
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from hf_tsrep.tokenization import tokenization_crosstimenet
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

PAD, MASK, CLS, SEP = range(4)


def _decoded(tokenizer, codes, domain="har"):
    """Return what the codec itself makes of one row of codes."""
    return tokenizer.codec.decode_codes(torch.tensor([codes]), domain=domain)[0].numpy()


@pytest.mark.parametrize("hold", [list, np.asarray, torch.tensor, tuple])
def test_ids_of_one_series_become_one_series_whatever_holds_them(tokenizer, hold):
    found = tokenizer.decode(hold([4, 9, 19]))
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    assert found.shape == (12, 3)
    np.testing.assert_allclose(found, _decoded(tokenizer, [0, 5, 15]), rtol=1e-5, atol=1e-6)
    assert tokenizer.decode(4).shape == (4, 3)
    assert tokenizer.decode([22, 21]).shape == (6, 1)
    assert found.flags.writeable


def test_ids_of_several_series_become_as_many(tokenizer):
    rows = [[4, 9, 19], [5], [7, 7, 7, 8, 4, 19]]
    expected = [tokenizer.decode(row) for row in rows]
    width = max(map(len, rows))
    padded = [row + [PAD] * (width - len(row)) for row in rows]
    left = [[PAD] * (width - len(row)) + [CLS, *row, SEP] for row in rows]
    for hold in (
        tokenizer.decode(rows),
        tokenizer.batch_decode(rows),
        tokenizer.batch_decode(padded, skip_special_tokens=True),
        tokenizer.batch_decode(torch.tensor(padded)),
        tokenizer.batch_decode(np.asarray(padded)),
        tokenizer.batch_decode([torch.tensor(row) for row in left]),
        tokenizer.batch_decode(tokenizer.pad({"input_ids": rows})["input_ids"]),
    ):
        assert isinstance(hold, list)
        for found, wanted in zip(hold, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert len(tokenizer.batch_decode([4, 5])) == 1
    assert tokenizer.batch_decode([]) == tokenizer.decode(np.zeros((0, 3), dtype=np.int64), domain="har") == []


def test_a_round_trip_keeps_the_length(tokenizer, series):
    ragged = [series[0], series[1][:9], series[2][:1]]
    rows = tokenizer(ragged, domain="har")["input_ids"]
    again = tokenizer.batch_decode(rows, length=[len(one) for one in ragged])
    assert [one.shape for one in again] == [one.shape for one in ragged]
    assert [len(one) for one in tokenizer.batch_decode(rows)] == [20, 12, 4]
    assert [len(one) for one in tokenizer.batch_decode(rows, length=3)] == [3, 3, 3]
    with pytest.raises(ValueError, match="length=13 does not fit series 1: its 3 tokens are 12 timestamps"):
        tokenizer.batch_decode(rows, length=[20, 13, 1])
    with pytest.raises(ValueError, match="2 lengths for 3 series"):
        tokenizer.batch_decode(rows, length=[20, 9])
    for length in (2.7, True, "2", [20, 9.5, 1]):
        with pytest.raises(ValueError, match=r"length=.* must be a number of timestamps: a whole number"):
            tokenizer.batch_decode(rows, length=length)


def test_a_mask_is_the_code_before_it_and_never_nan(tokenizer):
    for ids, same in (
        ([4, MASK, MASK, 9], [0, 0, 0, 5]),
        ([MASK, MASK, 9, MASK], [5, 5, 5, 5]),
        ([CLS, MASK, 9, SEP, PAD], [5, 5]),
    ):
        np.testing.assert_allclose(tokenizer.decode(ids), _decoded(tokenizer, same), rtol=1e-5, atol=1e-6)
    mean = tokenizer.codec.domain_codec("har").channel_mean.numpy()
    nothing = tokenizer.decode([MASK, MASK], domain="har")
    np.testing.assert_allclose(nothing, np.tile(mean, (8, 1)))
    both = tokenizer.decode([[MASK], [4]])  # the other series tells the domain
    np.testing.assert_allclose(both[0], nothing[:4])
    with pytest.raises(ValueError, match="name one: domain='har' or 'ecg'"):
        tokenizer.decode([MASK])
    assert tokenizer.decode([PAD, CLS], domain="ecg").shape == (0, 1)


def test_ids_become_text_and_text_becomes_ids(tokenizer):
    ids = [CLS, 4, MASK, 20, SEP, PAD]
    text = "[CLS] <har_0> [MASK] <ecg_0> [SEP] [PAD]"
    assert tokenizer.decode(ids, as_text=True) == text
    assert tokenizer.decode(ids, as_text=True, skip_special_tokens=True) == "<har_0> <ecg_0>"
    assert tokenizer.batch_decode(torch.tensor([ids, ids]), as_text=True) == [text, text]
    assert tokenizer(text)["input_ids"] == ids
    assert tokenizer.batch_decode(ids, as_text=True) == [text]


@pytest.mark.parametrize(
    ("ids", "arguments", "message"),
    [
        ([4, 30], {}, "Id 30 of series 0 stands for no token.*0 to 3 are special.*20 to 29 codes of 'ecg'"),
        ([[4], [5, -1]], {}, "Id -1 of series 1"),
        ([4, 20], {}, "of the domains har, ecg; decode one domain a call"),
        ([[4], [20]], {}, "of the domains har, ecg"),
        ([4], {"domain": "ecg"}, "of domain 'har', but domain='ecg' was given"),
        ([4], {"domain": "egc"}, "Unknown domain 'egc'. Did you mean 'ecg'"),
        ([4.5], {}, "Row 0 holds float64"),
        (["<har_1>"], {}, "Row 0 holds"),
    ],
)
def test_ids_that_stand_for_no_code_are_named(tokenizer, ids, arguments, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(ids, **arguments)


def test_unknown_arguments_of_decoding_are_refused(tokenizer):
    with pytest.raises(TypeError, match="lenght"):
        tokenizer.decode([4], lenght=3)
    assert tokenizer.batch_decode([[4]], clean_up_tokenization_spaces=True)[0].shape == (4, 3)
    for arguments in ({"length": 3}, {"domain": "har"}, {"domain": 0}):
        with pytest.raises(TypeError, match=f"For text there is no {next(iter(arguments))}"):
            tokenizer.decode([4], as_text=True, **arguments)


def test_the_published_decoder_takes_what_fewer_tokens_lack_as_unknown(make_codec):
    domain = {"name": "har", "num_input_channels": 2, "patch_length": 2, "codebook_size": 5, "hidden_size": 4}
    domain |= {"num_blocks": 1, "decoder": "fixed_length", "context_length": 8}
    tokenizer = CrossTimeNetTokenizer.from_codec(make_codec([domain]))
    values = np.random.default_rng(0).normal(size=(3, 8, 2)).astype(np.float32)
    rows = tokenizer(values)["input_ids"]
    assert [one.shape for one in tokenizer.batch_decode(rows)] == [(8, 2)] * 3
    # The encoder does not mind a series that ends early, alone or in company.
    short = tokenizer([values[0], values[1][:6]])["input_ids"]
    assert short == [rows[0], rows[1][:3]] == [rows[0], tokenizer(values[1][:6])["input_ids"]]
    assert tokenizer.tokenize_values(torch.from_numpy(values[:, :6]))[0].tolist() == [row[:3] for row in rows]
    whole, cut = tokenizer.batch_decode(short)
    assert (whole.shape, cut.shape) == ((8, 2), (6, 2))
    np.testing.assert_allclose(cut, tokenizer.decode([*short[1], MASK])[:6], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole, tokenizer.decode(rows[0]), rtol=1e-4, atol=1e-5)
    assert tokenizer.decode(short[1], length=5).shape == (5, 2)
    assert tokenizer.decode([PAD]).shape == (0, 2)
    with pytest.raises(ValueError, match="published decoder for 4 tokens, but got 5"):
        tokenizer.decode([*rows[0], rows[0][0]])
    with pytest.raises(ValueError, match="9 timestamps, but domain 'har' has the published decoder for 8"):
        tokenizer(np.zeros((9, 2)))


def test_the_published_decoder_takes_one_length(make_codec):
    codec = make_codec(
        [
            {
                "name": "har",
                "num_input_channels": 2,
                "patch_length": 2,
                "codebook_size": 5,
                "hidden_size": 4,
                "num_blocks": 1,
                "decoder": "fixed_length",
                "context_length": 8,
            }
        ]
    )
    codes, _ = codec.encode_codes(random_values(3, 8, 2))
    assert codec.decode_codes(codes).shape == (3, 8, 2)
    with pytest.raises(ValueError, match="9 timestamps, but domain 'har' has the published decoder for 8"):
        codec.encode_codes(random_values(3, 9, 2))
    with pytest.raises(ValueError, match="published decoder for 4 tokens, but got 3"):
        codec.decode_codes(codes[:, :3])


def test_what_is_left_over_after_the_last_patch_of_the_published_decoder_has_no_token(make_codec):
    domain = {"name": "har", "num_input_channels": 2, "patch_length": 3, "codebook_size": 5, "hidden_size": 4}
    codec = make_codec([{**domain, "num_blocks": 1, "decoder": "fixed_length", "context_length": 11}])
    values = random_values(2, 11, 2)
    other = values.clone()
    other[:, 9:] += 5.0
    with torch.no_grad():
        output = codec(values)
        codes, known = codec.encode_codes(values)
        assert torch.equal(codec.encode_codes(other)[0], codes)
        torch.testing.assert_close(codec.decode_codes(codes), output.reconstruction)
    assert codes.shape == known.shape == output.codes.shape == (2, 3)
    assert output.reconstruction.shape == values.shape
    tokenizer = CrossTimeNetTokenizer.from_codec(codec)
    rows = tokenizer(values)["input_ids"]
    assert rows == (codes + 4).tolist()
    assert [one.shape for one in tokenizer.batch_decode(rows)] == [(11, 2)] * 2
    assert tokenizer.decode(rows[0][:2]).shape == (6, 2)
    assert tokenizer.evaluate(values)["num_tokens"] == 6


def test_evaluate_compares_with_what_is_decoded(tokenizer, series):
    ragged = [series[0], series[1][:9], np.concatenate([np.full((2, 3), np.nan, np.float32), series[2]]), series[3]]
    ragged[3] = ragged[3].copy()
    ragged[3][4:9, 1] = np.nan
    found = tokenizer.evaluate(ragged, domain="har")
    rows = tokenizer(ragged, domain="har")["input_ids"]
    clean = [ragged[0], ragged[1], series[2], ragged[3]]
    again = tokenizer.batch_decode(rows, length=[len(one) for one in clean])
    errors = np.concatenate([(one - other)[~np.isnan(other)] for one, other in zip(again, clean, strict=True)])
    codes = np.concatenate(rows) - 4
    shares = np.bincount(codes)[np.bincount(codes) > 0] / len(codes)
    assert found["mse"] == pytest.approx(np.mean(errors**2), rel=1e-4)
    assert found["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-4)
    assert found["normalised_mse"] == pytest.approx(np.mean((errors / 1.5) ** 2), rel=1e-4)
    assert found["codebook_use"] == len(shares) / 16
    assert found["codebook_perplexity"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert found["num_tokens"] == len(codes)
    assert found["num_values"] == len(errors)
    assert found["num_series"] == 4
    assert found["num_missing_tokens"] == 0


def test_evaluate_reads_batch_by_batch(tokenizer, series, monkeypatch):
    whole = tokenizer.evaluate(list(series), domain="har")
    monkeypatch.setattr(tokenization_crosstimenet, "STEPS_READ_AHEAD", 40)
    assert tokenizer.evaluate((one for one in series), domain="har") == pytest.approx(whole)


def test_evaluate_takes_a_corpus(tokenizer, series):
    holes = series.copy()
    holes[0, 4:8] = holes[1] = np.nan
    features = datasets.Features({"series": datasets.Array2D((None, 3), "float32")})
    rows = datasets.Dataset.from_dict({"series": list(holes)}, features=features)
    corpus = datasets.DatasetDict({"train": rows, "test": rows})
    found = tokenizer.evaluate(corpus["test"], domain="har")
    assert found == pytest.approx(tokenizer.evaluate(holes, domain="har"))
    assert found["num_missing_tokens"] == 2  # the hole, and the series without any value
    assert found["num_tokens"] == 5 * 4 + 1
    with pytest.raises(ValueError, match=r"Choose a split .*corpus\['train'\]: 'train', 'test'"):
        tokenizer.evaluate(corpus, domain="har")
    for text in ("uea/BasicMotions", ["uea/BasicMotions"]):
        with pytest.raises(
            ValueError, match=r"evaluate takes series .*not text such as .*uea/BasicMotions.*load_corpus"
        ):
            tokenizer.evaluate(text, domain="har")
    with pytest.raises(ValueError, match="None of the 1 series has an observed value"):
        tokenizer.evaluate(holes[1], domain="har")


def test_the_hash_is_of_what_it_does(tokenizer, series, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CrossTimeNetTokenizer.from_pretrained(tmp_path)

    def tokenise(rows):
        return loaded(rows["series"], domain="har")

    before = Hasher.hash(loaded), Hasher.hash(tokenise)
    loaded(list(series), domain="har", padding=True, add_special_tokens=True, return_tensors="pt")
    loaded(series[0], domain="har", padding=True, truncation=True, max_length=2)
    loaded("<har_1> [MASK]")
    loaded.decode([4, 5])
    loaded.evaluate(series, domain="har")
    len(loaded)
    loaded.all_special_ids  # noqa: B018 - it might be kept
    assert (Hasher.hash(loaded), Hasher.hash(tokenise)) == before
    assert Hasher.hash(CrossTimeNetTokenizer.from_pretrained(tmp_path)) == before[0]
    with torch.no_grad():
        loaded.codec.domains[1].codebook.codes[0, 0] += 1.0
    assert Hasher.hash(loaded) != before[0]
    assert Hasher.hash(tokenise) != before[1]


def test_the_tokenizer_works_in_the_map_of_datasets(tokenizer, series):
    ragged = [*series, series[0][:9]]
    expected = tokenizer(ragged, domain="har")
    features = datasets.Features({"series": datasets.Array2D((None, 3), "float32")})
    rows = datasets.Dataset.from_dict({"series": ragged}, features=features)
    batched = rows.map(lambda batch: tokenizer(batch["series"], domain="har"), batched=True, batch_size=4)
    assert list(batched["input_ids"]) == expected["input_ids"]
    assert list(batched["attention_mask"]) == expected["attention_mask"]
    single = rows.map(lambda row: tokenizer(row["series"], domain="har"))
    assert list(single["input_ids"]) == expected["input_ids"]
    arrays = rows.with_format("numpy").map(
        lambda batch: tokenizer(batch["series"], domain="har"), batched=True, batch_size=5
    )
    assert [row.tolist() for row in arrays["input_ids"]] == expected["input_ids"]


def test_the_collator_for_language_modelling_takes_the_tokens(tokenizer):
    generator = np.random.default_rng(0)
    # Series that repeat two shapes, so that what is hidden can be guessed from what is not.
    shapes = generator.normal(size=(2, 4, 3)).astype(np.float32) * 2
    several = [np.tile(shapes[index % 2], (length, 1)) for index, length in enumerate(generator.integers(4, 9, 32))]
    items = [tokenizer(one, domain="har") for one in several]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=0)
    batch = collator(items)
    hidden = batch["labels"] != -100
    assert 0.1 < float(hidden.sum() / batch["attention_mask"].sum()) < 0.5
    assert (batch["input_ids"][hidden] == tokenizer.mask_token_id).float().mean() > 0.6
    assert not hidden[batch["attention_mask"] == 0].any()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = BertForMaskedLM(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = model(**collator(items)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_mask_that_was_there_is_not_to_be_guessed(tokenizer, series):
    holes = series.copy()
    holes[:, 4:8] = np.nan
    batch = tokenizer(holes, domain="har", return_special_tokens_mask=True)
    assert [row[1] for row in batch["special_tokens_mask"]] == [1] * 5
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.9, seed=0)
    assert (collator([tokenizer(one, domain="har") for one in holes])["labels"][:, 1] == -100).all()
