"""How each kind of CrossTimeNet fixture is computed by our code."""

import torch
import torch.nn.functional as F
from parity_support import GRADIENT_TOLERANCE

from hf_tsrep.modeling.backbones_crosstimenet import BERT_OPTIONS, fields_of_official_arguments
from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.modeling_crosstimenet import (
    CrossTimeNetForPreTraining,
    CrossTimeNetForTimeSeriesClassification,
    convert_crosstimenet_state_dict,
    rename_official_parameter,
    rows_of_our_vocabulary,
    split_codecs,
)
from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
from hf_tsrep.tokenization.weights_crosstimenet_codec import OFFICIAL_ARGUMENTS, rename_official_codec_parameter

MASK_ID, FIRST_CODE_ID = 1, 4
TABLES = ("emb_layer.weight", "encoder.cls.predictions.decoder.weight")


def convert_codecs(state_dicts, arguments):
    """A codec of official tokenizers that may learn; without dropout unless an argument says otherwise."""
    tokenizer = CrossTimeNetTokenizer.from_official(state_dicts, {"dropout": 0.0, **arguments})
    return tokenizer.codec.requires_grad_(True)


def check_tokenizer(fixture, mode):
    """One VQVAE: what it makes of series, in evaluation or in a training step."""
    config, expected = fixture.config, set(fixture.outputs)
    arguments = fixture.hyperparameters({*OFFICIAL_ARGUMENTS, "data_shape", "beta"})
    codec = convert_codecs({"series": fixture.parameters}, arguments)
    domain = codec.config.codec_domains[0]
    assert (domain.context_length, domain.num_input_channels) == tuple(config["data_shape"])
    fixture.set_mode(codec, mode)
    output = codec(fixture.inputs["x"])
    fixture.check_equal("ids", output.codes)
    fixture.check("latent", output.latents)
    fixture.check("reconstruction", output.reconstruction)
    # The official value counts the commitment 1 + beta times, but its gradient once: the codebook is a buffer there.
    difference = (1 + config.get("beta", 0.25)) * output.commitment_loss
    fixture.check("diff", difference)
    network = codec.domains[0]
    if "loss" in expected:
        fixture.check("loss", output.reconstruction_loss + domain.commitment_weight * difference)
    if fixture.gradients:
        output.loss.backward()
        ours = dict(network.named_parameters())
        for name, gradient in fixture.gradients.items():
            found = ours[rename_official_codec_parameter(name)].grad.reshape(gradient.shape)
            fixture.check(name, found, GRADIENT_TOLERANCE, of="gradients")
    if "encoder" in expected:
        hidden = network.encoder(network.input_projection(fixture.inputs["x"].transpose(0, 1)))
        fixture.check("encoder", hidden.transpose(0, 1))
    if "ids" in fixture.inputs:
        fixture.check("embedding_of_ids", network.codebook.look_up(fixture.inputs["ids"]))
        fixture.check("decoded_ids", codec.decode_codes(fixture.inputs["ids"]))
    check_codebook(fixture, network.codebook)


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
    codec = convert_codecs(split_codecs(fixture.parameters), {})
    bert = fixture.hyperparameters(BERT_OPTIONS, within="bert_config")
    bert |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # in training mode as well
    task = fixture.hyperparameters({"mask_ratio", "task_type"})
    fields, parameters, classifiers = convert_crosstimenet_state_dict(
        fixture.parameters,
        codec.config.codec_domains,
        fields_of_official_arguments({**task, "bert_config": bert}),
    )
    built = CrossTimeNetConfig(**fields)
    check_sizes(fixture, built, codec.config.codec_domains)
    place = config["dataid"]
    domain = built.domains[place]
    codes, _ = codec.eval().encode_codes(fixture.inputs["x"], domain=place)
    fixture.check_equal("ids", codes)
    if "mask_draws" in fixture.inputs:
        model = CrossTimeNetForPreTraining(built)
        model.load_state_dict(parameters)
        fixture.set_mode(model)
        check_masked_tokens(fixture, model, codes + domain["first_id"])
    else:
        model = CrossTimeNetForTimeSeriesClassification(built)
        encoder = {name: value for name, value in parameters.items() if name.startswith("model.")}
        model.load_state_dict({**encoder, **classifiers})
        fixture.set_mode(model)
        check_classes(fixture, model, codes + domain["first_id"], domain["name"])
    check_model_gradients(fixture, model, built)
    check_drift(fixture, codec, place)


def check_sizes(fixture, config, tokenizers):
    """What the shapes of the parameters tell is what the official arguments say."""
    given = fixture.config["bert_config"]
    for name in ("hidden_size", "intermediate_size", "max_position_embeddings", "num_hidden_layers"):
        assert given[name] == getattr(config.backbone_config, name), name
    assert given.get("type_vocab_size", 2) == config.backbone_config.type_vocab_size
    # The padding id of the official BERT takes no part: it is fed with embeddings of codes. So are its words, which
    # give way to the codes where task_type is another one than "word_mapping".
    num_words = len(fixture.parameters["encoder.bert.embeddings.word_embeddings.weight"])
    num_tokens = config.vocab_size - FIRST_CODE_ID + 1
    assert num_words == given["vocab_size"] or num_words == num_tokens
    assert given.get("pad_token_id", 0) in range(given["vocab_size"])
    fixture.assert_shapes(
        {
            "p_seq_len": [one.context_length for one in tokenizers],
            "p_feat_dim": [one["num_input_channels"] for one in config.domains],
            "p_num_classes": [one["num_labels"] for one in config.domains],
            "p_n_embd_num": [one["codebook_size"] for one in config.domains],
            "p_wave_length": [one["patch_length"] for one in config.domains],
            "p_hidden_dim": tokenizers[0].hidden_size,
            "p_block_num": tokenizers[0].num_blocks,
        }
    )


def check_masked_tokens(fixture, model, input_ids):
    fixture.config.get("frozen")  # of no effect: the language model learns in pre-training
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
        return f"classifier.heads.{place}.{'norm' if head[2] == '1' else 'projection'}.{head[3]}"
    return rename_official_parameter(official)


def check_drift(fixture, codec, place):
    """The official tokenizer goes on learning while the language model trains; ours is frozen unless it is told to."""
    network = codec.domains[place]
    before = {name: value.clone() for name, value in codec.state_dict().items()}
    if fixture.config.get("mode", "eval") == "train":
        values = fixture.inputs["x"]
        with torch.no_grad():
            latents = network.latents(network.normalise(values, ~values.isnan())).flatten(0, 1)
        assert all(torch.equal(value, before[name]) for name, value in codec.state_dict().items())
        network.codebook.update(latents, network.codebook(latents))
    check_codebook(fixture, network.codebook)


KINDS = {
    "vqvae_eval": lambda fixture: check_tokenizer(fixture, "eval"),
    "vqvae_train": lambda fixture: check_tokenizer(fixture, "train"),
    "bert": check_bert,
}
