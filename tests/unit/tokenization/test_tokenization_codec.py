"""CrossTimeNetCodec: what its networks, its codebook and its loss promise."""

import copy

import numpy as np
import pytest
import tiny_codec
import torch
from benchmark.plain_crosstimenet import PlainCodec
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_codec import random_values

from hf_tsrep.tokenization import kernels_codes, series_crosstimenet_codec
from hf_tsrep.tokenization.codebook_vector_quantization import Codebook, nearest_codes, perplexity_of_counts
from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec, fill_missing
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CodecDomain, CrossTimeNetCodecConfig
from hf_tsrep.tokenization.kernels_codes import distinct_codes, exact_codes
from hf_tsrep.tokenization.layers_causal_convolution import CausalConvolution, CausalConvolutionNetwork
from hf_tsrep.tokenization.series_crosstimenet_codec import codes_of_series


def _codebook(size=4, width=3, threshold=0.0, seed=0):
    book = Codebook(size, width, decay=0.9, epsilon=1e-3, dead_code_threshold=threshold)
    book.start_from(random_values(size, width, seed=seed), torch.arange(1.0, size + 1))
    return book


def test_encoder_and_decoder_see_no_future(codec):
    values = random_values(2, 24, 3)
    changed = values.clone()
    changed[:, 16:] += 10.0
    network = codec.domain_codec("har")
    with torch.no_grad():
        before, after = (network.latents(network.normalise(one, ~one.isnan())) for one in (values, changed))
        torch.testing.assert_close(before[:4], after[:4], rtol=0, atol=1e-6)
        assert (before[4:] - after[4:]).abs().amax(-1).min() > 1e-3
        codes = torch.arange(12).view(2, 6) % 16
        other = codes.clone()
        other[:, 4:] = 15 - other[:, 4:]
        first, second = (codec.decode_codes(one, domain="har") for one in (codes, other))
    torch.testing.assert_close(first[:, :16], second[:, :16], rtol=0, atol=1e-6)
    assert not torch.allclose(first[:, 16:], second[:, 16:], atol=1e-3)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 23, 24, 400])
