"""The warm-up of the learning rate where a run is shorter than the one that its number of steps was chosen for."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.25  # of a run, for the warm-up of a recipe


def fit_warmup(arguments: Any, num_steps: int, *, may_shorten: bool) -> None:
    """Shorten the warm-up to a quarter of a short run, or warn of one that the run does not outlast.

    Args:
        arguments: The Trainer's, whose warmup_steps may be changed.
        num_steps: Steps of the whole run.
        may_shorten: Whether nobody asked for this warm-up: it comes from a recipe of published values.
    """
    warmup = arguments.get_warmup_steps(num_steps)
    largest = int(num_steps * LARGEST_SHARE)
    if may_shorten and warmup > largest:
        arguments.warmup_steps = largest
        if arguments.process_index == 0:
            logger.info("The warm-up is %d steps, a quarter of this run; the recipe has %d.", largest, warmup)
    elif warmup >= num_steps and arguments.process_index == 0:
        logger.warning(
            "warmup_steps=%d in a run of %d steps: the learning rate never gets to %g. Give fewer warmup_steps.",
            warmup,
            num_steps,
            arguments.learning_rate,
        )
