"""Codes that rounding could decide: they must be those of exact arithmetic, whatever is computed together."""

import copy

import torch

from hf_tsrep.tokenization import codec_crosstimenet
from hf_tsrep.tokenization.codec_crosstimenet import distinct_codes, exact_codes


def _values(num_series, seed=0):
    return torch.randn(num_series, 40, 3, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def _tied(codec, values):
    """Give the codebook two codes that are all but equally far from a latent of the first series."""
    network = codec.domains[0]
    book = network.codebook.codes
    precise = copy.deepcopy(network).double()
    latents = precise.latents(precise.normalise(values, ~values.isnan()))[:, 0]
    aside = torch.linspace(-1, 1, book.shape[1], dtype=torch.float64) * 0.1
    book[3], book[4] = (latents[5] + aside).float(), (latents[5] - aside).float()
    return network, latents


def test_a_tie_is_decided_alike_in_every_company(make_codec):
    num_otherwise = 0
    for seed in range(12):
        values = _values(33, seed)
        codec = make_codec()
        network, latents = _tied(codec, values)
        book = network.codebook.codes
        expected = (latents.unsqueeze(1) - book.double()).square().sum(-1).argmin(1)
        assert expected[5] in (3, 4)
        distinct, places = distinct_codes(book)
        with torch.inference_mode():
            for company in (1, 3, 17, 33):
                for length in (40, 24):
                    part = values[:company, :length]
                    found = places[exact_codes(network, part, distinct)]
                    assert torch.equal(found[0], expected[: length // 4]), (seed, company, length)
                    num_otherwise += int(
                        (codec.encode_codes(part, domain="har")[0][0] != expected[: length // 4]).sum()
                    )
    assert num_otherwise > 0  # rounding does decide some of them otherwise, or there was nothing to test


def test_only_doubtful_series_are_encoded_again(codec, monkeypatch):
    values = _values(33)
    network, _ = _tied(codec, values)
    plain, seen = codec_crosstimenet._nearest, []

    def watched(network, values, distinct, doubt):
        seen.append((distinct.dtype, len(values)))
        return plain(network, values, distinct, doubt)

    monkeypatch.setattr(codec_crosstimenet, "_nearest", watched)
    with torch.inference_mode():
        exact_codes(network, values, distinct_codes(network.codebook.codes)[0])
    again = sum(rows for dtype, rows in seen if dtype == torch.float64)
    assert 1 <= again <= 3
    assert sum(rows for dtype, rows in seen if dtype == torch.float32) == 33


def test_of_equal_codes_the_first_is_taken_without_doubt(codec, monkeypatch):
    network = codec.domains[0]
    values = _values(8)
    plain, _ = codec.encode_codes(values, domain="har")
    with torch.no_grad():
        network.codebook.codes[8:] = network.codebook.codes[:8].clone()
    distinct, places = distinct_codes(network.codebook.codes)
    assert sorted(places.tolist()) == list(range(8))
    assert torch.equal(distinct, network.codebook.codes[places])

    def refuse(self, *arguments):
        raise AssertionError("encoded again")

    monkeypatch.setattr(type(network), "double", refuse)
    with torch.inference_mode():
        found = places[exact_codes(network, values, distinct)]
        one = exact_codes(network, values, network.codebook.codes[:1])
    assert torch.equal(found, codec.encode_codes(values, domain="har")[0])
    assert found.max() < 8 <= plain.max()
    assert not one.any()
