"""The feature extractor of a corpus: what must be done to raw series before the model sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tsrep.data import CorpusMetadata
    from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor


def feature_extractor_of_corpus(metadata: CorpusMetadata) -> TimeSeriesFeatureExtractor:
    """Build the feature extractor that does to raw series what `load_corpus` did to the training series.

    Args:
        metadata: `corpus_metadata` of the corpus that the model was trained on.

    Returns:
        Save it beside the model with `save_pretrained(folder)`.
    """
    from hf_tsrep.tokenization.feature_extraction_time_series import TimeSeriesFeatureExtractor

    scaler: dict[str, Any] = metadata.scaler or {}
    feature_scaler: dict[str, Any] = metadata.time_feature_scaler or {}
    channel_names = metadata.channel_names[metadata.num_time_features :]
    return TimeSeriesFeatureExtractor(
        num_channels=len(channel_names),
        mean=scaler.get("mean"),
        scale=scaler.get("scale"),
        channel_names=channel_names,
        time_features=metadata.num_time_features > 0,
        time_feature_mean=feature_scaler.get("mean"),
        time_feature_scale=feature_scaler.get("scale"),
        frequency=metadata.freq or None,
    )
