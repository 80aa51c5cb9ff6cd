"""CrossTimeNetTokenizer: series and strings to ids, whatever holds them, and whatever stands beside them."""

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.tokenization import series_crosstimenet_codec, tokenization_crosstimenet

PAD, MASK, CLS, SEP = range(4)


@pytest.fixture
def expected(tokenizer, series):
    """Return the ids of the series by the codec itself."""
    codes, _ = tokenizer.codec.encode_codes(torch.from_numpy(series), domain="har")
    return (codes + 4).tolist()


def _ids(tokenizer, series, **arguments):
    return tokenizer(series, domain="har", **arguments)["input_ids"]


def test_ids_are_codes_after_the_special_tokens(tokenizer, series, expected):
    batch = tokenizer(series, domain="har")
    assert batch["input_ids"] == expected
    assert batch["attention_mask"] == [[1] * 5] * 5
    assert set(batch) == {"input_ids", "attention_mask"}
    assert len({one for row in expected for one in row}) > 5  # tokens that never differ would prove nothing
    assert tokenizer(series[:, :, :1], domain="ecg")["input_ids"][0][0] >= 20
    assert (tokenizer.first_id("har"), tokenizer.first_id("ecg"), len(tokenizer)) == (4, 20, 30)


@pytest.mark.parametrize(
    "hold",
    [
        list,
        tuple,
        torch.from_numpy,
        lambda values: list(torch.from_numpy(values)),
        lambda values: values.astype(np.float64),
        lambda values: values.tolist(),
        lambda values: [pd.DataFrame(one) for one in values],
        lambda values: [pl.DataFrame(one) for one in values],
        lambda values: datasets.Dataset.from_dict(
            {"series": list(values)}, features=datasets.Features({"series": datasets.Array2D((None, 3), "float32")})
        )["series"],
        lambda values: datasets.Dataset.from_dict({"series": values.tolist()}).with_format("numpy")["series"],
        lambda values: np.array([*values, None], dtype=object)[:-1],
    ],
)
def test_every_holder_of_several_series_gives_the_same_ids(tokenizer, series, expected, hold):
    assert _ids(tokenizer, hold(series)) == expected


@pytest.mark.parametrize(
    "hold", [np.asarray, torch.from_numpy, lambda values: values.tolist(), pd.DataFrame, pl.DataFrame]
)
def test_every_holder_of_one_series_gives_the_same_ids(tokenizer, series, expected, hold):
    assert _ids(tokenizer, hold(series[0])) == expected[0]
    one = tokenizer(hold(series[0]), domain="har", return_tensors="pt")
    assert one["input_ids"].tolist() == [expected[0]]
    assert one["attention_mask"].dtype == torch.int64


def test_one_channel_may_be_without_its_axis(tokenizer, series):
    flat = series[0, :, 0]
    ids = tokenizer(flat, domain="ecg")["input_ids"]
    for same in (flat[:, None], flat.tolist(), flat[:, None].tolist(), torch.from_numpy(flat)):
        assert tokenizer(same, domain="ecg")["input_ids"] == ids
    assert tokenizer([flat, flat[:6]], domain="ecg")["input_ids"] == [ids, ids[:2]]
    assert tokenizer([flat.tolist(), flat[:6].tolist()], domain="ecg")["input_ids"] == [ids, ids[:2]]


def test_ragged_series_pad_on_either_side(tokenizer, series, expected):
    ragged = [series[0], series[1][:8], series[2][:2]]
    rows = _ids(tokenizer, ragged)
    assert [len(row) for row in rows] == [5, 2, 1]
    assert rows[1] == expected[1][:2]
    right = tokenizer(ragged, domain="har", padding=True, return_tensors="pt")
    assert right["input_ids"].tolist() == [row + [PAD] * (5 - len(row)) for row in rows]
    assert right["attention_mask"].sum(1).tolist() == [5, 2, 1]
    left = tokenizer(ragged, domain="har", padding="max_length", max_length=7, padding_side="left")
    assert left["input_ids"] == [[PAD] * (7 - len(row)) + row for row in rows]
    assert left["attention_mask"][1] == [0] * 5 + [1] * 2
    padded = tokenizer.pad({"input_ids": rows}, return_tensors="np", pad_to_multiple_of=4)
    assert padded["input_ids"].shape == (3, 8)
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(ragged, domain="har", return_tensors="pt")


