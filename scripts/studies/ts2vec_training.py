"""Train TS2Vec on ETTh1 in a plain loop whose random draws come in the order of the published description.

Usage: python scripts/studies/ts2vec_training.py --seeds 42 --official-draws --output results/studies/FILE.json

With --official-draws the seeds and the order of every draw are those of the official command (`--seed 42` is 42 for
random, 43 for numpy and 44 for torch, and weights are drawn once, as the modules are built). Without, weights are
drawn once more, as transformers does, and so all later draws are others.

It shares the encoder, the loss and the evaluation with `reproduce.py ts2vec`, but neither the Trainer, the recipe,
the collator nor the drawing of the views. If its errors spread over the seeds as those of `reproduce.py ts2vec` do,
the training loop is not the cause of a difference. Runs that the output holds are not done again.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

import hf_tsrep
from hf_tsrep.data import get_series, load_corpus
from hf_tsrep.modeling.modeling_ts2vec import hierarchical_contrastive_loss, take_steps
from hf_tsrep.training.data import split_with_missing

NUM_STEPS, MAX_TRAIN_LENGTH = 600, 3000
logger = logging.getLogger("study")


def build(config: hf_tsrep.TS2VecConfig, official_draws: bool) -> hf_tsrep.TS2VecModel:
    """Build an encoder whose weights are drawn as the modules are built, or once more by transformers."""
    if not official_draws:
        return hf_tsrep.TS2VecModel(config)
    with mock.patch.object(hf_tsrep.TS2VecModel, "post_init"):
        return hf_tsrep.TS2VecModel(config)


def train(pieces: torch.Tensor, window_length: int, seed: int, official_draws: bool) -> hf_tsrep.TS2VecModel:
    """Train on pieces (num_pieces, time, num_input_channels) and return the averaged encoder."""
    random.seed(seed)
    np.random.seed(seed + 1)  # noqa: NPY002 - the description draws from numpy's global generator
    torch.manual_seed(seed + 2)
    config = hf_tsrep.TS2VecConfig(num_input_channels=pieces.shape[-1], output_dropout=0.0)
    model = build(config, official_draws)
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    loader = DataLoader(TensorDataset(pieces), batch_size=min(8, len(pieces)), shuffle=True, drop_last=True)
    step = 0
    while step < NUM_STEPS:
        for (batch,) in loader:
            loss = contrast(model, batch, window_length)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            averaged.update_parameters(model)
            step += 1
            if step % 50 == 0:
                logger.info("seed %d, step %d: loss %.4f", seed, step, float(loss.detach()))
    return averaged.module.eval()


def contrast(model: hf_tsrep.TS2VecModel, batch: torch.Tensor, length: int) -> torch.Tensor:
    """Draw a window, two views and their masks, and return the loss."""
    draw = np.random.randint
    if batch.shape[1] > length:
        start = draw(batch.shape[1] - length + 1)
        batch = batch[:, start : start + length]
    crop_length = draw(2, length + 1)
    left = draw(length - crop_length + 1)
    right = left + crop_length
    outer_left, outer_right = draw(left + 1), draw(right, length + 1)
    offset = torch.from_numpy(draw(-outer_left, length - outer_right + 1, size=len(batch)))
    views = []
    for begin, length in ((outer_left, right - outer_left), (left, outer_right - left)):
        kept = torch.from_numpy(np.random.binomial(1, 0.5, size=(len(batch), length)) > 0)  # noqa: NPY002
        hidden = model(take_steps(batch, offset + begin, length), timestamp_mask=kept).last_hidden_state
        dropout = torch.empty(len(batch), hidden.shape[-1], length).bernoulli_(0.9).div_(0.9)
        views.append(hidden * dropout.transpose(1, 2))
    return hierarchical_contrastive_loss(views[0][:, -crop_length:], views[1][:, :crop_length], 0.5, 0)[0]


def main() -> None:
    """Train and evaluate every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--window-length", type=int, default=MAX_TRAIN_LENGTH, help="4320: the pieces are not cropped")
    parser.add_argument("--official-draws", action="store_true")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    done: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    corpus = load_corpus("ett/ETTh1", scaler="standard", time_features=True)
    series = torch.from_numpy(np.array(get_series(corpus["train"])[0]))[None]
    pieces = split_with_missing(series, series.shape[1] // MAX_TRAIN_LENGTH)
    for seed in arguments.seeds:
        if str(seed) in done:
            continue
        outcome = hf_tsrep.evaluate(
            train(pieces, arguments.window_length, seed, arguments.official_draws), corpus, "forecasting", seed=seed
        )
        done[str(seed)] = {name: value for name, value in outcome["metrics"].items() if name.startswith("mse_")}
        logger.info("seed %d: %s", seed, done[str(seed)])
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(done, indent=2) + "\n")


if __name__ == "__main__":
    main()
