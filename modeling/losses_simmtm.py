"""Similarity of series, the constraint on it and point-wise aggregation (SimMTM, sections 3.2 and 3.3).

Everything is a matrix over pairs of rows, a row being one view of one series: aggregation is the product of the
weights with the flattened point-wise representations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class RowPairs:
    """Which rows are compared with which.

    Args:
        anchor_series: (num_anchors,) number of the series of every row that is compared, the anchors.
        series: (num_rows,) number of the series of every row that they are compared with.
        itself: (num_anchors,) place of every anchor among the rows.
        observed: (num_rows,) bool, False for a row without any value.
    """

    anchor_series: torch.Tensor
    series: torch.Tensor
    itself: torch.Tensor
    observed: torch.Tensor

    def of_anchors(self, which: torch.Tensor) -> RowPairs:
        """Return the pairs of some anchors: (num_chosen,) their places among the anchors."""
        return RowPairs(self.anchor_series[which], self.series, self.itself[which], self.observed)

    @property
    def compared(self) -> torch.Tensor:
        """(num_anchors, num_rows) bool: every row but the anchor itself and those without values."""
        places = torch.arange(len(self.series), device=self.series.device)
        others = self.itself.unsqueeze(1) != places
        # An anchor without values is compared with all, so that no row of weights is empty; nothing uses it.
        return others & (self.observed | ~self.anchor_observed.unsqueeze(1))

    @property
    def positive(self) -> torch.Tensor:
        """(num_anchors, num_rows) bool: the other views of the anchor's series."""
        return (self.anchor_series.unsqueeze(1) == self.series) & self.compared

    @property
    def anchor_observed(self) -> torch.Tensor:
        """(num_anchors,) bool, False for an anchor without any value."""
        return self.observed[self.itself]


def cosine_similarity(anchors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Compare series-wise representations (equation 3).

    Args:
        anchors: (num_anchors, projection_size).
        rows: (num_rows, projection_size).

    Returns:
        (num_anchors, num_rows), float32, in [-1, 1].
    """
    with torch.autocast(anchors.device.type, enabled=False):
        return F.normalize(anchors.float(), dim=-1) @ F.normalize(rows.float(), dim=-1).T


def constraint_losses(similarity: torch.Tensor | None, pairs: RowPairs, temperature: float) -> torch.Tensor:
    """Ask for similar views of a series and dissimilar series (equation 7).

    Args:
        similarity: (num_anchors, num_rows); None where nothing is compared.
        pairs: What the rows are.
        temperature: Divides the similarities.

    Returns:
        (num_anchors,): the sum over the other views of minus the log-probability among all compared rows; 0 for an
        anchor without values, and where nothing is compared.
    """
    if similarity is None:
        return torch.zeros(len(pairs.itself), device=pairs.itself.device)
    logits = (similarity / temperature).masked_fill(~pairs.compared, -torch.inf)
    log_probability = logits.log_softmax(-1)
    terms = torch.where(pairs.positive & pairs.anchor_observed.unsqueeze(1), log_probability, 0.0)
    return -terms.sum(-1)


def aggregation_weights(similarity: torch.Tensor, pairs: RowPairs, temperature: float) -> torch.Tensor:
    """Weigh the other rows by their similarity (equation 4).

    Args:
        similarity: (num_anchors, num_rows).
        pairs: What the rows are.
        temperature: Divides the similarities.

    Returns:
        (num_anchors, num_rows), every row sums to 1; 0 for what is not compared.
    """
    return (similarity / temperature).masked_fill(~pairs.compared, -torch.inf).softmax(-1)


def squared_errors(
    decoded: torch.Tensor, values: torch.Tensor, observed: torch.Tensor, keep: torch.Tensor | None
) -> torch.Tensor:
    """Compare reconstructions with the observed values (equation 6).

    Args:
        decoded: (num_reconstructions, batch_size, context_length, num_input_channels).
        values: (batch_size, context_length, num_input_channels).
        observed: The same shape, bool.
        keep: (num_masked_views, batch_size, context_length, num_input_channels) bool where the reconstructions are of
            the originals and the masked views, which are zero where they are masked; None: all are of the originals.

    Returns:
        The shape of decoded, 0 where nothing is observed.
    """
    target = torch.where(observed, values, 0.0).float()
    if keep is not None:
        target = torch.cat([target.unsqueeze(0), target * keep])
    return torch.where(observed, decoded - target, 0.0).square()


def weigh_losses(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Add losses with learned weights (section 3.4; Kendall et al., CVPR 2018).

    Args:
        losses: (num_losses,).
        weights: (num_losses,) learned, 1 in the beginning.

    Returns:
        Scalar: the sum of loss / (2 weight^2) + log(1 + weight^2).
    """
    squares = weights.float().square()
    return (0.5 / squares * losses + torch.log1p(squares)).sum()