def test_the_codec_takes_any_length(codec, length):
    values = random_values(2, length, 3)
    with torch.no_grad():
        output = codec(values, domain="har")
        codes, observed = codec.encode_codes(values, domain="har")
        decoded = codec.decode_codes(codes, domain="har", length=length)
    assert output.reconstruction.shape == values.shape
    assert codes.shape == observed.shape == (2, -(-length // 4))
    assert observed.all()
    torch.testing.assert_close(decoded, output.reconstruction, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(codes, output.codes)
    assert output.loss.isfinite()


def test_a_masked_tail_is_not_in_the_loss(codec):
    values = random_values(3, 13, 3)
    padded = torch.nn.functional.pad(values, (0, 0, 0, 11), value=torch.nan)
    garbage = torch.nn.functional.pad(values, (0, 0, 0, 11), value=77.0)
    with torch.no_grad():
        plain = codec(values, domain="har")
        others = [
            codec(padded, domain="har"),
            codec(garbage, past_observed_mask=~padded.isnan(), domain="har"),
        ]
    for other in others:
        for name in ("loss", "reconstruction_loss", "commitment_loss", "codebook_perplexity"):
            torch.testing.assert_close(other[name], plain[name], rtol=1e-5, atol=1e-6)


def test_the_loss_is_the_plain_formula(codec):
    values = random_values(2, 8, 3)
    values[0, 2, 1] = torch.nan
    with torch.no_grad():
        output = codec(values, domain="har")
    network = codec.domain_codec("har")
    scaled = ((output.reconstruction - values) / network.channel_scale)[~values.isnan()]
    quantised = network.codebook.codes[output.codes]
    commitment = (output.latents - quantised).square().mean()
    torch.testing.assert_close(output.reconstruction_loss, scaled.square().mean())
    torch.testing.assert_close(output.commitment_loss, commitment)
    torch.testing.assert_close(output.loss, scaled.square().mean() + 0.25 * commitment)


def test_missing_values_are_filled_forward_and_never_nan(codec):
    values = torch.tensor([[[np.nan, 1.0], [2.0, np.nan], [np.nan, np.nan], [3.0, 4.0]]])
    filled = fill_missing(values, ~values.isnan())
    torch.testing.assert_close(filled, torch.tensor([[[0.0, 1.0], [2.0, 1.0], [2.0, 1.0], [3.0, 4.0]]]))
    series = random_values(4, 20, 3)
    series[torch.rand(series.shape, generator=torch.Generator().manual_seed(1)) < 0.6] = torch.nan
    series[3] = torch.nan
    codec.train()
    output = codec(series, domain="har")
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.reconstruction.isfinite().all()
    assert all(one.grad.isfinite().all() for one in codec.domains[0].parameters())
    assert all(one.isfinite().all() for one in codec.state_dict().values())


def test_the_codebook_follows_the_plain_moving_average():
    book = _codebook()
    codes, counts, sums = (value.clone().numpy().astype(np.float64) for value in (book.codes, book.counts, book.sums))
    latents, indices = random_values(7, 3, seed=2), torch.tensor([0, 0, 1, 3, 3, 3, 0])
    book.update(latents, indices)
    for code in range(4):
        mine = latents.numpy()[indices.numpy() == code]
        counts[code] = 0.9 * counts[code] + 0.1 * len(mine)
        sums[code] = 0.9 * sums[code] + 0.1 * mine.sum(0)
    total = counts.sum()
    for code in range(4):
        codes[code] = sums[code] / ((counts[code] + 1e-3) / (total + 4 * 1e-3) * total)
    np.testing.assert_allclose(book.counts, counts, rtol=1e-5)
    np.testing.assert_allclose(book.sums, sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(book.codes, codes, rtol=1e-5, atol=1e-6)


def test_a_step_without_any_value_moves_no_codebook():
    torch.manual_seed(0)
    fresh = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[tiny_codec.DOMAINS[0]])).train()
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    fresh(torch.full((2, 8, 3), torch.nan)).loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())
    fresh(random_values(2, 8, 3))
    assert all(value.isfinite().all() for value in fresh.state_dict().values())


def test_dead_codes_are_replaced_by_latents_of_the_batch():
    book = _codebook(threshold=0.95)  # the first code's count falls from 1 to 0.9
    latents, indices = random_values(5, 3, seed=3) + 20.0, torch.tensor([1, 2, 3, 1, 2])
    book.update(latents, indices, torch.Generator().manual_seed(0))
    distances = (latents - book.codes[0]).abs().amax(1)
    assert distances.min() == 0.0
    assert book.counts[0] == torch.tensor(0.95)
    torch.testing.assert_close(book.sums[0], book.codes[0] * 0.95)
    plain = _codebook()
    plain.update(latents, indices)
    torch.testing.assert_close(book.codes[1:], plain.codes[1:])
    assert (plain.codes[0] - latents).abs().min() > 1.0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 9), st.integers(0, 2**31))
