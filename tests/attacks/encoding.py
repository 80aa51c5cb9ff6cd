"""`encode` of any series: finite or refused, whatever the order, the batch, the holder, the padding and the thread."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pandas as pd
import torch
from contract_support import METHOD_NAMES, build

from hf_tsrep import get_method
from hf_tsrep.data import SeriesList
from hf_tsrep.modeling.encoding_time_series import slide_by_windows

from .damage import pick
from .trials import REFUSED, RIGHT, Attack, Fault, assert_same, attempt

TOLERANCE = 1e-5  # of the largest number of an embedding
LARGEST = 3.4e38  # of float32


@cache
def model_of(name, num_channels=3, seed=0):
    """Return a small encoder of a method, in evaluation mode."""
    return build(name, "model", seed, num_input_channels=num_channels)


def draw_model(name, generator):
    """Return a small encoder of a method, of one to five channels where the method does not fix them."""
    num_channels = 3 if get_method(name).tiny_tokenizer else int(generator.integers(1, 6))
    return model_of(name, num_channels, int(generator.integers(3)))


def draw_series(generator, num_channels, longest=48, size=1.0):
    """Return a series (time, channel) float32, of one of several natures and with one of several kinds of gaps."""
    length = int(generator.integers(1, longest + 1))
    shape = (length, num_channels)
    steps = np.arange(length)[:, None]
    natures = (
        lambda: generator.standard_normal(shape),
        lambda: np.cumsum(generator.standard_normal(shape), axis=0),
        lambda: np.sin(steps * generator.uniform(0.05, 3.0, num_channels)),
        lambda: np.full(shape, generator.standard_normal()),
        lambda: np.where(steps == generator.integers(length), 1.0, 0.0) * np.ones(num_channels),
        lambda: np.where(steps % 2 == 0, 1.0, -1.0) * np.ones(num_channels),
        lambda: 100.0 + 1e-3 * generator.standard_normal(shape),
    )
    values = (size * pick(generator, natures)()).clip(-LARGEST, LARGEST).astype(np.float32)
    kind = pick(generator, ("none", "none", "steps", "cells", "ends", "channel", "stretch"))
    if kind == "steps":
        values[generator.random(length) < 0.3] = np.nan
    elif kind == "cells":
        values[generator.random(shape) < 0.3] = np.nan
    elif kind == "ends":
        values[: int(generator.integers(length))] = np.nan
        values[length - int(generator.integers(length)) :] = np.nan
    elif kind == "channel":
        values[:, int(generator.integers(num_channels))] = np.nan
    elif kind == "stretch":
        first = int(generator.integers(length))
        values[first : first + int(generator.integers(1, 20))] = np.nan
    return values


def draw_question(generator, series):
    """Return arguments of `encode` that say what is asked for, and that all of the series can answer."""
    window = int(generator.integers(1, 12)) * 2 + 1
    poolings = (3, 8, 10**9, "multiscale" if min(map(len, series)) > 2 else 2)
    questions = (
        {},
        {"pooling": pick(generator, ("max", "mean", "last"))},
        {"normalize": True},
        {"level": "timestamp"},
        {"level": "timestamp", "pooling": pick(generator, poolings)},
        {"level": "timestamp", "window_length": window, "causal": bool(generator.integers(2))},
        {"window_length": window, "stride": pick(generator, (1, 1, window)), "pooling": "mean"},
        {"level": "window", "window_length": window, "stride": int(generator.integers(1, window + 1))},
    )
    return pick(generator, questions)


def assert_close(found, expected, what):
    """Raise Fault where embeddings differ by more than rounding."""
    size = float(np.max(np.abs(expected), initial=0.1))
    assert_same(found, expected, what, atol=TOLERANCE * size)


class Encoding(Attack):
    """`encode` of every registered method, with random weights."""

    trials_of_methods = ("order", "sliding", "size", "padding", "holder")

    @classmethod
    def cases(cls):
        """Every method with every kind of trial."""
        return [f"{name}: {kind}" for kind in cls.trials_of_methods for name in METHOD_NAMES]

    def trial(self, case, generator):
        """Encode a few series."""
        name, kind = case.split(": ")
        return getattr(self, kind)(draw_model(name, generator), generator)

    def order(self, model, generator):
        """Encode several series in another order and in batches, and each alone."""
        channels = model.config.num_input_channels
        series = [draw_series(generator, channels) for _ in range(int(generator.integers(1, 9)))]
        series += [one + 1.0 for one in series[:3]]  # some are of one length
        asked = draw_question(generator, series)
        order = generator.permutation(len(series))
        batch_size = int(generator.integers(1, 10))
        together = model.encode(SeriesList(series[index] for index in order), batch_size=batch_size, **asked)
        for position, index in enumerate(order):
            alone = model.encode(SeriesList([series[index]]), **asked)[0]
            if not np.isfinite(alone).all():
                raise Fault(f"{asked}: not finite")
            assert_close(together[position], alone, f"{asked}, series {index} of {[len(one) for one in series]}")
        return RIGHT

    def sliding(self, model, generator):
        """Slide over a series, and encode every window by itself."""
        values = draw_series(generator, model.config.num_input_channels, longest=60)
        stride, around = int(generator.integers(1, 7)), int(generator.integers(31))
        causal = bool(generator.integers(2))
        window_length = stride + (around if causal else 2 * around)
        asked = {"level": "timestamp", "window_length": window_length, "stride": stride, "causal": causal}
        found = model.encode(SeriesList([values]), batch_size=int(generator.integers(1, 40)), **asked)[0]
        context = (around, 0) if causal else (around, around)
        with torch.inference_mode():
            direct = slide_by_windows(model, torch.from_numpy(values), context, stride, 16, None)[: len(values)]
        assert_close(found, direct.numpy(), f"{asked} on {len(values)} steps")
        return RIGHT

    def size(self, model, generator):
        """Encode values up to the end of float32: finite, or refused by the name of the series."""
        size = 10.0 ** generator.uniform(-45, 38.5)
        channels = model.config.num_input_channels
        series = SeriesList([draw_series(generator, channels), draw_series(generator, channels, size=size)])
        asked = draw_question(generator, series)
        found, told = attempt(lambda: model.encode(series, **asked), (ValueError,))
        if told is not None:
            largest = np.nanmax(np.abs(series[1]), initial=0.0)
            if "series 1" not in told or largest < 1e15:
                raise Fault(f"{asked}, largest value {largest}: {told}")
            return REFUSED
        for one in found:
            if not np.isfinite(one).all():
                raise Fault(f"{asked}, values of size {size:.3g}: not finite")
        if asked.get("normalize"):
            lengths = np.linalg.norm(np.asarray(found, np.float64), axis=-1)
            if (np.abs(lengths - 1.0) > TOLERANCE)[np.asarray(found).any(-1)].any() or not np.asarray(found).any():
                raise Fault(f"{asked}, values of size {size:.3g}: lengths {lengths}")
        return RIGHT

    def padding(self, model, generator):
        """Put missing steps before and after a batch: its embeddings stay."""
        length, (left, right) = int(generator.integers(1, 40)), (int(generator.integers(30)) for _ in range(2))
        values = torch.randn(
            2, length, model.config.num_input_channels, generator=torch.Generator().manual_seed(left * 30 + right)
        )
        if generator.integers(2):
            values[:, 1:-1][torch.from_numpy(generator.random(values[:, 1:-1].shape) < 0.2)] = torch.nan
        padded = torch.nn.functional.pad(values, (0, 0, left, right), value=torch.nan)
        mask = ~padded.isnan()
        garbage = padded.nan_to_num(float(generator.standard_normal()))
        with torch.inference_mode():
            alone = model(values).pooler_output.numpy()
            for what, output in (("NaN", model(padded)), ("a mask", model(garbage, past_observed_mask=mask))):
                assert_close(output.pooler_output.numpy(), alone, f"{left} + {length} + {right} steps by {what}")
        return RIGHT

    def holder(self, model, generator):
        """Give one series in another holder and another type of number."""
        values = draw_series(generator, model.config.num_input_channels)
        asked = draw_question(generator, [values])
        if generator.integers(3) == 0:
            values = np.nan_to_num(values).round()
        dtype = pick(generator, (np.float64, np.float32, np.float16, np.longdouble, ">f4"))
        if not np.isnan(values).any() and (values == values.round()).all() and generator.integers(2):
            dtype = pick(generator, (np.int64, np.int8, np.int32, "int16"))
            values = values.clip(-100, 100)
        converted = values.astype(dtype)
        expected = model.encode(SeriesList([converted.astype(np.float32)]), **asked)[0]
        holders = (
            lambda: converted[None],
            lambda: [converted],
            lambda: np.asfortranarray(converted)[None],
            lambda: np.repeat(converted, 2, axis=0)[::2][None],
            lambda: torch.from_numpy(converted.astype(np.float64))[None],
            lambda: [converted.astype(np.float64).tolist()],
            lambda: np.ma.masked_invalid(converted.astype(np.float64))[None],
            lambda: [pd.DataFrame(converted.astype(np.float64))],
            lambda: converted.astype(np.float64).T[None],
        )
        place = int(generator.integers(len(holders)))
        layout = "nct" if place == len(holders) - 1 else None if place == len(holders) - 2 else "ntc"
        found = model.encode(holders[place](), layout=layout, **asked)[0]
        assert_close(found, expected, f"holder {place} of {np.dtype(dtype)}, {converted.shape}, {asked}")
        return RIGHT


class Threads(Attack):
    """`encode` from many threads on one model in any mode; one of them may change the mode meanwhile."""

    @classmethod
    def cases(cls):
        """Every method."""
        return list(METHOD_NAMES)

    def trial(self, case, generator):
        """Encode several times at once."""
        kind = pick(generator, ("model", "pretraining", "classification"))
        model = build(case, kind, int(generator.integers(3)))
        series = SeriesList(draw_series(generator, 3, longest=20) for _ in range(4))
        questions = [draw_question(generator, series) for _ in range(2)]
        expected = [model.encode(series, **asked) for asked in questions]
        modes = {}
        whole = pick(generator, ("train", "eval", "mixed"))
        for name, module in model.named_modules():
            module.training = whole == "train" or (whole == "mixed" and bool(generator.integers(2)))
            modes[name] = module.training
        toggles = whole == "train" and bool(generator.integers(2))
        tasks = [int(one) for one in generator.integers(len(questions), size=8)]
        with ThreadPoolExecutor(int(generator.integers(2, 9))) as pool:
            waiting = [pool.submit(model.encode, series, batch_size=2, **questions[task]) for task in tasks]
            for turn in range(40 if toggles else 0):
                model.train(turn % 2 == 0)
            found = [one.result() for one in waiting]
        for task, results in zip(tasks, found, strict=True):
            for one, right in zip(results, expected[task], strict=True):
                assert_close(one, right, f"{whole}, {questions[task]}")
        if not toggles and modes != {name: module.training for name, module in model.named_modules()}:
            raise Fault("a mode has changed")
        return RIGHT
