"""Reading fixtures and comparing with them: nothing that a fixture stores may be left out of the comparison."""

import json
from dataclasses import dataclass, field

import torch
from safetensors import safe_open

OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-5
STEPPED_PARAMETER_TOLERANCE = 1e-4


def read_metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}


class OfficialConfig(dict):
    """The official arguments of a fixture, which remembers what was looked up by name.

    An argument that nobody looked up may have changed the numbers, so that the comparison says less than it seems to.
    Going through all of them (`items`, `**config`) is no look-up: it proves nothing of a single name.
    """

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.looked_up = set()

    def __getitem__(self, name):
        self.looked_up.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        return self[name] if name in self else default

    def unread(self):
        """Names that nobody looked up, those of nested arguments after a dot."""
        names = [name for name in self if name not in self.looked_up]
        nested = {name: value for name, value in self.items() if isinstance(value, OfficialConfig)}
        inner = [f"{name}.{one}" for name, value in nested.items() if name not in names for one in value.unread()]
        return sorted(names + inner)


@dataclass
class Fixture:
    """Tensors of a fixture by role, and what has been compared."""

    method: str
    kind: str
    config: OfficialConfig
    inputs: dict
    outputs: dict
    gradients: dict
    parameters: dict
    compared: set = field(default_factory=set)

    def set_mode(self, model, default="eval"):
        """Put the model into the mode that the official one was in: the fixture's `mode`, else the kind's default.

        So a pretext step in `mode: "eval"` has no dropout, and its batch normalisation goes by running statistics.
        """
        mode = self.config.get("mode", default)
        assert mode in ("train", "eval"), f"mode {mode!r} of the fixture is neither 'train' nor 'eval'"
        return model.train(mode == "train")

    def hyperparameters(self, understood, within=None):
        """Return the arguments that a converter understands; the others are left to be looked up by name."""
        given = self.config if within is None else self.config[within]
        return {name: given[name] for name in given if name in understood}

    def assert_shapes(self, shapes):
        """Fail where an argument that tells a size is not that of the tensors."""
        for name, size in shapes.items():
            assert self.config.get(name, size) == size, f"{name}={self.config[name]!r}, but the tensors have {size}"

    def assert_complete(self):
        """Fail where an argument was not looked up, or an output or gradient not compared."""
        unread = self.config.unread()
        assert not unread, f"{self.method} {self.kind}: nothing reads the official argument {', '.join(unread)}"
        left_out = ({*self.outputs} | {f"grad.{name}" for name in self.gradients}) - self.compared
        assert not left_out, f"{self.method} {self.kind}: nothing was compared with {', '.join(sorted(left_out))}"

    def check(self, name, value, tolerance=OUTPUT_TOLERANCE, of="outputs"):
        """Compare with output (or gradient) `name`, relative to the largest expected value where that is above 1."""
        expected = getattr(self, of)[name].to(torch.float32)
        value = torch.as_tensor(value).detach().to(torch.float32)
        assert value.shape == expected.shape, f"{name}: shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        difference = (value - expected).abs().max().item() if expected.numel() else 0.0
        assert difference <= tolerance * scale, f"{name}: differs by {difference:.3g} (scale {scale:.3g})"
        self.compared.add(name if of == "outputs" else f"grad.{name}")

    def check_equal(self, name, value):
        """Compare with output `name` bit by bit, NaN equal to NaN."""
        torch.testing.assert_close(
            torch.as_tensor(value), self.outputs[name], rtol=0, atol=0, equal_nan=True, check_dtype=False
        )
        self.compared.add(name)


def load_fixture(path):
    metadata = read_metadata(path)
    parts = {"input": {}, "output": {}, "grad": {}, "param": {}}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():
            role, name = key.split(".", 1)
            parts[role][name] = file.get_tensor(key)
    return Fixture(
        metadata["method"],
        metadata["kind"],
        json.loads(metadata["config"], object_hook=OfficialConfig),
        parts["input"],
        parts["output"],
        parts["grad"],
        parts["param"],
    )
