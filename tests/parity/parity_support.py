"""Reading fixtures and comparing with them."""

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


@dataclass
class Fixture:
    """Tensors of a fixture by role, and what has been compared."""

    method: str
    kind: str
    config: dict
    inputs: dict
    outputs: dict
    gradients: dict
    parameters: dict
    compared: set = field(default_factory=set)

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
        json.loads(metadata["config"]),
        parts["input"],
        parts["output"],
        parts["grad"],
        parts["param"],
    )
