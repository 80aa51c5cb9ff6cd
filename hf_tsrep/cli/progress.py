"""The training's progress bar: the latest numbers of the log after it, instead of a line for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..opening import without_file_bars

_SHOWN = {
    "loss": "loss",
    "effective_rank": "rank",
    "eval_accuracy": "validation accuracy",
    "eval_mse": "validation mse",
}


@contextmanager
def training_progress(*, quiet: bool) -> Iterator[None]:
    """Give trainers made inside the block this bar, or none, and keep transformers' bars for saved files away.

    Args:
        quiet: No bar.
    """
    from transformers import ProgressCallback, trainer

    class LatestNumbersCallback(ProgressCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            from tqdm.auto import tqdm

            self.current_step = state.global_step
            if state.is_world_process_zero:
                interval = 0.1 if sys.stderr.isatty() else 10.0
                self.training_bar = tqdm(
                    total=state.max_steps,
                    initial=state.global_step,
                    desc="Training",
                    unit="step",
                    dynamic_ncols=True,
                    mininterval=interval,
                    disable=quiet,
                )

        def on_prediction_step(
            self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
        ) -> None:
            """Leave the bar of the training alone: no second one for every validation."""

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if self.training_bar is not None:
                numbers = {short: f"{logs[name]:.3g}" for name, short in _SHOWN.items() if name in (logs or {})}
                if numbers:
                    self.training_bar.set_postfix(numbers, refresh=False)

    usual, printing = trainer.DEFAULT_PROGRESS_CALLBACK, trainer.PrinterCallback
    trainer.DEFAULT_PROGRESS_CALLBACK = LatestNumbersCallback  # as transformers itself does in notebooks
    if quiet:  # where transformers is quiet too, the Trainer prints its log instead of having a bar
        trainer.PrinterCallback = LatestNumbersCallback  # type: ignore[misc, assignment]  # a class in place of another
    try:
        with without_file_bars():
            yield
    finally:
        trainer.DEFAULT_PROGRESS_CALLBACK, trainer.PrinterCallback = usual, printing  # type: ignore[misc]  # as above
