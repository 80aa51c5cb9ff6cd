"""TimeDRL's two pretext losses (paper, sections IV-C and IV-D).

With several processes each computes its own rows' part, scaled so that the mean over the processes is the loss of one
process on the global batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .distributed_time_series import gather_rows


def predictive_loss(
    predicted: torch.Tensor, target: torch.Tensor, observed: torch.Tensor, num_processes: int = 1
) -> torch.Tensor:
    """Compare the patches that both views' timestamp embeddings predict with the series' patches (equations 8 to 10).

    Args:
        predicted: (num_views, num_rows, num_patches, token_size).
        target: (num_rows, num_patches, token_size).
        observed: The same shape as `target`, bool; the others are left out.
        num_processes: Number of processes that share the batch.

    Returns:
        The scalar mean squared error.
    """
    difference = torch.where(observed, predicted.float() - target.float(), 0.0)
    return _global_mean(difference.square().sum(), observed.sum() * len(predicted), num_processes)


def contrastive_loss(
    embeddings: torch.Tensor,
    predicted: torch.Tensor,
    observed: torch.Tensor,
    stop_gradient: bool = True,
    num_processes: int = 1,
) -> torch.Tensor:
    """Compare each view's instance embedding with what the other view's predicts it to be (equations 11 to 13).

    Args:
        embeddings: (2, num_rows, embedding_size).
        predicted: The same shape.
        observed: (num_rows,) bool; rows without an observed value are left out.
        stop_gradient: Whether the embeddings are constants; the predictions never are.
        num_processes: Number of processes that share the batch.

    Returns:
        The scalar mean of minus the cosine, between -1 and 1.
    """
    compared = embeddings.detach() if stop_gradient else embeddings
    cosine = F.cosine_similarity(compared.float(), predicted.flip(0).float(), dim=-1)
    return _global_mean(-(cosine * observed).sum(), observed.sum() * len(embeddings), num_processes)


def _global_mean(total: torch.Tensor, count: torch.Tensor, num_processes: int) -> torch.Tensor:
    if num_processes > 1:
        count = gather_rows(count.unsqueeze(0)).sum()
    return total * num_processes / count.clamp(min=1)
