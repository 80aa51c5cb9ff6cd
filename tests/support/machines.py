"""Machines in several states, as a table, and how they are trained on: in words of Python and of the command line."""

import numpy as np
import pandas as pd

TINY = {"hidden_size": 8, "embedding_size": 12, "num_hidden_layers": 3}
COLUMNS = {"item_column": "machine", "label_column": "state"}
QUICK = {"disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 8, "learning_rate": 0.01}
STATES = ("fine", "noisy", "worn")


def _words(fields):
    return tuple(word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value)))


TINY_WORDS = (*_words(TINY), "--logging-steps", "1")
COLUMN_WORDS = _words(COLUMNS)


def machines(seed, number, states=STATES, num_lengths=7):
    """Return a long table of machines that take turns in their states, unequally long and with missing values."""
    generator = np.random.default_rng(seed)
    parts = []
    for machine in range(number):
        steps = np.arange(20 + machine % num_lengths)
        state = machine % len(states)
        part = pd.DataFrame(
            {
                "machine": f"m{machine:02d}",
                "time": pd.date_range("2026-01-01", periods=len(steps), freq="h"),
                "pressure": np.sin(steps * (0.2, 0.9, 0.2)[state]) + (0, 0, 2)[state] + 5,
                "load": generator.normal(size=len(steps)),
                "state": states[state],
            }
        )
        part["pressure"] += 0.1 * generator.normal(size=len(steps))
        part.loc[3:4, "pressure"] = np.nan
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def table():
    """Return 24 machines in two states, of 24 lengths."""
    return machines(0, 24, states=("fine", "worn"), num_lengths=24)