def test_nearest_codes_are_those_of_brute_force(num_latents, num_codes, width, seed):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(num_latents, width, generator=generator)
    codes = torch.randn(num_codes, width, generator=generator)
    found = nearest_codes(latents, codes)
    distances = (latents.double().unsqueeze(1) - codes.double()).square().sum(-1)
    chosen = distances.gather(1, found.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(chosen, distances.amin(1), rtol=1e-4, atol=1e-5)


def test_autocast_changes_no_code_of_the_codebook(codec):
    latents, book = random_values(500, 8), codec.domains[0].codebook.codes
    plain = nearest_codes(latents, book)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(nearest_codes(latents, book), plain)
        product = latents @ book.t()
    assert product.dtype == torch.bfloat16  # the test would be empty without autocast


def test_perplexity_counts_evenly_used_codes():
    assert float(perplexity_of_counts(torch.tensor([5, 5, 5, 5]))) == pytest.approx(4.0)
    assert float(perplexity_of_counts(torch.tensor([9, 0, 0]))) == pytest.approx(1.0)
    assert float(perplexity_of_counts(torch.tensor([3, 1]))) == pytest.approx(
        np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    )


def test_only_training_moves_the_codebook_and_only_of_its_domain(codec):
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    codec.eval()
    codec(random_values(4, 20, 3), domain="har")
    for name, value in codec.state_dict().items():
        assert torch.equal(value, before[name]), name
    codec.train()
    codec(random_values(4, 20, 3), domain="har")
    changed = {name for name, value in codec.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"domains.0.codebook.{name}" for name in ("codes", "counts", "sums")}


def test_every_parameter_of_the_domain_gets_a_gradient(codec):
    codec.train()
    codec(random_values(4, 20, 3), domain="har").loss.backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in codec.domains[0].parameters())
    assert all(one.grad is None for one in codec.domains[1].parameters())


def test_a_new_domain_leaves_the_others_as_they_are(codec):
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    codec.add_domain(CodecDomain("eeg", 2, 5, codebook_size=6, hidden_size=4, num_blocks=1))
    assert [one.name for one in codec.config.codec_domains] == ["har", "ecg", "eeg"]
    for name, value in before.items():
        assert torch.equal(codec.state_dict()[name], value)
    assert codec.encode_codes(random_values(2, 11, 2), domain="eeg")[0].shape == (2, 3)
    assert codec.domain_index("eeg") == 2
    with pytest.raises(ValueError, match="Several domains are called har"):
        codec.add_domain({"name": "har", "num_input_channels": 1, "patch_length": 1})
    assert len(codec.domains) == 3


@pytest.mark.parametrize("kernel_size", [1, 3, 4])
def test_the_convolution_has_its_analytic_gradient(kernel_size):
    generator = torch.Generator().manual_seed(0)
    convolution = CausalConvolution(3, 2, kernel_size).double()
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for length, batch_size in ((1, 1), (3, 2), (9, 2)):
        hidden = torch.randn(length, batch_size, 3, generator=generator, dtype=torch.float64, requires_grad=True)

        def apply(hidden, weight, bias):
            return torch.func.functional_call(convolution, {"weight": weight, "bias": bias}, (hidden,))

        assert torch.autograd.gradcheck(apply, (hidden, convolution.weight, convolution.bias))
        padded = torch.nn.functional.pad(hidden.permute(1, 2, 0), (2 * (kernel_size - 1), 0))
        expected = torch.nn.functional.conv1d(padded, convolution.weight, convolution.bias, dilation=2)
        torch.testing.assert_close(convolution(hidden), expected.permute(2, 0, 1))


@pytest.mark.parametrize("options", [{}, {"dilations": (1, 2, 3), "kernel_size": 2, "gated": False}])
def test_inference_in_place_equals_the_plain_pass(options):
    network = CausalConvolutionNetwork(8, 2, 0.1, **options).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    hidden = torch.randn(40, 3, 8, generator=generator)
    kept = hidden.clone()
    plain = network(hidden)
    with torch.no_grad():
        fast = network(hidden)
    torch.testing.assert_close(fast, plain.detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(hidden, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "HAR 1"}, "'HAR 1'; take lower-case"),
        ({"patch_length": 0}, "patch_length is 0; it must be a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": "a"}, "'har': dropout is 'a'; it must be a number"),
        ({"commitment_weight": None}, "commitment_weight is None; it must be a number"),
        ({"decoder": "any"}, "decoder is 'any'; it must be one of any_length, fixed_length"),
        ({"decoder": "fixed_length", "context_length": 3}, "context_length is 3; it must be at least patch_length=4"),
        ({"dilations": [1, 0]}, "dilations is .1, 0.; it must be one or more whole numbers"),
        ({"dilations": 4}, "dilations is 4; it must be"),
        ({"kernel_size": 0}, "kernel_size is 0; it must be"),
        ({"gated_blocks": 1}, "gated_blocks is 1; it must be true or false"),
        ({"context_length": 8}, "context_length is 8; it must be None"),
        ({"codebok_size": 8}, "no field 'codebok_size'. Did you mean 'codebook_size'"),
    ],
)
def test_bad_domains_are_named(change, message):
    fields = {"name": "har", "num_input_channels": 3, "patch_length": 4, **change}
    with pytest.raises(ValueError, match=message):
        CrossTimeNetCodecConfig(domains=[fields])

    with pytest.raises(ValueError, match=r"a CodecDomain or a mapping of its fields, .* got 'q'"):
        CrossTimeNetCodec(CrossTimeNetCodecConfig()).add_domain("q")


