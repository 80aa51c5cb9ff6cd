"""Which tokens the pretext task of CrossTimeNet hides (Cheng et al., section 3.3)."""

from __future__ import annotations

import torch
import torch.distributed as dist

from .configuration_crosstimenet import CrossTimeNetConfig
from .distributed_time_series import fork_generator, process_share

# As transformers' collators mark tokens that nothing is asked of.
NO_LABEL = -100


def check_labels(
    labels: torch.Tensor, input_ids: torch.Tensor | None, mask: torch.Tensor | None, config: CrossTimeNetConfig
) -> None:
    """Refuse labels that do not fit; see CrossTimeNetForPreTraining.forward for the arguments.

    Raises:
        ValueError: The message names what was given and what was expected.
    """
    if input_ids is None or input_ids.is_floating_point() or mask is not None:
        raise ValueError(
            "labels are for input_ids in which tokens are hidden already; leave them out for series and with a mask."
        )
    if labels.shape != input_ids.shape or labels.is_floating_point():
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} and {labels.dtype}, but input_ids {tuple(input_ids.shape)}; they "
            "must be equal, and whole numbers."
        )
    wanted = labels[labels != NO_LABEL]
    never = torch.isin(
        wanted, torch.tensor(list(config.never_predicted_ids), dtype=labels.dtype, device=labels.device)
    )
    wrong = wanted[never | (wanted < 0) | (wanted >= int(config.vocab_size or 0))]
    if len(wrong):
        raise ValueError(
            f"labels has {int(wrong[0])}, which the model never predicts; write {NO_LABEL} where nothing is asked."
        )


def token_mask(
    real: torch.Tensor, mask_ratio: float, generator: torch.Generator | None = None, shared: bool = True
) -> torch.Tensor:
    """Draw the hidden tokens: each real one by itself, and in any case the one with the lowest draw of the batch.

    So at least one token is hidden wherever there is a real one, and the loss is a mean over something. All processes
    draw for the global batch from the first one's seed, and each takes its rows.

    Args:
        real: (batch_size, num_tokens) bool, the tokens that may be hidden.
        mask_ratio: Probability that a token is hidden.
        generator: Source of the seed, on the CPU; None for torch's global one.
        shared: Whether the batch is a part of the global batch of all processes.

    Returns:
        (batch_size, num_tokens) bool, True = hidden.
    """
    is_shared = shared and process_share()[1] > 1
    source = fork_generator(generator, real.device, is_shared)
    before, num_rows, num_columns = _place_of_rows(real) if is_shared else (0, *real.shape)
    draws = torch.rand(num_rows, num_columns, generator=source)
    draws = draws[before : before + len(real), : real.shape[1]].to(real.device)
    # Above every draw: of a batch without a real token nothing is hidden.
    lowest = torch.where(real, draws, 2.0).amin() if real.numel() else draws.new_tensor(2.0)
    if is_shared:
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN)
    return real & ((draws < mask_ratio) | (draws <= lowest))


def _place_of_rows(real: torch.Tensor) -> tuple[int, int, int]:
    """Return the number of rows before ours in the global batch, of its rows, and of its longest row's tokens."""
    rank, num_processes = process_share()
    own = torch.tensor(real.shape, device=real.device)
    sizes = [torch.empty_like(own) for _ in range(num_processes)]
    dist.all_gather(sizes, own)
    rows = [int(size[0]) for size in sizes]
    return sum(rows[:rank]), sum(rows), max(int(size[1]) for size in sizes)


def global_count(mask: torch.Tensor, shared: bool = True) -> torch.Tensor:
    """Return the number of hidden tokens divided by the number of processes that share the batch; a scalar.

    The sum of a process's losses divided by it has the mean over processes that one process has on the global batch.
    """
    count = mask.sum().float()
    if not shared or process_share()[1] == 1:
        return count
    dist.all_reduce(count)
    return count / process_share()[1]
