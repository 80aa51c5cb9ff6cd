"""How well CrossTimeNet's tokens stand for series: reconstruction error and use of the codebook."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .chunks_crosstimenet import align_series, decode_in_chunks, encode_in_chunks, fill_codes
from .codebook_vector_quantization import perplexity_of_counts
from .codec_crosstimenet import CrossTimeNetCodec
from .codec_files_crosstimenet import device_of


@dataclass
class ReconstructionQuality:
    """Sums over series that are added batch by batch.

    Args:
        codec: The codec.
        domain: Name or place of the domain.
    """

    codec: CrossTimeNetCodec
    domain: str | int
    num_series: int = 0
    num_values: int = 0
    num_tokens: int = 0
    num_missing_tokens: int = 0
    squares: float = 0.0
    magnitudes: float = 0.0
    normalised_squares: float = 0.0
    counts: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Begin with no code seen."""
        self.counts = torch.zeros(self.codec.domain_codec(self.domain).domain.codebook_size, dtype=torch.int64)

    def add(self, values: torch.Tensor) -> None:
        """Tokenise series, turn the tokens back and compare.

        Args:
            values: (batch_size, time, num_input_channels) float32, NaN = missing.
        """
        network = self.codec.domain_codec(self.domain)
        values, _, num_steps = align_series(values.to(device_of(self.codec)))
        codes, known = encode_in_chunks(self.codec, values, self.domain)
        found = decode_in_chunks(self.codec, fill_codes(codes, known), self.domain)[:, : values.shape[1]]
        errors = (found - values).double()
        observed = ~values.isnan()
        scaled = (errors / network.channel_scale.double())[observed]
        errors = errors[observed]
        num_tokens = int((-(-num_steps // network.domain.patch_length)).clamp(min=1).sum())
        self.num_series += len(values)
        self.num_values += len(errors)
        self.num_tokens += num_tokens
        self.num_missing_tokens += num_tokens - int(known.sum())
        self.squares += float(errors.square().sum())
        self.magnitudes += float(errors.abs().sum())
        self.normalised_squares += float(scaled.square().sum())
        self.counts += torch.bincount(codes[known].cpu(), minlength=len(self.counts))

    def report(self) -> dict[str, float | int]:
        """Return the measures; see CrossTimeNetTokenizer.evaluate.

        Raises:
            ValueError: No value was observed.
        """
        if not self.num_values:
            raise ValueError(
                f"None of the {self.num_series} series has an observed value; there is nothing to compare."
            )
        return {
            "mse": self.squares / self.num_values,
            "mae": self.magnitudes / self.num_values,
            "normalised_mse": self.normalised_squares / self.num_values,
            "codebook_use": int((self.counts > 0).sum()) / len(self.counts),
            "codebook_perplexity": float(perplexity_of_counts(self.counts)),
            "num_series": self.num_series,
            "num_values": self.num_values,
            "num_tokens": self.num_tokens,
            "num_missing_tokens": self.num_missing_tokens,
        }
