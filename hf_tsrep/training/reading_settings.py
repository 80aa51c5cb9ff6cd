"""What pre-training and fine-tuning can both be told: how a corpus is read, and what they do not take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReadingSettings:
    """How a corpus is read; see `hf_tsrep.data.load_corpus` for the fields."""

    target: str | list[str] | None = None
    split: str | None = None
    data_directory: str | None = None
    revision: str | None = None
    item_column: str | None = None
    timestamp_column: str | None = None
    label_column: str | None = None
    value_columns: list[str] | None = None
    frequency: str | None = None
    one_series_per_column: bool = False


# Fields of transformers.TrainingArguments that mean nothing in any run, and what to do instead.
REFUSED_EVERYWHERE = {
    "push_to_hub": "publish the finished folder with `hf-tsrep push`",
    "do_train": "use the other commands of hf-tsrep",
    "do_eval": "use the other commands of hf-tsrep",
    "do_predict": "use the other commands of hf-tsrep",
    "parallelism_config": "configure it with `accelerate config`",
    "num_input_channels": "the corpus says how many channels there are",
}
