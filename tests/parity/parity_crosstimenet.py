"""How each kind of CrossTimeNet fixture is computed by our code."""

import torch
import torch.nn.functional as F
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep.hub.conversion_crosstimenet import (
    convert_codec_state_dict,
    convert_model_state_dict,
    rename_codec_key,
    rows_of_our_vocabulary,
)
from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.modeling_crosstimenet import (
    CrossTimeNetForPreTraining,
    CrossTimeNetForTimeSeriesClassification,
)
from hf_tsrep.tokenization.codec_crosstimenet import CrossTimeNetCodec
from hf_tsrep.tokenization.configuration_crosstimenet_codec import CrossTimeNetCodecConfig

MASK_ID, FIRST_CODE_ID = 1, 4
TABLES = ("emb_layer.weight", "encoder.cls.predictions.decoder.weight")


def build_codec(converted):
    """A codec of converted domains, without dropout."""
    domains = [{**fields, "dropout": 0.0} for fields, _ in converted]
    codec = CrossTimeNetCodec(CrossTimeNetCodecConfig(domains=domains))
    for domain, (_, state_dict) in zip(codec.domains, converted, strict=True):
        domain.load_state_dict(state_dict)
    return codec.eval()


def check_tokenizer(fixture):
    """One VQVAE: what it makes of series, in evaluation or in a training step."""
    config, expected = fixture.config, set(fixture.outputs)
    converted = convert_codec_state_dict(fixture.parameters)
    codec = build_codec([converted])
    domain = codec.config.codec_domains[0]
    assert (domain.context_length, domain.num_input_channels) == tuple(config["data_shape"])
    assert (domain.hidden_size, domain.codebook_size) == (config["hidden_dim"], config["n_embed"])
    assert (domain.num_blocks, domain.patch_length) == (config["block_num"], config["wave_length"])
    codec.train("cluster_size_after" in expected)
    output = codec(fixture.inputs["x"])
    fixture.check_equal("ids", output.codes)
    fixture.check("latent", output.latents)
    fixture.check("reconstruction", output.reconstruction)
    # The official value counts the commitment 1 + 0.25 times, but its gradient once: the codebook is a buffer there.
    fixture.check("diff", 1.25 * output.commitment_loss)
    network = codec.domains[0]
    if "loss" in expected:
        value = output.reconstruction_loss + domain.commitment_weight * 1.25 * output.commitment_loss
        fixture.check("loss", value)
    if fixture.gradients:
        output.loss.backward()
        ours = dict(network.named_parameters())
        for name, gradient in fixture.gradients.items():
            found = ours[rename_codec_key(name)].grad.reshape(gradient.shape)
            fixture.check(name, found, GRADIENT_TOLERANCE, of="gradients")
    if "encoder" in expected:
        hidden = network.encoder(network.input_projection(fixture.inputs["x"].transpose(0, 1)))
        fixture.check("encoder", hidden.transpose(0, 1))
    if "ids" in fixture.inputs:
        fixture.check("embedding_of_ids", network.codebook.look_up(fixture.inputs["ids"]))
        fixture.check("decoded_ids", codec.decode_codes(fixture.inputs["ids"]))
    check_codebook(fixture, network.codebook)
    return fixture.compared


def check_codebook(fixture, codebook):
    states = {
        "embed_after": codebook.codes.t(),
        "embed_avg_after": codebook.sums.t(),
        "cluster_size_after": codebook.counts,
    }
    for name, state in states.items():
        if name in fixture.outputs:
            fixture.check(name, state)


def check_bert(fixture):
    """The cross-domain model: the masked-token loss, or the classification of one data set."""
    config = fixture.config
    fields, parameters, classifiers, codecs = convert_model_state_dict(
        fixture.parameters, config["bert_config"]["num_attention_heads"]
    )
    dropped = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    kept = {
        name: config["bert_config"][name] for name in ("hidden_act", "layer_norm_eps") if name in config["bert_config"]
    }
    fields["backbone_config"] |= {**kept, **dropped}
    built = CrossTimeNetConfig(**fields, mask_ratio=config["mask_ratio"])
    check_sizes(fixture, fields, codecs)
    place, codec = config["dataid"], build_codec(codecs)
    domain = built.domains[place]
    codes, _ = codec.encode_codes(fixture.inputs["x"], domain=place)
    fixture.check_equal("ids", codes)
    if "mask_draws" in fixture.inputs:
        model = CrossTimeNetForPreTraining(built)
        model.load_state_dict(parameters)
        check_masked_tokens(fixture, model, codes + domain["first_id"])
    else:
        model = CrossTimeNetForTimeSeriesClassification(built)
        encoder = {name: value for name, value in parameters.items() if name.startswith("model.")}
        model.load_state_dict({**encoder, **classifiers})
        check_classes(fixture, model, codes + domain["first_id"], domain["name"])
    check_model_gradients(fixture, model, built)
    check_drift(fixture, codec, place)
    return fixture.compared


