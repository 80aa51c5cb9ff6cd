"""The measured cases of CrossTimeNet's codec, at its published settings for HAR: 128 x 9, width 64, 512 codes."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

LENGTH, NUM_CHANNELS, PATCH_LENGTH = 128, 9, 2


def _codec(dropout: float) -> Any:
    from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec
    from hf_tsrep.tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig

    torch.manual_seed(0)
    domain = {
        "name": "har",
        "num_input_channels": NUM_CHANNELS,
        "patch_length": PATCH_LENGTH,
        "dropout": dropout,
        "decoder": "fixed_length",
        "context_length": LENGTH,
    }
    codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=[domain]))
    with torch.no_grad():  # Gates away from their start at 0, so that a difference in any block would show.
        for name, parameter in codec.named_parameters():
            if name.endswith("gate"):
                parameter.fill_(0.3)
    return codec


def _operations(codec: Any, num_series: int) -> tuple[float, float]:
    """Return the operations of the encoder's and of the whole codec's matrix products, additions counted too."""
    domain = codec.domains[0].domain
    width, steps, patches = domain.hidden_size, num_series * LENGTH, num_series * LENGTH // PATCH_LENGTH
    network = steps * (domain.num_blocks * 4 * 3 * width**2 + width**2)
    encoder = network + steps * NUM_CHANNELS * width + patches * PATCH_LENGTH * width**2
    search = patches * domain.codebook_size * width
    decoder = network + steps * NUM_CHANNELS * width + num_series * LENGTH * (LENGTH // PATCH_LENGTH) * width
    return 2.0 * (encoder + search), 2.0 * (encoder + search + decoder)


def tokenize(plain: bool) -> dict[str, Any]:
    """Turn 2,048 series of 128 x 9 into ids, as the tokenizer does."""
    from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

    from .plain_crosstimenet import PlainCodec

    codec = _codec(0.1).eval()
    tokenizer = CrossTimeNetTokenizer.from_codec(codec)
    first_id = tokenizer.first_id("har")
    values = torch.randn(2048, LENGTH, NUM_CHANNELS, generator=torch.Generator().manual_seed(0))
    plain_codec = PlainCodec(codec.domains[0]).eval()

    def run() -> torch.Tensor:
        if not plain:
            return tokenizer.tokenize_values(values)[0] - first_id
        parts = [plain_codec.codes(plain_codec.latents(part)) for part in values.split(32)]
        return torch.cat(parts).view(len(values), -1)

    with torch.inference_mode():
        run()
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            codes = run()
            seconds.append(time.perf_counter() - start)
        # Of nearly equal distances either code may be found; the distance of what was found tells whether it is right.
        chosen = codec.domains[0].codebook.look_up(codes[:64])
        sample = (plain_codec.latents(values[:64]) - chosen).square().sum(-1).flatten().tolist()
    return {"seconds": min(seconds), "sample": sample, "operations": _operations(codec, len(values))[0]}


def exact_codes_kernel(plain: bool, num_series: int = 512) -> dict[str, Any]:
    """Find the codes that exact arithmetic finds; the plain side computes everything in float64."""
    from hf_tsrep.tokenization.kernels_codes import distinct_codes
    from hf_tsrep.tokenization.series_crosstimenet_codec import codes_of_series

    network = _codec(0.1).eval().domains[0]
    values = torch.randn(num_series, LENGTH, NUM_CHANNELS, generator=torch.Generator().manual_seed(0))
    distinct, _ = distinct_codes(network.codebook.codes)

    def run() -> torch.Tensor:
        if not plain:
            return codes_of_series(network, values, distinct)
        precise = copy.deepcopy(network).double()
        found = []
        for part in values.double().split(32):
            latents = precise.latents(precise.normalise(part, ~part.isnan()))  # (num_patches, batch_size, hidden_size)
            found.append(torch.cdist(latents, distinct.double()).argmin(-1).t())
        return torch.cat(found)

    with torch.inference_mode():
        run()
        start = time.perf_counter()
        codes = run()
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "sample": codes.flatten().tolist()}


def tokenizer_step(plain: bool) -> dict[str, Any]:
    """Train the codec on 32 series of 128 x 9, dropout included; seconds a step. The sample is of steps without it."""
    from .plain_crosstimenet import PlainCodec

    def step(codec: Any, plain_codec: PlainCodec, optimizer: torch.optim.Optimizer) -> float:
        loss = plain_codec.loss(values) if plain else codec(values).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    values = torch.randn(32, LENGTH, NUM_CHANNELS, generator=torch.Generator().manual_seed(0))
    results: dict[float, tuple[float, list[float]]] = {}
    for dropout in (0.0, 0.1):
        codec = _codec(dropout).train()
        plain_codec = PlainCodec(codec.domains[0]).train()
        optimizer = torch.optim.Adam(codec.parameters(), lr=5e-4, weight_decay=1e-5)
        losses = [step(codec, plain_codec, optimizer) for _ in range(3)]
        start = time.perf_counter()
        for _ in range(10):
            step(codec, plain_codec, optimizer)
        results[dropout] = (time.perf_counter() - start) / 10, losses
    # The backward pass has twice the products of the forward pass; the search for codes has none.
    _, whole = _operations(codec, len(values))
    search = 2.0 * len(values) * LENGTH / PATCH_LENGTH * 512 * 64
    return {"seconds": results[0.1][0], "sample": results[0.0][1], "operations": 3 * (whole - search) + search}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    "tokenize": tokenize,
    "tokenizer_step": tokenizer_step,
    "exact_codes_kernel": exact_codes_kernel,
}