def test_truncation_leaves_room_for_the_special_tokens(tokenizer, series, expected):
    assert _ids(tokenizer, series[0], truncation=True, max_length=3) == expected[0][:3]
    assert _ids(tokenizer, series[0], max_length=2) == expected[0][:2]  # as every tokenizer of transformers
    framed = tokenizer(
        series[0],
        domain="har",
        add_special_tokens=True,
        truncation=True,
        max_length=4,
        return_special_tokens_mask=True,
        return_length=True,
    )
    assert framed["input_ids"] == [CLS, *expected[0][:2], SEP]
    assert framed["special_tokens_mask"] == [1, 0, 0, 1]
    assert framed["length"] == 4
    tokenizer.truncation_side = "left"
    assert _ids(tokenizer, series[0], truncation=True, max_length=2) == expected[0][-2:]
    with pytest.raises(ValueError, match="max_length=2 leaves no room"):
        tokenizer(series[0], domain="har", add_special_tokens=True, truncation=True, max_length=2)


def test_missing_patches_are_masks_and_a_missing_end_is_cut(tokenizer, series, expected):
    holes = series.copy()
    holes[0, 4:8] = np.nan  # a whole patch
    holes[1, 5:8, 1] = np.nan  # a part of one
    holes[2, 13:] = np.nan  # the end
    holes[3] = np.nan
    rows = _ids(tokenizer, holes)
    assert rows[0][:2] == [expected[0][0], MASK]
    assert MASK not in rows[0][2:]
    assert MASK not in rows[1]
    assert len(rows[2]) == 4
    assert rows[2][:3] == expected[2][:3]
    assert rows[3] == [MASK]
    assert rows[4] == expected[4]
    ids, attention, first = tokenizer.tokenize_values(torch.from_numpy(holes), domain="har")
    assert ids.dtype == first.dtype == torch.int64
    assert attention.dtype == torch.bool
    assert first.tolist() == [0] * 5
    assert attention.sum(1).tolist() == [5, 5, 4, 1, 5]
    assert (ids[~attention] == PAD).all()
    assert [row[keep].tolist() for row, keep in zip(ids, attention, strict=True)] == rows


def test_padding_on_either_side_changes_no_id(tokenizer, series):
    holes = series.copy()
    holes[1, 8:12] = np.nan
    holes[2, :, 0] = np.nan
    plain = _ids(tokenizer, holes)
    nothing = np.full((5, 7, 3), np.nan, dtype=np.float32)
    for before, behind in ((7, 0), (0, 7), (3, 6)):
        padded = np.concatenate([nothing[:, :before], holes, nothing[:, :behind]], axis=1)
        assert _ids(tokenizer, padded) == plain
        ids, attention, first = tokenizer.tokenize_values(torch.from_numpy(padded), domain="har")
        assert first.tolist() == [before] * 5
        assert ids.shape == (5, -(-padded.shape[1] // 4))
        assert [row[keep].tolist() for row, keep in zip(ids, attention, strict=True)] == plain
    garbage = torch.nan_to_num(torch.from_numpy(holes), nan=float("inf"))
    masked = tokenizer.tokenize_values(garbage, torch.from_numpy(~np.isnan(holes)), domain="har")
    assert masked[0].tolist() == plain


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    seed=st.integers(0, 2**31),
    steps=st.sampled_from([1, 16, 50, 10**6]),
)
def test_order_and_batch_size_change_no_id(shared_tokenizer, lengths, seed, steps):
    generator = np.random.default_rng(seed)
    several = [generator.normal(size=(length, 3)).astype(np.float32) for length in lengths]
    for one in several:
        one[generator.random(one.shape) < 0.1] = np.nan
    alone = [_ids(shared_tokenizer, one) for one in several]
    order = generator.permutation(len(several))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization_crosstimenet, "STEPS_READ_AHEAD", 5 * steps)
        patch.setattr(tokenization_crosstimenet.read_batches, "__defaults__", (1, steps))
        mixed = _ids(shared_tokenizer, [several[index] for index in order])
    assert [mixed[place] for place in np.argsort(order)] == alone


