"""Pictures of which segment explains which timestamp."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_tsrep import TS2VecConfig, TS2VecModel
from hf_tsrep.visualization_attention import SegmentAttention, plot_cross_attention, segment_attention

matplotlib = pytest.importorskip("matplotlib")


class Reader(torch.nn.Module):
    """Timestamps of ten that read three segments, of which the last is not observed."""

    device = torch.device("cpu")

    def forward(self, past_values, output_attentions=None):
        weights = torch.zeros(1, 2, 10, 3)
        weights[0, :, :4, 0] = 1.0
        weights[0, 0, 4:, 1] = 1.0
        weights[0, 1, 4:, 0] = 1.0
        spans = torch.tensor([[[6, 4, 0], [0, 2, 0], [0, 10, 1]]])
        observed = torch.tensor([[True, True, False]])
        return SimpleNamespace(cross_attentions=(weights,), spans=spans, observed_segments=observed)


def test_weights_are_means_over_heads_of_observed_segments_in_order():
    attention = segment_attention(Reader().train(), np.zeros(10))
    assert attention.lengths.tolist() == [2, 4]
    assert attention.starts.tolist() == [0, 6]
    np.testing.assert_allclose(attention.weights[:4], [[0.0, 1.0]] * 4)
    np.testing.assert_allclose(attention.weights[4:], [[0.5, 0.5]] * 6)


def test_attention_received_is_spread_over_segments():
    received = segment_attention(Reader(), np.zeros(10)).by_timestamp()
    np.testing.assert_allclose(received, [0.6, 0.6, 0, 0, 0, 0, 1.4, 1.4, 1.4, 1.4])
    even = SegmentAttention(np.full((6, 2), 0.5), np.array([0, 2]), np.array([6, 3]), np.array([0, 0]))
    np.testing.assert_allclose(even.by_timestamp(), 1.0)
    np.testing.assert_allclose(even.times_even_share(), 1.0)


def test_a_model_keeps_its_mode_and_one_without_attention_is_refused():
    reader = Reader().train()
    segment_attention(reader, np.zeros((10, 1)))
    assert reader.training
    with pytest.raises(ValueError, match="layer=1, but Reader returned 1 layers"):
        segment_attention(reader, np.zeros(10), layer=1)
    with pytest.raises(ValueError, match="TS2VecModel returns no attention"):
        segment_attention(
            TS2VecModel(TS2VecConfig(hidden_size=4, embedding_size=4, num_hidden_layers=2)), np.zeros(10)
        )


def test_the_picture_shows_series_and_segments_and_touches_no_global_state(tmp_path):
    from matplotlib.image import imread

    values = np.random.default_rng(0).normal(size=(10, 2))
    values[3, 0] = np.nan
    path = plot_cross_attention(Reader(), values, tmp_path / "attention.png")
    picture = imread(path)[..., :3]
    assert min(picture.shape[:2]) > 600
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    assert (picture[:, -3:] == 1).all(), "something is cut at the right edge"
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
