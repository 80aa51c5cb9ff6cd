"""The tiled contrast against the equations written out."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep.modeling import kernels_contrast as losses


def dense_contrast(groups):
    """Equations 1 and 2 for (num_groups, 2 * half, size): each vector against its group, without itself."""
    half = groups.shape[1] // 2
    similarity = groups @ groups.transpose(1, 2)
    itself = torch.eye(2 * half, dtype=torch.bool)
    logits = similarity.masked_fill(itself, -torch.inf)
    partner = torch.arange(2 * half).roll(half).expand(len(groups), -1)
    return F.cross_entropy(logits.flatten(0, 1), partner.flatten())


def dense_hierarchy(first, second, alpha, temporal_unit):
    """Algorithm 1."""
    terms = []
    while True:
        batch_size, length, _ = first.shape
        loss = first.new_zeros(())
        if batch_size > 1:
            loss = loss + alpha * dense_contrast(torch.cat([first, second]).transpose(0, 1))
        if length > 1 and len(terms) >= temporal_unit:
            loss = loss + (1 - alpha) * dense_contrast(torch.cat([first, second], dim=1))
        terms.append(loss)
        if length == 1:
            return torch.stack(terms).mean()
        first, second = (F.max_pool1d(view.transpose(1, 2), 2).transpose(1, 2) for view in (first, second))


def random_views(batch_size, length, size=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch_size, length, size, generator=generator, dtype=dtype, requires_grad=True) for _ in range(2)
    ]


@given(
    batch_size=st.integers(1, 5),
    length=st.integers(1, 40),
    alpha=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    temporal_unit=st.integers(0, 3),
    tile=st.sampled_from([2, 7, 512]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradient_are_those_of_the_equations(batch_size, length, alpha, temporal_unit, tile, seed):
    found_views, views = (random_views(batch_size, length, seed=seed) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "_TILE_ON_CPU", tile)
        found = losses.hierarchical_contrastive_loss(*found_views, alpha=alpha, temporal_unit=temporal_unit)[0]
        (3 * found).backward()
    expected = dense_hierarchy(*views, alpha, temporal_unit)
    torch.testing.assert_close(found, expected)
    if expected.requires_grad:
        (3 * expected).backward()
        for one, other in zip(found_views, views, strict=True):
            torch.testing.assert_close(one.grad, other.grad if other.grad is not None else torch.zeros_like(one))


def test_large_similarities_do_not_overflow():
    views = [(100 * view).detach().requires_grad_() for view in random_views(3, 20, dtype=torch.float32)]
    loss = losses.hierarchical_contrastive_loss(*views)[0]
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(view.grad).all() for view in views)
    torch.testing.assert_close(loss, dense_hierarchy(*views, 0.5, 0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("tile", [3, 512])
def test_what_is_not_observed_counts_as_if_it_were_not_there(tile, monkeypatch):
    monkeypatch.setattr(losses, "_TILE_ON_CPU", tile)
    first, second = random_views(1, 9)
    observed = torch.ones(1, 9, dtype=torch.bool)
    observed[0, [2, 5, 6]] = False
    found = losses.contrast_level(torch.stack([first, second], 1), observed, alpha=0.0)[0]
    kept = [view[:, observed[0]] for view in (first, second)]
    torch.testing.assert_close(found, dense_contrast(torch.cat(kept, dim=1)))
    found.backward()
    assert (first.grad[0, ~observed[0]] == 0).all()
    assert (first.grad[0, observed[0]] != 0).any()
    noisy = [view.detach().clone() for view in (first, second)]
    for view in noisy:
        view[0, ~observed[0]] = 1e3
    again = losses.hierarchical_contrastive_loss(*noisy, observed=observed)[0]
    torch.testing.assert_close(again, losses.hierarchical_contrastive_loss(first, second, observed=observed)[0])


def test_nothing_observed_is_a_loss_of_zero():
    views = random_views(2, 5)
    loss = losses.hierarchical_contrastive_loss(*views, observed=torch.zeros(2, 5, dtype=torch.bool))[0]
    loss.backward()
    assert loss == 0
    assert (views[0].grad == 0).all()


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_shares_of_several_processes_average_to_the_whole(count):
    whole_views = random_views(4, 11)
    observed = torch.rand(4, 11, generator=torch.Generator().manual_seed(0)) > 0.2
    whole = losses.hierarchical_contrastive_loss(*whole_views, observed=observed)[0]
    whole.backward()
    shared_views = random_views(4, 11)
    shares = [
        losses.hierarchical_contrastive_loss(*shared_views, observed=observed, share=(i, count))[0]
        for i in range(count)
    ]
    torch.stack(shares).mean().backward()
    torch.testing.assert_close(torch.stack(shares).mean(), whole)
    for one, other in zip(shared_views, whole_views, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_no_gradient_is_made_when_none_is_wanted(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(losses._Similarities, "write_gradient", refuse)
    views = random_views(3, 8)
    with torch.no_grad():
        losses.hierarchical_contrastive_loss(*views)
    losses.hierarchical_contrastive_loss(*(view.detach() for view in views))


def test_bfloat16_views_give_a_float32_loss_near_the_exact_one():
    views = random_views(3, 30, dtype=torch.float32)
    exact = losses.hierarchical_contrastive_loss(*views)[0]
    rounded = losses.hierarchical_contrastive_loss(*(view.bfloat16() for view in views))[0]
    rounded.backward()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)
