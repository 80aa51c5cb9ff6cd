"""Low-rank changes (LoRA) of every method's encoder learn, and merge into plain layers without a trace."""

import peft
import pytest
import torch
from contract_support import METHOD_NAMES, build, task_inputs

from hf_tsrep.training import SettingsError
from hf_tsrep.training.finetuning.lora import add_lora, lora_config, merge_lora

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
    assert learnt == {*changes, *(key for key in weights if key.startswith(("head.", "classifier.")))}
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


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize("targets", ["all-linear", "ours"])
def test_peft_wraps_a_classifier_and_keeps_its_whole_head(name, targets, tmp_path):
    model = build(name, "classification")
    inputs = task_inputs(model, "classification", batch_size=4, length=33)
    before = model(**inputs).logits
    config = {
        "all-linear": lambda model: peft.LoraConfig(task_type="SEQ_CLS", target_modules="all-linear", r=2),
        "ours": lambda model: lora_config(model, rank=2, task_type="SEQ_CLS"),
    }[targets]
    adapted = peft.get_peft_model(model, config(model))
    torch.testing.assert_close(adapted(**inputs).logits, before)
    learnt = [value for value in adapted.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(learnt, lr=0.1)
    for _ in range(2):  # the first step leaves half of the changes as they are
        adapted.train()(**inputs).loss.backward()
        optimizer.step()
    changed = adapted.eval()(**inputs).logits
    assert not torch.allclose(changed, before)
    adapted.save_pretrained(tmp_path)
    other_head = build(name, "classification")
    with torch.no_grad():
        for value in other_head.classifier.parameters():
            value.normal_()
    again = peft.PeftModel.from_pretrained(other_head, tmp_path, config=config(other_head)).eval()
    torch.testing.assert_close(again(**inputs).logits, changed)
    torch.testing.assert_close(again.merge_and_unload()(**inputs).logits, changed, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_peft_wraps_an_encoder_and_arguments_of_text_stay_unknown(name):
    model = build(name, "model")
    inputs = task_inputs(model, "model", batch_size=2, length=33)
    before = model(**inputs).pooler_output
    config = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules="all-linear", r=2)
    adapted = peft.get_peft_model(model, config)
    torch.testing.assert_close(adapted(**inputs).pooler_output, before)
    with pytest.raises(TypeError, match="token_type_ids"):
        build(name, "model")(**inputs, token_type_ids=torch.zeros(2, 33))
