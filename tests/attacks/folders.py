"""Folders of models with damaged settings or weights: the same embeddings, or one line that says what is wrong."""

import json
import shutil

import numpy as np
import torch
from contract_support import METHOD_NAMES, build

from hf_tsrep import TimeSeriesFeatureExtractor, get_method
from hf_tsrep.modeling.files_time_series import changed_files
from hf_tsrep.opening import load_encoder

from .damage import pick
from .encoding import assert_close
from .trials import REFUSED, RIGHT, Attack, Fault, attempt

SETTINGS = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
WEIGHTS = ("model.safetensors", "codec.safetensors")
# None of them is a value that a field has; a number of the right type may be another model, as SHA256SUMS tells.
WRONG_VALUES = (None, {}, {"a": None}, [], [None], "x", "", True, [1.5, "x"], float("nan"), float("inf"))
SPELLINGS = ("1e400", "-1e400", "9" * 400, "{", "[" * 2000, "")  # of a number, in the place of a value
OPTIONAL = ("mean", "scale")  # none is a value of theirs: the series as they are
NAMED = "model_type"  # a text there names another method, which may be one that the Hub is asked for


class Folders(Attack):
    """Opening a saved folder of every registered method, and `encode`."""

    @classmethod
    def cases(cls):
        """Every file of every method."""
        names = {name: bool(get_method(name).tiny_tokenizer) for name in METHOD_NAMES}
        files = (*SETTINGS, *WEIGHTS)
        read = {True: files, False: (*SETTINGS[:2], *WEIGHTS[:1])}
        return [f"{name}: {file}" for file in files for name in METHOD_NAMES if file in read[names[name]]]

    def whole(self, name):
        """Return a folder as it was saved, and its answer."""
        folder = self.folder / "whole" / name
        if not folder.exists():
            model = build(name, "model")
            model.save_pretrained(folder)
            channels = model.config.num_input_channels
            names = [f"channel {number}" for number in range(channels)]
            TimeSeriesFeatureExtractor(channels, [0.5] * channels, [2.0] * channels, names).save_pretrained(folder)
            np.save(folder.with_suffix(".npy"), self.answer(folder))
        return folder, np.load(folder.with_suffix(".npy"))

    def answer(self, folder):
        """Open a folder with its preparation, and encode a series."""
        extractor = TimeSeriesFeatureExtractor.from_pretrained(folder)
        model = load_encoder(folder)
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(40, model.config.num_input_channels, generator=generator).numpy()
        return model.encode([np.asarray(extractor.transform([values])[0])])

    def trial(self, case, generator):
        """Damage one file of a folder, and open it."""
        name, file = case.split(": ")
        whole, expected = self.whole(name)
        folder = self.folder / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        damage = damaged_settings if file in SETTINGS else damaged_weights
        content, what = damage((folder / file).read_bytes(), generator)
        (folder / file).write_bytes(content)
        found, told = attempt(lambda: self.answer(folder))
        if told is not None:
            return REFUSED
        if not np.isfinite(found).all():
            raise Fault(f"{what}: not finite")
        try:
            assert_close(found, expected, what)
        except Fault:
            if file in SETTINGS or changed_files(folder) != {file: "differs"}:
                raise
        return RIGHT


def damaged_settings(content, generator):
    """Return a file of settings with one value of another type or none, and what was done to it."""
    values = json.loads(content)
    holder, way = values, []
    while True:  # one key at the top, sometimes one below
        places = sorted(holder) if isinstance(holder, dict) else range(len(holder))
        key = pick(generator, list(places))
        way.append(key)
        deeper = isinstance(holder[key], (dict, list)) and len(holder[key])
        if not deeper or generator.integers(2):
            break
        holder = holder[key]
    kind = pick(generator, ("value", "value", "delete", "spelling"))
    what = f"{'.'.join(map(str, way))} of {holder[key]!r}"
    if kind == "delete":
        del holder[key]
        return json.dumps(values).encode(), f"{what} deleted"
    if kind == "spelling":
        spelling = pick(generator, SPELLINGS)
        holder[key] = "\0here"
        return json.dumps(values).replace(json.dumps("\0here"), spelling).encode(), f"{what} is now {spelling[:9]}"
    choices = [one for one in WRONG_VALUES if key != NAMED or not isinstance(one, str)]
    choices = [one for one in choices if key not in OPTIONAL or one is not None]
    holder[key] = pick(generator, [one for one in choices if not isinstance(one, type(holder[key]))])
    return json.dumps(values).encode(), f"{what} is now {holder[key]!r}"


def damaged_weights(content, generator):
    """Return weights with a flipped bit or cut off, and what was done to them."""
    place = int(generator.integers(len(content)))
    if generator.integers(4) == 0:
        return content[:place], f"cut off after {place} of {len(content)} bytes"
    if generator.integers(2):
        place = int(generator.integers(min(len(content), 2000)))  # the header, too
    changed = bytearray(content)
    changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed), f"a bit of byte {place} flipped"
