"""Low-rank changes (LoRA) of every method's encoder learn, and merge into plain layers without a trace."""

import pytest
import torch
from contract_support import METHOD_NAMES, build, task_inputs

from hf_tsrep.training import SettingsError
from hf_tsrep.training.finetuning.lora import add_lora, merge_lora

ENCODERS = [(name, {}) for name in METHOD_NAMES] + [
    ("simmtm", {"encoder_type": "resnet"}),
    ("timedrl", {"encoder": "tcn"}),
    ("timedrl", {"encoder": "resnet"}),
]


@pytest.mark.parametrize("kind", ["classification", "prediction"])
@pytest.mark.parametrize(("name", "fields"), ENCODERS)
def test_lora_learns_and_merges_into_the_plain_model(name, fields, kind):
    model = build(name, kind, **fields)
    inputs = task_inputs(model, kind, batch_size=4, length=33)
    names, weights = set(model.state_dict()), dict(model.named_parameters())
    before = model(**inputs)[1]
    add_lora(model, rank=2, alpha=4.0)
    torch.testing.assert_close(model(**inputs)[1], before)
    changes = {key: value for key, value in model.named_parameters() if "lora_" in key}
    learnt = {key for key, value in model.named_parameters() if value.requires_grad}
    assert learnt == {*changes, *(key for key in weights if key.startswith("head."))}
    with torch.no_grad():
        for value in changes.values():
            value.normal_(std=0.1)
    model.train()(**inputs).loss.backward()
    assert not [key for key, value in changes.items() if value.grad is None or not value.grad.abs().sum() > 0]
    changed = model.eval()(**inputs)[1]
    assert not torch.allclose(changed, before)
    merge_lora(model)
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(**inputs)[1], changed)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_encoder_without_such_layers_is_refused():
    model = build("timedrl", "classification", encoder="lstm")
    model.base_model.patch_encoder.encoder.projection = torch.nn.Identity()
    with pytest.raises(SettingsError, match="TimeDRLModel has no linear layer or convolution to change"):
        add_lora(model, rank=2, alpha=4.0)
