"""The trainer of codecs: a loss and a perplexity of the whole batch, however many processes share it."""

from __future__ import annotations

from typing import Any

import torch

from ..tokenization.codebook_vector_quantization import perplexity_of_counts
from ..tokenization.codec_crosstimenet import patches_with_values
from .trainer import TimeSeriesTrainer


class CodecTrainer(TimeSeriesTrainer):
    """A TimeSeriesTrainer for batches of one domain.

    Both terms of the loss are means over what is observed. Processes whose parts of the batch hold unequally much
    weigh in accordingly, so that the gradient is that of one process on the whole batch.
    """

    def join_processes(self, loss: torch.Tensor, outputs: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Weigh the terms by what the process observed, and take the perplexity of the codes of all processes."""
        if self.accelerator.num_processes == 1:
            return loss, outputs
        codec = self.accelerator.unwrap_model(self.model)
        domain = codec.domain_codec(inputs["domain"]).domain
        observed = codec.observed_values(inputs["past_values"], inputs.get("past_observed_mask"), domain)
        patches = patches_with_values(observed, domain)
        counts = torch.bincount(outputs.codes[patches], minlength=domain.codebook_size)
        counts = self.accelerator.reduce(counts, "sum")
        sizes = torch.stack([observed.sum(), patches.sum()]).float()
        shares = sizes * self.accelerator.num_processes / self.accelerator.reduce(sizes, "sum").clamp(min=1)
        outputs.reconstruction_loss = outputs.reconstruction_loss * shares[0]
        outputs.commitment_loss = outputs.commitment_loss * shares[1]
        outputs.codebook_perplexity = perplexity_of_counts(counts)
        outputs.loss = outputs.reconstruction_loss + domain.commitment_weight * outputs.commitment_loss
        return outputs.loss, outputs
