"""How windows of a long series are joined, and what a tokenless gap looks like to a method."""

import numpy as np
import pytest
import torch

import hf_tsrep
from hf_tsrep.inference.imputation import reconstruct, window_starts
from hf_tsrep.modeling.layers_masking import fill_missing, nearest_values
from hf_tsrep.modeling.modeling_tst import TSTDraws


class Recorder(torch.nn.Module):
    """A model that tells the number of values that a window has."""

    device = "cpu"

    def reconstruct_series(self, past_values):
        return (~past_values.isnan()).sum(1, keepdim=True).expand_as(past_values).double()


@pytest.mark.parametrize(
    ("length", "window", "starts"),
    [(10, None, [0]), (10, 10, [0]), (11, 10, [0, 1]), (20, 8, [0, 4, 8, 12]), (5, 1, [0, 1, 2, 3, 4])],
)
def test_windows_overlap_by_half_and_end_with_the_series(length, window, starts):
    assert window_starts(length, window) == starts


def test_an_estimate_is_the_mean_over_its_windows_but_those_without_a_value():
    values = np.ones((8, 1), np.float32)
    values[0] = np.nan
    (found,) = reconstruct(Recorder(), [values], 4, 2, {})  # windows 0-3, 2-5 and 4-7 have 3, 4 and 4 values
    assert found[:, 0].tolist() == [3, 3, 3.5, 3.5, 4, 4, 4, 4]
    values[:4] = np.nan
    (found,) = reconstruct(Recorder(), [values], 4, 2, {})
    np.testing.assert_allclose(found[:, 0], [0, 0, 2, 2, 3, 3, 4, 4], atol=1e-4)


def test_a_gap_holds_the_value_before_it():
    values = torch.tensor([[9.0, 1.0, 9.0, 9.0, 4.0, 9.0], [9.0] * 6]).unsqueeze(-1)
    observed = torch.tensor([[False, True, False, False, True, False], [False] * 6]).unsqueeze(-1)
    assert nearest_values(values, observed)[..., 0].tolist() == [[1, 1, 1, 1, 4, 4], [0] * 6]


def test_tst_sees_a_gap_as_its_pretext_task_sees_what_is_masked():
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    model = hf_tsrep.TSTForPreTraining(hf_tsrep.TSTConfig(num_input_channels=2, context_length=24, **sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 24, 2, generator=generator)
    keep = torch.rand(5, 24, 2, generator=generator) > 0.3
    with torch.no_grad():
        expected = model(past_values=values, draws=TSTDraws(0, keep)).reconstruction
        torch.testing.assert_close(model.reconstruct_series(values.masked_fill(~keep, torch.nan)), expected)


def test_simmtm_learns_to_fill_from_neighbours():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = hf_tsrep.SimMTMForPreTraining(hf_tsrep.SimMTMConfig(num_input_channels=1, context_length=24, **sizes))
    phases = torch.rand(64, 1, generator=torch.Generator().manual_seed(1)) * 6
    waves = torch.sin(0.5 * torch.arange(24) + phases).unsqueeze(-1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(60):
        optimizer.zero_grad()
        model(past_values=waves[:48], generator=torch.Generator().manual_seed(step)).loss.backward()
        optimizer.step()
    unseen = waves[48:].numpy()
    gappy = np.where(np.random.default_rng(0).random(unseen.shape) < 0.25, np.nan, unseen)
    found = hf_tsrep.impute(model.eval(), gappy, layout="ntc")
    errors = np.stack([one.values for one in found])[np.isnan(gappy)] - unseen[np.isnan(gappy)]
    assert np.sqrt(np.mean(errors**2)) < 0.5 * unseen.std()


def test_gaps_are_filled_by_lines_inside_a_series_alone():
    nan = float("nan")
    rows = [[nan, nan, 1.0, nan, nan, 4.0, nan], [nan, 5.0, nan, nan, 6.0, nan, nan], [nan] * 7]
    values = torch.tensor(rows).t().unsqueeze(0)
    filled, observed = fill_missing(values, ~values.isnan(), "interpolate")
    third = 1.0 / 3.0
    expected = [[0, 1, 1, 2, 3, 4, 0], [0, 5, 5 + third, 5 + 2 * third, 6, 6, 0], [0] * 7]
    torch.testing.assert_close(filled[0].t(), torch.tensor(expected))
    assert observed[0].t().tolist() == [[False, *[True] * 5, False]] * 2 + [[False] * 7]
    zeros, still = fill_missing(values, ~values.isnan(), "zero")
    assert torch.equal(still, ~values.isnan())
    assert torch.equal(zeros, values.nan_to_num(0.0))
