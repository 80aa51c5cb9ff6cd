"""The measured cases of MUG at its default sizes: steps of 16 series of four channels, 128 to 4,096 timestamps long.

The plain side holds attention of all timestamps to all; it is measured as long as its memory is not out of proportion.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from .inputs import timed

NUM_CHANNELS, BATCH_SIZE = 4, 16
LENGTHS = (128, 256, 512, 1024, 2048, 4096)
# The plain side's attention weights take 8.6 GB a layer at 4,096 timestamps, so that it trains on fewer series there.
PLAIN_PAIRS = BATCH_SIZE * 1024**2


def _model() -> Any:
    from hf_tsrep.modeling.configuration_mug import MUGConfig
    from hf_tsrep.modeling.modeling_mug import MUGForPreTraining

    torch.manual_seed(0)
    return MUGForPreTraining(MUGConfig(num_input_channels=NUM_CHANNELS, dropout=0.0))


def _values(batch_size: int, length: int) -> torch.Tensor:
    values = torch.randn(batch_size, length, NUM_CHANNELS, generator=torch.Generator().manual_seed(0)).cumsum(1)
    return (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True)


def mug_step(plain: bool, length: int = 512, batch_size: int = BATCH_SIZE) -> dict[str, Any]:
    """Train on 16 series; seconds a step. A plain side with fewer series is scaled up to as many."""
    from hf_tsrep.training.run import give_back_freed_blocks

    from .plain_mug import make_plain

    model = _model().train()
    rows = batch_size
    if plain:
        make_plain(model)
        rows = max(2, min(batch_size, PLAIN_PAIRS // length**2))
    else:
        give_back_freed_blocks()  # as `pretrain` does on a CPU
    values = _values(batch_size, length)[:rows]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step(series: torch.Tensor = values) -> float:
        loss = model(series, generator=torch.Generator().manual_seed(0)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    first = step(values[:2])  # of as many series on both sides
    sample = [first, *(model.decoder.weight.grad * len(model.decoder.weight)).flatten().tolist()]
    step()
    seconds = min(timed(step)[0] for _ in range(2))
    return {"seconds": seconds * batch_size / rows, "sample": sample}


def soft_spearman(plain: bool, num_queries: int = 16, num_candidates: int = 960) -> dict[str, Any]:
    """Correlate 16 rankings of 960 candidates, forward and backward."""
    from hf_tsrep.modeling import modeling_mug

    from .plain_mug import plain_soft_spearman

    generator = torch.Generator().manual_seed(0)
    predicted = (torch.randn(num_queries, num_candidates, generator=generator) * num_candidates / 3).requires_grad_()
    target = torch.randint(num_candidates // 2, (num_queries, num_candidates), generator=generator).float()
    correlate = plain_soft_spearman if plain else modeling_mug.soft_spearman

    def run() -> torch.Tensor:
        predicted.grad = None
        found = correlate(predicted, target)
        found.sum().backward()
        assert predicted.grad is not None
        return torch.cat((found.detach(), predicted.grad.flatten()))

    run()
    times = [timed(run) for _ in range(5)]
    return {"seconds": min(seconds for seconds, _ in times), "sample": times[0][1].tolist()}


CASES: dict[str, Callable[[bool], dict[str, Any]]] = {
    **{f"mug_step_{length}": functools.partial(mug_step, length=length) for length in LENGTHS},
    "mug_soft_spearman": soft_spearman,
}
