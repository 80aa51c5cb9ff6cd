"""The finished tokenizer: its folder, a picture of every domain and its card."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData

from ...hub.card_parts import licence_of_weights, public_name
from ...tokenization.codec_crosstimenet import CrossTimeNetCodec
from ...tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig
from ...tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
from ...visualization_tokens import plot_tokens
from ..saving import FIGURE_FILE, PretrainingResult, pretraining_facts
from ..settings import PretrainSettings
from .domains import HELD_OUT, TRAINING_SERIES, DomainSeries
from .token_data import load_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedCodec:
    """A codec whose training is over.

    Args:
        settings: What was asked for.
        tokenizer: Folder or Hub id of the tokenizer that was extended; None for a new one.
        codebook_initialization: Where the first codes came from.
        domains: The domains that it was trained on.
        result: Codec, metrics and history.
        facts: What was found out about the run.
    """

    settings: PretrainSettings
    tokenizer: str | None
    codebook_initialization: str
    domains: list[DomainSeries]
    result: PretrainingResult
    facts: dict[str, Any]


def save_tokenizer(folder: Path, finished: FinishedCodec) -> None:
    """Write the tokenizer with pictures and card.

    Args:
        folder: Where to write.
        finished: What was trained.
    """
    _tokenizer_of(finished).save_pretrained(folder)
    pictures = _save_pictures(folder, finished)
    try:
        (folder / "README.md").write_text(_card(finished, pictures, folder), encoding="utf-8")
    except Exception:  # a card that fails is no reason to lose a trained tokenizer
        logger.exception("The card could not be written; the tokenizer itself is saved.")


def _tokenizer_of(finished: FinishedCodec) -> Any:
    """Return a new tokenizer, or the one that was extended with its new domains after the others."""
    codec = finished.result.model
    if finished.tokenizer is None:
        return CrossTimeNetTokenizer.from_codec(codec)
    tokenizer = load_tokenizer(finished.tokenizer)
    first = len(tokenizer.domains)
    added = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=codec.config.domains[first:]))
    for fresh, trained in zip(added.domains, codec.domains[first:], strict=True):
        fresh.load_state_dict(trained.state_dict())
    tokenizer.add_domain(added)
    return tokenizer


@torch.no_grad()
def _save_pictures(folder: Path, finished: FinishedCodec) -> dict[str, str]:
    """Draw a series of every domain, of those that it is measured on; return the file names by domain."""
    codec, pictures = finished.result.model, {}
    for domain in finished.domains:
        network = codec.domain_codec(domain.name)
        patch_length = network.domain.patch_length
        series = _lively_series(domain.validation, network.channel_scale.cpu().numpy())
        if network.domain.decoder == "any_length":
            series = series[: 128 * patch_length]
        series = np.array(series, dtype=np.float32)
        output = codec(torch.from_numpy(series)[None].to(codec.device), domain=domain.name)
        name = f"tokens_{domain.name}.png"
        try:
            plot_tokens(
                series,
                output.reconstruction[0].float().cpu().numpy(),
                output.codes[0].cpu().numpy(),
                patch_length,
                folder / name,
                title=f"{domain.metadata.name}: a {_kind(domain)} series and its tokens",
                subtitle=f"{network.domain.codebook_size} codes, {patch_length} timestamps a token; mean squared "
                f"error {float(output.reconstruction_loss):.3f} of the variance",
                channel_names=domain.metadata.channel_names,
            )
        except ImportError:
            logger.info("matplotlib is not installed; there is no %s.", name)
            return {}
        pictures[domain.name] = name
    return pictures


def _kind(domain: DomainSeries) -> str:
    return "training" if domain.measured_on == TRAINING_SERIES else "validation"


def _lively_series(candidates: Sequence[np.ndarray], scale: np.ndarray) -> np.ndarray:
    """Return the series that varies more than three quarters of the others do: a flat one would show little.

    Args:
        candidates: Arrays (time, num_channels).
        scale: (num_channels,) what a deviation is measured by.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a channel without an observed value
        deviations = [np.nan_to_num(np.nanstd(one, axis=0) / scale).mean() for one in candidates]
    return candidates[int(np.argsort(deviations)[len(deviations) * 3 // 4])]


def _card(finished: FinishedCodec, pictures: Mapping[str, str], folder: Path) -> str:
    names = ", ".join([*_taken_over(finished), *(domain.metadata.name for domain in finished.domains)])
    first = finished.domains[0].name
    licences = [None for _ in _taken_over(finished)] + [domain.metadata.licence for domain in finished.domains]
    data = ModelCardData(
        library_name="hf-tsrep",
        license=licence_of_weights(licences),
        tags=["time-series", "tokenizer", "crosstimenet"],
    )
    parts = [
        f"# CrossTimeNet tokenizer of {names}",
        "Turns series into tokens by vector quantisation, and tokens into series (Cheng et al., CrossTimeNet, WSDM "
        "2025, arXiv 2403.12372). Every domain has networks and a codebook of its own in one vocabulary; ids 0 to 3 "
        "are [PAD], [MASK], [CLS] and [SEP].",
        "```python\nfrom hf_tsrep import CrossTimeNetTokenizer\n\n"
        'tokenizer = CrossTimeNetTokenizer.from_pretrained("your-name/your-tokenizer")\n'
        f'batch = tokenizer(series, domain="{first}", return_tensors="pt")  # arrays (time, channels), NaN = missing\n'
        'series_again = tokenizer.batch_decode(batch["input_ids"])\n```',
        "## Domains\n\n" + _domain_table(finished),
        *[f"![A series of {domain}, its reconstruction and its tokens]({file})" for domain, file in pictures.items()],
        "The error is the mean squared error of series scaled to mean 0 and variance 1 on the training part, so that "
        "1 is what a constant gives; use is the share of the codes that occur, perplexity how many would be used as "
        f"often if evenly. {_what_was_measured(finished)}",
        "## Training\n\n" + _facts_table(finished),
    ]
    if (folder / FIGURE_FILE).is_file():
        parts.append(f"![Loss of the training]({FIGURE_FILE})")
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _domain_table(finished: FinishedCodec) -> str:
    lines = [
        "| domain | corpus | channels | timestamps a token | codes | measured on | error | perplexity | use |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _taken_over(finished):
        described = finished.result.model.domain_codec(name).domain
        lines.append(
            f"| `{name}` | taken over from the tokenizer {_source(finished)} | {described.num_input_channels} "
            f"| {described.patch_length} | {described.codebook_size} | not measured again | | | |"
        )
    for domain in finished.domains:
        described = finished.result.model.domain_codec(domain.name).domain
        error, perplexity, use = (
            finished.result.metrics[f"{domain.name}_validation_{name}"]
            for name in ("normalised_mse", "codebook_perplexity", "codebook_use")
        )
        lines.append(
            f"| `{domain.name}` | {domain.metadata.name} | {described.num_input_channels} | {described.patch_length} "
            f"| {described.codebook_size} | {domain.measured_on} | {error:.4f} | {perplexity:.1f} | {use:.1%} |"
        )
    return "\n".join(lines)


def _taken_over(finished: FinishedCodec) -> list[str]:
    """Return the names of the domains of the tokenizer that was extended; none for a new tokenizer."""
    trained = {domain.name for domain in finished.domains}
    return [one["name"] for one in finished.result.model.config.domains if one["name"] not in trained]


def _source(finished: FinishedCodec) -> str:
    """Return what to call the tokenizer that was extended: its Hub id, or of a folder its name alone."""
    return public_name(str(finished.tokenizer))


def _what_was_measured(finished: FinishedCodec) -> str:
    """Return which series the figures are of, and which of them the training has seen."""
    sources = {domain.measured_on for domain in finished.domains}
    parts = []
    if sources != {TRAINING_SERIES}:
        seen = "The others are" if TRAINING_SERIES in sources else "All three are"
        parts.append(f"{seen} of series that the training did not see.")
    if HELD_OUT in sources:
        parts.append("Training series that were kept back may overlap with others of their recording.")
    if TRAINING_SERIES in sources:
        names = ", ".join(f"`{domain.name}`" for domain in finished.domains if domain.measured_on == TRAINING_SERIES)
        parts.insert(
            0, f"Nothing was held out of {names}: its figures are of the series that the codec was trained on."
        )
    return " ".join(parts)


def _facts_table(finished: FinishedCodec) -> str:
    shown = {
        "codebook_initialization": finished.codebook_initialization,
        **pretraining_facts(finished.settings, finished.result, finished.facts),
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| `{name}` | {value} |" for name, value in shown.items())
