"""CrossTimeNet's models: tokens, backbones of several kinds, the pretext task, heads, words of a language model."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, BertConfig, BertModel, GPT2Config, GPT2Model, T5Config, T5Model

from hf_tsrep import CrossTimeNetConfig, CrossTimeNetForPreTraining, CrossTimeNetModel, CrossTimeNetTokenizer
from hf_tsrep import CrossTimeNetForTimeSeriesClassification as Classifier
from hf_tsrep import CrossTimeNetForTimeSeriesPrediction as Predictor
from hf_tsrep.modeling.modeling_crosstimenet import token_mask

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
QUIET = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BACKBONES = {
    "bert": {"model_type": "bert", **SIZES, "max_position_embeddings": 24},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24},
    "modernbert": {"model_type": "modernbert", **SIZES},
    "roberta": {"model_type": "roberta", **SIZES, "max_position_embeddings": 24},
    "llama": {"model_type": "llama", **SIZES, "num_key_value_heads": 2},
}
DOMAINS = [
    {"name": "har", "num_input_channels": 3, "patch_length": 4, "codebook_size": 12},
    {"name": "ecg", "num_input_channels": 1, "patch_length": 8, "codebook_size": 6},
]
every_backbone = pytest.mark.parametrize("backbone", BACKBONES)


def build(model_class=CrossTimeNetModel, backbone="bert", seed=0, **fields):
    torch.manual_seed(seed)
    described = BACKBONES[backbone] if isinstance(backbone, str) else backbone
    return model_class(CrossTimeNetConfig(**{"domains": DOMAINS, "backbone_config": described, **fields})).eval()


def tokens(rows=3, length=10, seed=1, first=4, last=16):
    return torch.randint(first, last, (rows, length), generator=torch.Generator().manual_seed(seed))


@every_backbone
def test_padding_on_either_side_changes_no_embedding(backbone):
    model, ids = build(backbone=backbone), tokens()
    alone = model(ids, output_hidden_states=True)
    padded = model(F.pad(ids, (3, 5)), output_hidden_states=True)
    torch.testing.assert_close(padded.pooler_output, alone.pooler_output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.last_hidden_state[:, 3:-5], alone.last_hidden_state, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.hidden_states[1][:, 3:-5], alone.hidden_states[1], rtol=1e-5, atol=1e-6)
    assert not padded.last_hidden_state[:, :3].any()
    assert not padded.last_hidden_state[:, -5:].any()


@every_backbone
def test_a_row_does_not_see_the_others(backbone):
    model, ids = build(backbone=backbone), tokens()
    ids[1, 6:] = 0
    together = model(ids).pooler_output
    torch.testing.assert_close(together[1], model(ids[1:2, :6]).pooler_output[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.flip(0), model(ids.flip(0)).pooler_output, rtol=1e-5, atol=1e-6)


@every_backbone
def test_every_parameter_of_every_backbone_learns(backbone):
    model = build(CrossTimeNetForPreTraining, backbone).train()
    model(tokens(4), generator=torch.Generator().manual_seed(0)).loss.backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]


@pytest.mark.parametrize(("backbone", "positions"), [("bert", 24), ("gpt2", 24), ("roberta", 23)])
def test_more_tokens_than_positions_are_read_in_stretches(backbone, positions):
    model, ids = build(backbone=backbone), tokens(2, 60)
    ids[1, 30:] = 0
    found = model(ids).last_hidden_state
    stretches = [model(part).last_hidden_state for part in ids.split(positions, 1)]
    torch.testing.assert_close(found, torch.cat(stretches, 1))
    assert torch.isfinite(found).all()


def test_what_is_given_twice_or_not_at_all_is_refused():
    model = build()
    cases = {
        "either input_ids or past_values": {},
        "input_ids has 22; the model's ids are 0 to 21": {"input_ids": torch.tensor([[4, 22]])},
        "input_ids has -1": {"input_ids": torch.tensor([[4, -1]])},
        r"attention_mask has shape \(1, 3\)": {"input_ids": tokens(1, 4), "attention_mask": torch.ones(1, 3)},
        r"input_ids has shape \(4,\)": {"input_ids": tokens(1, 4)[0]},
        r"input_ids has shape \(1, 4\) and torch.bool": {"input_ids": tokens(1, 4) > 0},
        r"input_ids has shape \(2, 0\); give at least one row": {"input_ids": torch.zeros(2, 0).long()},
        r"input_ids has shape \(0, 4\); give at least one row": {"input_ids": torch.zeros(0, 4).long()},
        "no tokenizer": {"past_values": torch.zeros(1, 8, 3), "domain": "har"},
        "name one: domain='har' or 'ecg'": {"past_values": torch.zeros(1, 8, 3)},
        "Unknown domain 'hra'. Did you mean 'har'": {"past_values": torch.zeros(1, 8, 3), "domain": "hra"},
    }
    for words, arguments in cases.items():
        with pytest.raises(ValueError, match=words):
            model(**arguments)


def test_the_loss_is_the_plain_cross_entropy_at_hidden_tokens():
    model = build(CrossTimeNetForPreTraining, mask_ratio=0.3)
    ids = F.pad(tokens(), (0, 2))
    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    output = model(ids, mask=mask)
    hidden = mask & (ids > 3)
    assert torch.equal(output.mask, hidden)
    logits = model.head(model.model(torch.where(hidden, 1, ids), ids > 0).last_hidden_state)
    expected = F.cross_entropy(logits[hidden], ids[hidden])
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.accuracy, (logits.argmax(-1) == ids)[hidden].float().mean())
    assert output.logits.shape == (int(hidden.sum()), 22)
    assert not output.logits.softmax(-1)[:, :4].any()
    labels = {"never_predicted_ids": [0, 2, 3]}
    assert build(CrossTimeNetForPreTraining, **labels)(ids, mask=mask).logits.softmax(-1)[:, 1].all()


def test_hidden_tokens_are_drawn_over_real_ones_only():
    real = torch.rand(64, 50, generator=torch.Generator().manual_seed(0)) < 0.8
    mask = token_mask(real, 0.3, torch.Generator().manual_seed(1))
    assert not (mask & ~real).any()
    share = mask.sum() / real.sum()
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / int(real.sum()))
    assert torch.equal(mask, token_mask(real, 0.3, torch.Generator().manual_seed(1)))
    assert not torch.equal(mask, token_mask(real, 0.3, torch.Generator().manual_seed(2)))


def test_one_token_at_least_is_hidden_and_none_where_there_is_none():
    real = torch.zeros(3, 5, dtype=torch.bool)
    assert not token_mask(real, 0.9).any()
    real[1, 2:4] = True
    assert int(token_mask(real, 0.0).sum()) == 1
    model = build(CrossTimeNetForPreTraining).train()
    output = model(torch.ones(2, 3, dtype=torch.int64))
    assert output.loss == 0
    output.loss.backward()
    assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_what_a_collator_has_hidden_is_recovered():
    model, ids = build(CrossTimeNetForPreTraining).train(), F.pad(tokens(), (0, 2))
    mask = (torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.4) & (ids > 3)
    labels = torch.where(mask, ids, -100)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = model(ids, mask=mask)
        torch.manual_seed(3)
        found = model(torch.where(mask, 1, ids), labels=labels)
        disturbed = model(torch.where(mask, 17, ids), labels=labels, domain=torch.zeros(3, dtype=torch.int64))
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.mask, expected.mask)
    assert torch.equal(found.accuracy, expected.accuracy)
    assert not torch.equal(disturbed.loss, expected.loss)
    assert model(ids, labels=torch.full_like(ids, -100)).loss == 0
    for arguments, words in (
        ({"labels": labels[:2]}, r"labels has shape \(2, 12\)"),
        ({"labels": labels.float()}, "torch.float32"),
        ({"labels": labels, "mask": mask}, "leave them out for series and with a mask"),
        ({"labels": labels.masked_fill(mask, 1)}, "labels has 1, which the model never predicts; write -100"),
        ({"labels": labels.masked_fill(mask, 22)}, "labels has 22, which"),
    ):
        with pytest.raises(ValueError, match=words):
            model(ids, **arguments)
    with pytest.raises(ValueError, match="leave them out for series"):
        model(past_values=torch.zeros(3, 12, 3), domain="har", labels=labels)


def test_special_tokens_are_read_but_not_pooled():
    model, ids = build(), tokens(2, 6)
    framed = torch.cat([torch.full((2, 1), 2), ids, torch.full((2, 1), 3)], dim=1)
    output = model(framed)
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, 1:-1].mean(1))
    assert not torch.allclose(output.pooler_output, model(ids).pooler_output)


def test_every_domain_has_its_head():
    domains = [{**DOMAINS[0], "num_labels": 5}, {**DOMAINS[1], "num_labels": 2}]
    model, ids = build(Classifier, domains=domains), tokens()
    assert model(ids, domain="har").logits.shape == (3, 5)
    beats = tokens(first=16, last=22)
    output = model(beats, domain="ecg", labels=torch.tensor([0, 1, 1]))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, torch.tensor([0, 1, 1])))
    assert output.logits.shape == (3, 2)
    with pytest.raises(ValueError, match="name one: domain='har' or 'ecg'"):
        model(ids)
    partly = build(Classifier, domains=[domains[0], DOMAINS[1]])
    assert partly(ids).logits.shape == (3, 5)
    for given in (ids, beats):
        with pytest.raises(ValueError, match="'ecg' has no classification head; these have: har"):
            partly(given, domain="ecg")
    assert build(Classifier, num_labels=7)(beats, domain="ecg").logits.shape == (3, 7)
    assert build(Classifier, num_labels=7)(beats).logits.shape == (3, 7)


def test_ids_of_another_domain_are_refused():
    domains = [{**DOMAINS[0], "num_labels": 5}, {**DOMAINS[1], "num_labels": 2}]
    ids = tokens()
    words = r"input_ids has \d+, a code of domain 'har', but domain='ecg' was named, whose codes are 16 to 21"
    for model_class in (CrossTimeNetModel, CrossTimeNetForPreTraining, Classifier):
        model = build(model_class, domains=domains)
        with pytest.raises(ValueError, match=words):
            model(ids, domain="ecg")
        model(torch.tensor([[2, 16, 1, 21, 3, 0]]), domain="ecg")
    alone = build(Classifier, domains=[domains[0], DOMAINS[1]])
    with pytest.raises(ValueError, match="a code of domain 'ecg', but domain='har' was named"):
        alone(tokens(first=16, last=22))


def test_heads_of_other_domains_get_gradients_of_zero_whatever_they_hold():
    domains = [{**DOMAINS[0], "num_labels": 5}, {**DOMAINS[1], "num_labels": 2}]
    model = build(Classifier, domains=domains)
    ids, labels = tokens(), torch.tensor([0, 1, 4])
    plain = model(ids, domain="har", labels=labels)
    with torch.no_grad():
        model.head.heads[1].projection.weight.fill_(torch.inf)
    output = model.train()(ids, domain="har", labels=labels)
    output.loss.backward()
    assert output.logits.isfinite().all()
    for value in model.head.heads[1].parameters():
        assert torch.equal(value.grad, torch.zeros_like(value))
    assert model.head.heads[0].projection.weight.grad.any()
    torch.testing.assert_close(model.eval()(ids, domain="har", labels=labels).loss, plain.loss)


def test_a_domain_may_be_a_tensor_of_equal_places():
    domains = [{**DOMAINS[0], "num_labels": 5}, {**DOMAINS[1], "num_labels": 2}]
    model, ids = build(Classifier, domains=domains), tokens()
    expected = model(ids, domain="har").logits
    for domain in (torch.tensor([0, 0, 0]), torch.tensor(0), np.zeros(3, np.int32), np.int64(0)):
        assert torch.equal(model(ids, domain=domain).logits, expected)
    for domain, words in (
        (torch.tensor([0, 1, 0]), "rows of the domains 'har', 'ecg'; give rows of one domain"),
        (torch.tensor([2, 2]), "Unknown domain 2"),
        (torch.tensor([True]), "domain holds bool"),
        (torch.tensor([0.0]), "domain holds float32"),
        (torch.tensor([], dtype=torch.int64), "domain holds int64"),
        (True, "Unknown domain True"),
    ):
        with pytest.raises(ValueError, match=words):
            model(ids, domain=domain)


def test_the_published_head_takes_one_number_of_tokens():
    domains = [{**DOMAINS[0], "num_labels": 5, "num_tokens": 10}, {**DOMAINS[1], "num_labels": 2, "num_tokens": 4}]
    model, ids = build(Classifier, domains=domains, classifier="flatten"), tokens()
    tokens_of = model.model(ids).last_hidden_state
    head = model.head.heads[0]
    expected = head.projection(F.layer_norm(F.gelu(tokens_of.flatten(1)), (160,), head.norm.weight, head.norm.bias))
    torch.testing.assert_close(model(ids, domain="har").logits, expected)
    with pytest.raises(ValueError, match="10 tokens, but classifier='flatten' was built for 4"):
        model(tokens(first=16, last=22), domain="ecg")
    with pytest.raises(ValueError, match="needs num_tokens"):
        build(Classifier, classifier="flatten")


@pytest.mark.parametrize("backbone", ["bert", "gpt2", "modernbert"])
def test_the_way_from_tokens_to_embeddings_is_exported(backbone):
    model = build(backbone={**BACKBONES[backbone], "max_position_embeddings": 64} if backbone == "bert" else backbone)
    ids = tokens(2, 9)
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=2, max=20)
    shapes = {"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}}
    exported = torch.export.export(model, (ids, ids > 0), dynamic_shapes=shapes, strict=False)
    other = tokens(3, 14)
    other[0, 9:] = 0
    found = exported.module()(other, other > 0)
    torch.testing.assert_close(found.pooler_output, model(other).pooler_output, rtol=1e-4, atol=1e-5)


def test_a_prediction_is_learnt_in_deviations_and_returned_in_the_units_of_the_series():
    sizes = {"prediction_length": 5, "num_output_channels": 2}
    mean, scale = torch.tensor([-3.0, 1000.0]), torch.tensor([0.5, 200.0])
    plain = build(Predictor, **sizes)
    scaled = build(Predictor, **sizes, target_mean=mean.tolist(), target_scale=scale.tolist())
    scaled.load_state_dict(plain.state_dict())
    future = mean + scale * torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0))
    future[0, 1, 0] = float("nan")
    expected = plain(tokens(), future_values=(future - mean) / scale)
    found = scaled(tokens(), future_values=future)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.prediction_outputs, expected.prediction_outputs * scale + mean)
    with pytest.raises(ValueError, match=r"future_values has shape \(3, 5, 3\)"):
        scaled(tokens(), future_values=torch.zeros(3, 5, 3))


@pytest.mark.parametrize(
    "fields",
    [
        {"target_mean": [0.0, 0.0, 0.0]},
        {"target_mean": [0.0], "target_scale": [1.0]},
        {"target_mean": [0.0, 0.0, 0.0], "target_scale": [1.0, 0.0, 1.0]},
        {"target_mean": [0.0, math.nan, 0.0], "target_scale": [1.0, 1.0, 1.0]},
    ],
)
def test_units_of_the_targets_are_checked(fields):
    with pytest.raises(ValueError, match=r"CrossTimeNetConfig.target_(mean|scale) is"):
        CrossTimeNetConfig(domains=DOMAINS, **fields)


LANGUAGE_MODELS = {
    "bert": lambda: BertModel(BertConfig(**SIZES, vocab_size=60, pad_token_id=0)),
    "gpt2": lambda: GPT2Model(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=60)),
}


def build_tokenizer(*domains):
    torch.manual_seed(0)
    return CrossTimeNetTokenizer(
        domains=[{**domain, "hidden_size": 8, "num_blocks": 1} for domain in domains or DOMAINS]
    )


@pytest.fixture(params=LANGUAGE_MODELS)
def language_model(request, tmp_path):
    torch.manual_seed(3)
    model = LANGUAGE_MODELS[request.param]()
    model.save_pretrained(tmp_path / "language-model")
    return model, tmp_path / "language-model"


@pytest.mark.parametrize("initialization", ["random", "word_sample", "word_centroids"])
@pytest.mark.parametrize("model_class", [CrossTimeNetModel, Classifier])
def test_a_model_has_layers_and_words_of_a_language_model(language_model, initialization, model_class, tmp_path):
    source, folder = language_model
    model = model_class.from_backbone(
        folder,
        build_tokenizer(),
        embedding_initialization=initialization,
        generator=torch.Generator().manual_seed(0),
        num_labels=3,
    ).eval()
    backbone, words = model.base_model.backbone, source.get_input_embeddings().weight
    table = backbone.get_input_embeddings().weight
    ours = {name: value for name, value in backbone.named_parameters() if value is not table}
    theirs = dict(source.named_parameters())
    assert len(ours) > 20
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert table.shape == (22, 16)
    assert len(table[4:].detach().unique(dim=0)) == 18
    matches = (table[4:, None] == words[None]).all(-1)
    if initialization == "word_sample":
        assert matches.sum(1).tolist() == [1] * 18
        assert len(set(matches.int().argmax(1).tolist())) == 18
    else:
        assert not matches.all(1).any()
    config = model.config
    assert (config.embedding_initialization, config.backbone_name) == (initialization, "language-model")
    model.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    values = torch.randn(2, 22, 3, generator=torch.Generator().manual_seed(1))
    loaded = AutoModel.from_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(loaded.encode(values, domain="har"), model.encode(values, domain="har"))


def test_centroids_are_nearer_to_the_words_than_a_sample(language_model):
    source, folder = language_model
    words = source.get_input_embeddings().weight.detach()
    distances = {}
    for initialization in ("word_sample", "word_centroids"):
        generator = torch.Generator().manual_seed(0)
        config = CrossTimeNetConfig.from_tokenizer(build_tokenizer())
        model = CrossTimeNetModel.from_backbone(
            folder, config=config, embedding_initialization=initialization, generator=generator
        )
        distances[initialization] = torch.cdist(words, model.get_input_embeddings().weight[4:]).amin(1).square().mean()
    assert distances["word_centroids"] < 0.9 * distances["word_sample"]


def test_a_language_model_that_does_not_fit_is_refused(language_model, tmp_path):
    _, folder = language_model
    large = build_tokenizer({**DOMAINS[0], "codebook_size": 61})
    with pytest.raises(ValueError, match="60 words, too few for 61 codes"):
        CrossTimeNetModel.from_backbone(folder, large, embedding_initialization="word_sample")
    with pytest.raises(ValueError, match="'words' is unknown"):
        CrossTimeNetModel.from_backbone(folder, build_tokenizer(), embedding_initialization="words")
    with pytest.raises(ValueError, match="a config, or a tokenizer"):
        CrossTimeNetModel.from_backbone(folder)
    pair = T5Model(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=30))
    pair.save_pretrained(tmp_path / "pair")
    with pytest.raises(ValueError, match="one encoder or one decoder"):
        CrossTimeNetModel.from_backbone(tmp_path / "pair", build_tokenizer())