@pytest.fixture(scope="module")
def shared_tokenizer(make_codec):
    from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

    return CrossTimeNetTokenizer.from_codec(make_codec())


def test_a_long_series_goes_through_in_pieces(tokenizer, monkeypatch):
    generator = np.random.default_rng(3)
    long = generator.normal(size=(1203, 3)).astype(np.float32)
    long[generator.random(1203) < 0.2] = np.nan
    long[100:, 2] = np.nan  # what was last observed lies far behind
    long[0] = 1.0
    whole = _ids(tokenizer, long)
    decoded = tokenizer.decode(whole)
    plain, seen = series_crosstimenet_codec.codes_of_series, []

    def watched(network, values, distinct):
        seen.append(values.shape[1])
        return plain(network, values, distinct)

    monkeypatch.setattr(series_crosstimenet_codec, "STEPS_IN_CHUNK", 64)
    monkeypatch.setattr(series_crosstimenet_codec, "codes_of_series", watched)
    assert _ids(tokenizer, long) == whole
    assert len(seen) > 5
    assert max(seen) < 400
    np.testing.assert_allclose(tokenizer.decode(whole), decoded, rtol=1e-4, atol=1e-5)


def test_autocast_and_gradients_do_not_reach_the_codec(tokenizer, series, expected):
    values = torch.from_numpy(series).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ids, _, _ = tokenizer.tokenize_values(values, domain="har")
    assert ids.tolist() == expected
    assert not ids.is_inference()  # an embedding keeps its ids for the backward pass
    torch.nn.Embedding(30, 2)(ids).sum().backward()
    rounded = values.detach().bfloat16()
    again = tokenizer.tokenize_values(rounded, domain="har")[0]
    assert torch.equal(again, tokenizer.tokenize_values(rounded.float(), domain="har")[0])


def test_the_codec_stays_frozen(codec, tokenizer, series, expected):
    assert not any(one.requires_grad for one in tokenizer.codec.parameters())
    codec.train()(torch.from_numpy(series), domain="har").loss.backward()  # the one that it was made of
    assert _ids(tokenizer, series) == expected
    tokenizer.codec.train()
    before = {name: value.clone() for name, value in tokenizer.codec.state_dict().items()}
    assert _ids(tokenizer, series) == expected
    assert not any(module.training for module in tokenizer.codec.modules())
    assert all(torch.equal(value, before[name]) for name, value in tokenizer.codec.state_dict().items())