def check_sizes(fixture, fields, codecs):
    """What the shapes of the parameters tell is what the official arguments say."""
    backbone, domains = fields["backbone_config"], fields["domains"]
    tokenizers = [codec for codec, _ in codecs]
    for name, value in fixture.config["bert_config"].items():
        if name in backbone:
            assert fixture.config["bert_config"][name] == value == backbone[name], name
    num_words = len(fixture.parameters["encoder.bert.embeddings.word_embeddings.weight"])
    assert fixture.config["bert_config"]["vocab_size"] == num_words
    assert fixture.config["bert_config"].get("pad_token_id", 0) == 0
    fixture.assert_shapes(
        {
            "p_seq_len": [one["context_length"] for one in tokenizers],
            "p_feat_dim": [one["num_input_channels"] for one in domains],
            "p_num_classes": [one["num_labels"] for one in domains],
            "p_n_embd_num": [one["codebook_size"] for one in domains],
            "p_wave_length": [one["patch_length"] for one in domains],
            "p_hidden_dim": tokenizers[0]["hidden_size"],
            "p_block_num": tokenizers[0]["num_blocks"],
            "task_type": "word_mapping",
        }
    )


def check_masked_tokens(fixture, model, input_ids):
    assert not fixture.config.get("frozen"), "the language model learns in pre-training"
    mask = fixture.inputs["mask_draws"] < model.config.mask_ratio
    output = model(input_ids, mask=mask)
    everywhere = model.head(output.last_hidden_state)
    fixture.check("last_hidden", output.last_hidden_state)
    fixture.check("logits", torch.cat([everywhere[..., FIRST_CODE_ID:], everywhere[..., MASK_ID, None]], dim=-1))
    torch.testing.assert_close(output.logits, everywhere[mask])
    fixture.check("loss", output.loss)
    output.loss.backward()


def check_classes(fixture, model, input_ids, domain):
    if fixture.config.get("frozen"):
        # The official switch runs the transformer without gradients, embeddings included.
        model.model.requires_grad_(False)
    output = model(input_ids, domain=domain, labels=fixture.inputs["labels"])
    fixture.check("last_hidden", model.model(input_ids).last_hidden_state)
    fixture.check("logits", output.logits)
    fixture.check("loss", F.cross_entropy(output.logits, fixture.inputs["labels"]))
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, fixture.inputs["labels"]))
    output.loss.backward()


def check_model_gradients(fixture, model, config):
    """Official names of gradients, through the conversion of names; tables have other rows in our vocabulary."""
    ours = {name: value.grad for name, value in model.named_parameters()}
    num_codes = config.vocab_size - FIRST_CODE_ID
    for name, gradient in fixture.gradients.items():
        found = ours[our_name(name, config)]
        wanted = rows_of_our_vocabulary(gradient, num_codes) if name in TABLES else gradient
        fixture.gradients[name] = wanted
        found = torch.zeros_like(wanted) if found is None else found
        fixture.check(name, found, GRADIENT_TOLERANCE, of="gradients")


def our_name(official, config):
    head = official.split(".")
    if head[0] == "head":
        place = config.domain_index(head[1].removesuffix("-data"))
        return f"head.heads.{place}.{'norm' if head[2] == '1' else 'projection'}.{head[3]}"
    for before, after in (
        ("emb_layer", "model.backbone.embeddings.word_embeddings"),
        ("encoder.bert.", "model.backbone."),
        ("encoder.cls.predictions.transform.dense", "head.dense"),
        ("encoder.cls.predictions.transform.LayerNorm", "head.norm"),
        ("encoder.cls.predictions.decoder", "head.decoder"),
    ):
        official = official.replace(before, after)
    return official


def check_drift(fixture, codec, place):
    """The official tokenizer goes on learning while the language model trains; ours is frozen unless it is told to."""
    network = codec.domains[place]
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    if fixture.config["mode"] == "train":
        values = fixture.inputs["x"]
        with torch.no_grad():
            latents = network.latents(network.normalise(values, ~values.isnan())).flatten(0, 1)
        assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
        network.codebook.update(latents, network.codebook(latents))
    check_codebook(fixture, network.codebook)


KINDS = {"vqvae_eval": check_tokenizer, "vqvae_train": check_tokenizer, "bert": check_bert}
