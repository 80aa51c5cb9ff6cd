"""Initial weights of the shared layers, for `_init_weights` of any method."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init

from .layers_token_embedding import CircularTokenEmbedding, LearnedPositions


@torch.no_grad()
def initialize_shared_layer(module: nn.Module) -> bool:
    """Draw the initial weights of a shared layer or a normalisation.

    Args:
        module: Any module.

    Returns:
        Whether it was one; the caller draws the weights of others.
    """
    if isinstance(module, CircularTokenEmbedding):
        init.normal_(module.weight, std=module.initial_deviation)
    elif isinstance(module, LearnedPositions):
        init.normal_(module.weight)
    elif isinstance(module, nn.LayerNorm):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm1d):
        init.ones_(module.weight)
        init.zeros_(module.bias)
        _forget_statistics(module)
    else:
        return False
    return True


def _forget_statistics(norm: nn.BatchNorm1d) -> None:
    assert norm.running_mean is not None, "the house's batch normalisations keep statistics"
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    init.zeros_(norm.running_mean)
    init.ones_(norm.running_var)
    init.zeros_(norm.num_batches_tracked)
