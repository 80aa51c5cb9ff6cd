"""The geometric masks: equal to the chain step by step, and of the distribution that they should have."""

import pytest
import torch

from hf_tsrep.modeling.modeling_simmtm import draw_geometric_masks, geometric_mask


def chain(uniforms, mask_ratio, mean_mask_length):
    """The two-state chain as it is defined, one step after the other."""
    leaves_mask = 1.0 / mean_mask_length
    leaves_kept = leaves_mask * mask_ratio / (1.0 - mask_ratio)
    state, keep = bool(uniforms[0] > mask_ratio), []
    for number in uniforms[1:]:
        keep.append(state)
        if number < (leaves_kept if state else leaves_mask):
            state = not state
    return torch.tensor(keep)


@pytest.mark.parametrize("length", [1, 2, 400])
@pytest.mark.parametrize(
    ("mask_ratio", "mean_mask_length"), [(0.5, 3.0), (0.2, 5.0), (0.75, 2.0), (0.9, 1.5), (0.4, 1.0)]
)
def test_is_the_chain_step_by_step(mask_ratio, mean_mask_length, length):
    uniforms = torch.rand(6, 1 + length, generator=torch.Generator().manual_seed(length))
    found = geometric_mask(uniforms, mask_ratio, mean_mask_length)
    expected = torch.stack([chain(row, mask_ratio, mean_mask_length) for row in uniforms])
    assert torch.equal(found, expected)


def stretch_lengths(keep, value):
    """Lengths of the stretches of `value` inside a long mask, those at the ends left out."""
    borders = (keep[1:] != keep[:-1]).nonzero().flatten()
    lengths, values = borders.diff(), keep[1:][borders[:-1]]
    return lengths[values == value].float()


@pytest.mark.parametrize(("mask_ratio", "mean_mask_length"), [(0.5, 3.0), (0.25, 4.0), (0.75, 6.0)])
def test_stretches_have_geometric_lengths(mask_ratio, mean_mask_length):
    keep = draw_geometric_masks((200_000,), mask_ratio, mean_mask_length, generator=torch.Generator().manual_seed(0))
    assert abs((~keep).float().mean() - mask_ratio) < 0.01
    for value, mean in ((False, mean_mask_length), (True, mean_mask_length * (1 - mask_ratio) / mask_ratio)):
        lengths = stretch_lengths(keep, value)
        assert abs(lengths.mean() / mean - 1.0) < 0.03
        for count in (1, 2, 5):
            expected = (1.0 / mean) * (1.0 - 1.0 / mean) ** (count - 1)
            assert abs((lengths == count).float().mean() - expected) < 0.01


def test_every_step_is_masked_with_the_same_probability():
    keep = draw_geometric_masks((40_000, 12), 0.3, 3.0, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close((~keep).float().mean(0), torch.full((12,), 0.3), rtol=0, atol=0.01)


def test_one_chain_runs_through_all_series_and_separate_ones_do_not():
    shape = (20_000, 2)
    through, apart = (
        draw_geometric_masks(shape, 0.5, 8.0, across, torch.Generator().manual_seed(2)) for across in (True, False)
    )
    agreement = [(keep[:-1, -1] == keep[1:, 0]).float().mean() for keep in (through, apart)]
    assert abs(agreement[0] - 7 / 8) < 0.01
    assert abs(agreement[1] - 1 / 2) < 0.015
