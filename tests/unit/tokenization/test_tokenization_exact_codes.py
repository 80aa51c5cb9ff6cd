"""Codes that rounding could decide: they must be those of exact arithmetic, whatever is computed together."""

import copy

import pytest
import torch

from hf_tsrep.tokenization import kernels_codes
from hf_tsrep.tokenization.codebook_vector_quantization import nearest_codes
from hf_tsrep.tokenization.codec_crosstimenet import codes_of_series
from hf_tsrep.tokenization.kernels_codes import distinct_codes, exact_codes


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
                    found = places[codes_of_series(network, part, distinct)]
                    assert torch.equal(found[0], expected[: length // 4]), (seed, company, length)
                    num_otherwise += int(
                        (codec.encode_codes(part, domain="har")[0][0] != expected[: length // 4]).sum()
                    )
    assert num_otherwise > 0  # rounding does decide some of them otherwise, or there was nothing to test


@pytest.mark.parametrize("codebook_size", [1, 7, 32, 100])
def test_the_kernel_finds_what_the_plain_search_finds(codebook_size):
    generator = torch.Generator().manual_seed(codebook_size)
    latents = torch.randn(200, 16, generator=generator)
    codebook = torch.randn(codebook_size, 16, generator=generator)
    assert torch.equal(exact_codes(latents, codebook), nearest_codes(latents, codebook))
    between = (codebook[0] + codebook[-1]) / 2  # a tie, which the first of equally near codes in float64 wins
    scores = (between.double() - codebook.double()).square().sum(1)
    assert exact_codes(between[None], codebook).item() == scores.argmin()


def test_only_doubtful_latents_are_looked_at_again(codec, monkeypatch):
    values = _values(33)
    network, _ = _tied(codec, values)
    plain, seen = kernels_codes._nearest, []

    def watched(latents, codebook, doubt):
        seen.append((codebook.dtype, len(latents)))
        return plain(latents, codebook, doubt)

    monkeypatch.setattr(kernels_codes, "_nearest", watched)
    with torch.inference_mode():
        codes_of_series(network, values, distinct_codes(network.codebook.codes)[0])
    again = sum(rows for dtype, rows in seen if dtype == torch.float64)
    assert 1 <= again <= 3
    assert sum(rows for dtype, rows in seen if dtype == torch.float32) == 33 * 10


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
        found = places[codes_of_series(network, values, distinct)]
        one = codes_of_series(network, values, network.codebook.codes[:1])
    assert torch.equal(found, codec.encode_codes(values, domain="har")[0])
    assert found.max() < 8 <= plain.max()
    assert not one.any()