def test_bad_arguments_of_the_codec_are_named(codec):
    values = random_values(2, 8, 3)
    for arguments, message in (
        ({}, "2 domains; name one: domain='har' or 'ecg'"),
        ({"domain": "hra"}, "Unknown domain 'hra'. Did you mean 'har'"),
        ({"domain": 2}, "Unknown domain 2"),
        ({"domain": True}, "Unknown domain True"),
        ({"domain": "ecg"}, r"\(2, 8, 3\); domain 'ecg' takes .*num_input_channels=1"),
    ):
        with pytest.raises(ValueError, match=message):
            codec(values, **arguments)
    with pytest.raises(ValueError, match="past_observed_mask has shape"):
        codec(values, past_observed_mask=values[:1].isnan(), domain="har")
    for wrong in (-1, 16):
        with pytest.raises(ValueError, match=f"Code {wrong} is out of range: domain 'har' has codes 0 to 15"):
            codec.decode_codes(torch.tensor([[0, wrong]]), domain="har")


# Codes that rounding could decide: they must be those of exact arithmetic, whatever is computed together.


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
    for seed in range(4):
        values = random_values(33, 40, 3, seed=seed)
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


def test_only_doubtful_series_are_encoded_again(codec, monkeypatch):
    values = random_values(33, 40, 3)
    network, _ = _tied(codec, values)
    plain, seen = kernels_codes.nearest_and_doubt, []

    def watched(latents, codebook):
        seen.append((latents.dtype, len(latents)))
        return plain(latents, codebook)

    monkeypatch.setattr(kernels_codes, "nearest_and_doubt", watched)
    monkeypatch.setattr(series_crosstimenet_codec, "nearest_and_doubt", watched)
    with torch.inference_mode():
        codes_of_series(network, values, distinct_codes(network.codebook.codes)[0])
    again = sum(rows for dtype, rows in seen if dtype == torch.float64)
    assert 10 <= again <= 3 * 10
    assert sum(rows for dtype, rows in seen if dtype == torch.float32) == 33 * 10


def test_of_equal_codes_the_first_is_taken_without_doubt(codec, monkeypatch):
    network = codec.domains[0]
    values = random_values(8, 40, 3)
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


def test_the_plain_side_of_the_benchmark_computes_the_same():
    torch.manual_seed(0)
    domain = {"name": "har", "num_input_channels": 3, "patch_length": 4, "hidden_size": 16, "codebook_size": 16}
    sizes = {"dropout": 0.0, "decoder": "fixed_length", "context_length": 24}
    codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[domain | sizes]))
    values = random_values(4, 24, 3)
    with torch.no_grad():
        for name, parameter in codec.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.3)
        plain, ours = PlainCodec(codec.domains[0]).eval(), codec.eval()(values)
        torch.testing.assert_close(plain.codes(plain.latents(values)), ours.codes.flatten())
        torch.testing.assert_close(plain.loss(values), ours.loss)  # Last, for it moves the codebook that both share.