def test_strings_of_tokens_become_their_ids(tokenizer):
    assert tokenizer("<har_15> [MASK]")["input_ids"] == [19, MASK]
    assert tokenizer("<har_0><ecg_9>[SEP]")["input_ids"] == [4, 29, SEP]
    batch = tokenizer(["<har_1>", "<har_2> [PAD] <har_3>"], padding=True, return_tensors="pt")
    assert batch["input_ids"].tolist() == [[5, PAD, PAD], [6, PAD, 7]]
    assert tokenizer("<har_1>", add_special_tokens=True)["input_ids"] == [CLS, 5, SEP]
    assert tokenizer(text="<har_1>")["input_ids"] == tokenizer.encode("<har_1>") == [5]
    assert tokenizer.tokenize("<har_1> [MASK]<ecg_2>") == ["<har_1>", "[MASK]", "<ecg_2>"]
    assert tokenizer(["<har_1>", "[MASK]"], is_split_into_words=True)["input_ids"] == [5, MASK]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<har_1> <hra_17>", "Unknown token '<hra_17>'. Did you mean '<har_17>'"),
        ("<har_16>", "'<har_16>': domain 'har' has codes 0 to 15"),
        ("<har_01>", "Unknown token '<har_01>'"),
        ("[MASKS]", "S"),
        ("walking", "Unknown token 'walking'. Tokens look like"),
        (["<har_1>", "<har"], "Unknown token '<'"),
    ],
)
def test_unknown_tokens_are_named(tokenizer, text, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(text)


def test_the_vocabulary_names_every_code_of_every_domain(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(30)) == list(range(len(tokenizer)))
    assert tokenizer.vocab_size == 30
    for token, index in vocabulary.items():
        assert tokenizer.convert_tokens_to_ids(token) == index
        assert tokenizer.convert_ids_to_tokens(index) == token
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4, 20]) == [
        "[PAD]",
        "[MASK]",
        "[CLS]",
        "[SEP]",
        "<har_0>",
        "<ecg_0>",
    ]
    ids = (tokenizer.pad_token_id, tokenizer.mask_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert ids == (PAD, MASK, CLS, SEP)
    assert tokenizer.all_special_ids == [SEP, PAD, CLS, MASK]
    for wrong in (-1, 30):
        with pytest.raises(ValueError, match=f"Id {wrong} stands for no token.*4 to 19 codes of 'har'"):
            tokenizer.convert_ids_to_tokens(wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.transpose(0, 2, 1)[0],
            r"\(3, 20\); expected \(time, 3\): 3 channel\(s\) last. T",
        ),
        (lambda values: values[:, :, :2], r"\(20, 2\); expected \(time, 3\)"),
        (lambda values: [values[0], values[0][:, :1]], r"series 1 has shape \(20, 1\)"),
        (lambda values: [values[0], values[0][:0]], "series 1 has no timestamps"),
        (lambda values: values[0][:0], "the series has no timestamps"),
        (lambda values: values[:, :0], "no timestamps"),
        (lambda values: [["a", "b", "c"]], "the series|series 0 does not hold numbers.*text"),
        (lambda values: [[[1.0, "2.0", 3.0]]], "series 0 does not hold numbers.*text"),
        (lambda values: [[[1.0, 2.0, 3.0], [1.0]]], "series 0 does not hold numbers in equal rows"),
        (
            lambda values: pd.DataFrame({"when": ["x"], "load": [1.0], "oil": [2.0]}),
            "column 'when' holds str",
        ),
        (
            lambda values: np.where(values == values[3, 1, 2], np.inf, values),
            "series 3 is infinite at timestamp 1, ch",
        ),
        (lambda values: [values[0], np.full((4, 3), -np.inf)], "series 1 is infinite at timestamp 0, channel 0"),
        (lambda values: {"series": values}, r"dataset\['series'\]"),
        (lambda values: 3.0, "not a float"),
        (lambda values: ["<har_1>", values[0]], "Item 0 is a string and item 1 a ndarray"),
    ],
)
def test_bad_series_are_named(tokenizer, series, change, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        tokenizer(change(series), domain="har")


def test_bad_arguments_of_the_tokenizer_are_named(tokenizer, series):
    for domain, message in (("hra", "Unknown domain 'hra'. Did you mean 'har'"), (None, "2 domains; name one")):
        with pytest.raises(ValueError, match=message):
            tokenizer(series, domain=domain)
    with pytest.raises(ValueError, match="name their own domain"):
        tokenizer("<har_1>", domain="har")
    with pytest.raises(TypeError, match="no stride"):
        tokenizer(series, domain="har", stride=2)
    for unknown in (None, False, 0):
        with pytest.raises(TypeError, match="no domian"):
            tokenizer(series, domain="har", domian=unknown)
    assert tokenizer(series, domain="har", return_token_type_ids=False, stride=0).keys() == {
        *tokenizer.model_input_names
    }
    values = torch.from_numpy(series)
    with pytest.raises(ValueError, match="past_observed_mask has shape"):
        tokenizer.tokenize_values(values, values[:2] > 0, domain="har")
    with pytest.raises(ValueError, match=r"past_values has shape \(20, 3\)"):
        tokenizer.tokenize_values(values[0], domain="har")
    values[2, 3, 1] = -torch.inf
    with pytest.raises(ValueError, match="Series 2 is infinite at timestamp 3, channel 1"):
        tokenizer.tokenize_values(values, domain="har")


def test_nothing_is_a_batch_of_nothing(tokenizer, series):
    assert _ids(tokenizer, []) == []
    assert _ids(tokenizer, series[:0]) == []
    assert dict(tokenizer([], domain="har")) == {"input_ids": [], "attention_mask": []}
    assert "attention_mask" not in tokenizer([], domain="har", return_attention_mask=False)
    ids, attention, first = tokenizer.tokenize_values(torch.zeros(0, 9, 3), domain="har")
    assert ids.shape == attention.shape == (0, 3)
    assert first.shape == (0,)
