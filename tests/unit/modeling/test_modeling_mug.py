"""MUG's equations against plain ones, and what its parts promise."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import isotonic_regression as scipy_isotonic_regression
from scipy.stats import rankdata, spearmanr

from hf_tsrep import MUGConfig, MUGForPreTraining, MUGModel
from hf_tsrep.modeling.layers_masking import fill_missing
from hf_tsrep.modeling.modeling_mug import (
    MOST_ROUNDS,
    MUGDraws,
    SegmentOutlines,
    average_rank,
    draw_step,
    information_loss,
    isotonic_regression,
    nearest_distance,
    outline_segments,
    pooled_blocks,
    relevance_cross_entropy,
    retrieval_terms,
    segment_regions,
    soft_rank,
    soft_spearman,
)

SMALL = {
    **{"num_input_channels": 2, "hidden_size": 16, "segment_size": 12, "num_attention_heads": 4, "dropout": 0.0},
    **{"intermediate_size": 16, "num_fine_layers": 1, "coarse_hidden_size": 6, "num_coarse_layers": 2},
    **{"coarse_reduced_size": 8, "max_num_segments": 24, "segment_ratios": [0.25, 0.5], "retrieval_size": 8},
}


def series(batch_size=4, length=24, num_channels=2, seed=0):
    return torch.randn(batch_size, length, num_channels, generator=torch.Generator().manual_seed(seed))


def pretraining(**fields):
    torch.manual_seed(0)
    return MUGForPreTraining(MUGConfig(**{**SMALL, **fields}))


def loss_of(model, values, **arguments):
    return model(values, generator=torch.Generator().manual_seed(3), **arguments)


def random_rows(num_rows, length, seed=0):
    return torch.randn(num_rows, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("length", [1, 2, 37, 400])
def test_isotonic_regression_is_scipys(length):
    values = random_rows(5, length).cumsum(1)
    found = isotonic_regression(values).numpy()
    for row, expected in zip(found, values.numpy(), strict=True):
        np.testing.assert_allclose(row, scipy_isotonic_regression(expected, increasing=False).x, rtol=0, atol=1e-12)


def test_a_block_that_gains_one_member_a_round_is_finished_one_by_one():
    """One far too small value before a decreasing sequence merges with one neighbour a round: hundreds of rounds."""
    values = np.stack([np.append(-1e9, -np.arange(10.0 * MOST_ROUNDS)), np.zeros(10 * MOST_ROUNDS + 1)])
    blocks = pooled_blocks(values)
    assert len(set(blocks[0])) == 1
    assert blocks[1, 0] > blocks[0, -1], "rows share no block"
    found = isotonic_regression(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found[0], scipy_isotonic_regression(values[0], increasing=False).x)


def test_soft_ranks_are_exact_where_neighbours_differ_by_the_regularization():
    values = random_rows(4, 30)
    ordered = values.sort(dim=1).values
    smallest_gap = ordered.diff(dim=1).amin().item()
    found = soft_rank(values, smallest_gap)
    np.testing.assert_allclose(found.numpy(), rankdata(values.numpy(), axis=1), atol=1e-9)
    blurred = soft_rank(values, 20 * smallest_gap)
    assert (blurred - found).abs().max() > 0.1


def test_soft_ranks_are_a_projection_onto_the_permutahedron():
    """Their sum is that of all ranks, no k of them exceed the k largest ranks, and the order is kept."""
    values = random_rows(3, 20)
    for regularization in (0.01, 0.3, 5.0):
        found = soft_rank(values, regularization)
        torch.testing.assert_close(found.sum(1), torch.full((3,), 210.0, dtype=torch.float64))
        largest = found.sort(dim=1, descending=True).values.cumsum(1)
        assert (largest <= torch.arange(20, 0, -1).cumsum(0).double() + 1e-9).all()
        assert (found.gather(1, values.argsort(1)).diff(dim=1) >= -1e-9).all()
    centred = values - values.mean(1, keepdim=True)
    torch.testing.assert_close(soft_rank(values, 100.0), 10.5 + centred / 100.0)


def test_average_ranks_are_scipys():
    values = torch.randint(6, (4, 25), generator=torch.Generator().manual_seed(0)).double()
    values[0, :3] = -torch.inf
    np.testing.assert_array_equal(average_rank(values).numpy(), rankdata(values.numpy(), axis=1))


def test_soft_spearman_is_scipys_in_the_limit():
    predicted = random_rows(5, 40)
    target = torch.randint(7, (5, 40), generator=torch.Generator().manual_seed(1)).double()
    found = soft_spearman(predicted, target, 1e-9).numpy()
    expected = [spearmanr(*pair).statistic for pair in zip(predicted.numpy(), target.numpy(), strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(soft_spearman(predicted, predicted, 1e-9).numpy(), 1.0)
    np.testing.assert_allclose(soft_spearman(predicted, -predicted, 1e-9).numpy(), -1.0)


@pytest.mark.parametrize("regularization", [1e-3, 0.05, 0.5, 50.0])
def test_the_gradient_of_soft_spearman_is_exact(regularization):
    predicted = random_rows(3, 15).requires_grad_()
    target = random_rows(3, 15, seed=1)
    assert torch.autograd.gradcheck(lambda rows: soft_spearman(rows, target, regularization), predicted)
    assert torch.autograd.gradcheck(lambda rows: soft_rank(rows, regularization), predicted)


def test_rankings_without_an_order_correlate_with_nothing():
    same, different = torch.ones(2, 9), torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    for predicted, target in ((same, different), (different, same), (same, same)):
        predicted = predicted.clone().requires_grad_()
        found = soft_spearman(predicted, target)
        torch.testing.assert_close(found, torch.zeros(2), rtol=0, atol=1e-3)
        found.sum().backward()
        assert predicted.grad.isfinite().all()


def relevance():
    similarity = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    relevant = torch.zeros(3, 12, dtype=torch.bool)
    relevant[0, :4] = relevant[1, 4:6] = relevant[2, 6:] = True
    return similarity, relevant


def test_cross_entropy_weighs_relevant_candidates_like_all_others():
    similarity, relevant = relevance()
    found = relevance_cross_entropy(similarity, relevant, 0.2)
    for row in range(3):
        terms = F.binary_cross_entropy_with_logits(similarity[row] / 0.2, relevant[row].float(), reduction="none")
        expected = (terms[relevant[row]].mean() + terms[~relevant[row]].mean()) / 2
        torch.testing.assert_close(found[row], expected)


def test_information_loss_tells_a_relevant_candidate_from_all_others():
    similarity, relevant = relevance()
    found = information_loss(similarity, relevant, 0.5)
    for row in range(3):
        scores = (similarity[row] / 0.5).exp()
        others = scores[~relevant[row]].sum()
        torch.testing.assert_close(found[row], -(scores / (scores + others)).log()[relevant[row]].mean())


def test_the_wanted_ranking_has_own_segments_first_and_others_by_distance():
    config = MUGConfig(**SMALL, retrieval_loss="spearman", rank_regularization=1e-6)
    distance = torch.tensor([[0.0, 0.0, 0.3, 0.1, torch.inf]])
    relevant = torch.tensor([[True, True, False, False, False]])
    best = torch.tensor([[0.9, 0.91, 0.1, 0.5, -0.5]])
    worst = -best
    assert retrieval_terms(best, relevant, distance, config) < 0.05  # own segments share a rank, so that 0 is not met
    assert retrieval_terms(worst, relevant, distance, config) > 1.9


@pytest.mark.parametrize(("loss", "weight"), [("spearman", 1.0), ("bce", 0.0), ("spearman_bce", 0.3)])
def test_spearman_and_cross_entropy_are_mixed_by_their_weight(loss, weight):
    similarity, relevant = relevance()
    distance = torch.rand(3, 12, generator=torch.Generator().manual_seed(1))
    config = MUGConfig(**SMALL, retrieval_loss=loss, spearman_weight=0.3, temperature=0.4, rank_regularization=0.5)
    correlation = soft_spearman(similarity * 12, torch.where(relevant, 1.0, -distance), 0.5)
    entropy = relevance_cross_entropy(similarity, relevant, 0.4)
    expected = weight * (1 - correlation) + (1 - weight) * entropy
    torch.testing.assert_close(retrieval_terms(similarity, relevant, distance, config), expected)


def test_distances_are_those_of_the_nearest_segment():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2, 4, 5), (3, 2, 2, 5)]
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    observed = [torch.rand(shape, generator=generator) < 0.8 for shape in shapes]
    observed[0][1, 0, 2] = False
    outlines = SegmentOutlines([v * o for v, o in zip(values, observed, strict=True)], observed)
    queries = SegmentOutlines(*([one[:2] for one in part] for part in outlines))
    found = nearest_distance(queries, outlines)
    assert found.shape == (2, 3, 12)
    for query in range(2):
        for candidate in range(3):
            expected = [
                nearest_by_hand(outlines, group, query, candidate, channel, position)
                for channel in range(2)
                for group in range(2)
                for position in range(shapes[group][2])
            ]
            torch.testing.assert_close(found[query, candidate], torch.tensor(expected), rtol=1e-4, atol=1e-5)
    assert found[:, 1, 2].isinf().all(), "a segment without an observed value is comparable with nothing"


def nearest_by_hand(outlines, group, query, candidate, channel, position):
    values, observed = outlines.values[group], outlines.observed[group]
    best = float("inf")
    for other in range(values.shape[2]):
        both = observed[candidate, channel, position] & observed[query, channel, other]
        if both.any():
            difference = values[candidate, channel, position] - values[query, channel, other]
            best = min(best, float(difference[both].square().mean()))
    return best


def test_a_series_is_no_distance_from_its_own_segments_whatever_its_length():
    config = MUGConfig(**SMALL, relevance_points=6)
    values = series(3, 40)
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[1, 25:] = False
    outlines = outline_segments(values, observed, config)
    distance = nearest_distance(outlines, outlines)
    own = distance.diagonal().t()
    seen = torch.cat([one.any(-1) for one in outlines.observed], dim=2).flatten(1)
    assert own[seen].abs().max() < 1e-5
    assert distance[0, 2].min() > 1e-3


VARIANTS = [
    *({"fusion": kind} for kind in ("attention", "max", "none")),
    *({"cross_granularity": kind} for kind in ("attention", "concat", "none")),
    *({"retrieval_loss": kind} for kind in ("spearman_bce", "spearman", "bce", "infonce")),
    *({"instance_embedding": kind} for kind in ("granularities", "fused")),
    {"cross_granularity": "none", "fine_weight": 0.0},
    {"num_cross_layers": 2, "attention_window": 8, "fine_normalization": "layer"},
    {"coarse_weight": 1.0},
    {"retrieval_weight": 0.0},
    {"num_regions": 1, "missing_values": "zero"},
]


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_every_variant_trains_every_parameter_and_has_its_sizes(fields):
    model = pretraining(**fields).train()
    output = loss_of(model, series())
    output.loss.backward()
    assert output.loss.isfinite()
    assert not [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()]
    embedded = model.model(series())
    size = 16 if fields.get("instance_embedding") == "fused" else 2 * (16 + 2 * fields.get("num_regions", 4) * 2 * 12)
    assert embedded.last_hidden_state.shape == (4, 24, size)
    assert embedded.pooler_output.shape == (4, size)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    weights = {"retrieval_weight": 0.5, "fine_weight": 2.0, "coarse_weight": 0.25}
    output = loss_of(pretraining(**weights), series())
    expected = 0.5 * output.retrieval_loss + 2.0 * output.fine_loss + 0.25 * output.coarse_loss
    torch.testing.assert_close(output.loss, expected)


def test_neither_branch_sees_a_masked_value():
    """What is under the mask changes what is to be predicted and how relevant segments are, but no prediction."""
    model, values = pretraining().eval(), series()
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    assert not draws.kept.all()
    changed = torch.where(draws.kept, values, values + 5.0)
    found = []
    model.decoder.register_forward_hook(lambda module, inputs, output: found.append(output))
    for given in (values, changed):
        model(given, draws=draws)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_a_masked_value_is_predicted_from_segments_too():
    model, values = pretraining().eval(), series()
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    before = model(values, draws=draws).fine_loss
    with torch.no_grad():
        model.model.coarse.encoder.output_projection.weight.mul_(-1.0)
    assert (model(values, draws=draws).fine_loss - before).abs() > 1e-4


def test_one_series_has_nothing_to_retrieve_and_says_so(caplog):
    import logging

    model = pretraining().train()
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        output = loss_of(model, series(1))
    finally:
        logger.removeHandler(caplog.handler)
    assert output.retrieval_loss == 0
    output.loss.backward()
    assert all(value.grad.isfinite().all() for value in model.parameters())


def test_segments_without_a_value_are_no_candidates():
    """A second channel that nobody measured, and a series that nobody measured, change nothing of the ranking."""
    model = pretraining().eval()
    values = series()
    values[:, :, 1] = torch.nan
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    alone = model(values, draws=draws).retrieval_loss
    beside = torch.cat([values, torch.full((1, 24, 2), torch.nan)])
    kept = torch.cat([draws.kept, torch.ones(1, 24, 2, dtype=torch.bool)])
    more = MUGDraws(kept, draws.dropout_seed, draw_step(model.config, 5, 24, torch.Generator()).clusters)
    torch.testing.assert_close(model(beside, draws=more).retrieval_loss, alone)
    assert 0 < alone < 2


def test_attentions_say_how_timestamps_read_segments():
    torch.manual_seed(0)
    model = MUGModel(MUGConfig(**SMALL, num_cross_layers=2)).eval()
    values = F.pad(series(2, 20), (0, 0, 5, 7), value=torch.nan)
    values[1, :, 1] = torch.nan
    output = model(values, output_attentions=True)
    assert len(output.cross_attentions) == 2
    weights = output.cross_attentions[0]
    assert weights.shape == (2, 4, 32, output.spans.shape[1])
    inside = torch.zeros(32)
    inside[5:25] = 1.0
    torch.testing.assert_close(weights.sum(-1), inside.expand(2, 4, -1))
    assert not weights[1][..., ~output.observed_segments[1]].any()
    start, length, channel = output.spans[output.observed_segments].unbind(-1)
    assert start.min() == 5
    assert (start + length).max() == 25
    assert set(channel.tolist()) == {0, 1}
    assert model(values).cross_attentions is None


def test_attention_weights_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    layer = MUGModel(MUGConfig(**SMALL)).eval().cross_layers[0]
    hidden, segments = torch.randn(2, 9, 16), torch.randn(2, 7, 12)
    mask = torch.rand(2, 1, 1, 7) < 0.7
    mask[..., 0] = True
    value = layer._split(hidden, segments)[2]
    attended = layer.output_projection((layer.weights(hidden, segments, mask) @ value).transpose(1, 2).flatten(2))
    expected = layer.attention_norm(hidden + attended)
    expected = layer.output_norm(expected + layer.contraction(layer.activate(layer.expansion(expected))))
    torch.testing.assert_close(layer(hidden, segments, mask), expected)


def test_padding_in_a_batch_of_several_lengths_changes_nothing():
    torch.manual_seed(0)
    model = MUGModel(MUGConfig(**SMALL, attention_window=8)).eval()
    whole, short = series(1, 30), series(1, 11, seed=1)
    together = torch.cat([whole, F.pad(short, (0, 0, 12, 7), value=torch.nan)])
    output = model(together)
    torch.testing.assert_close(output.pooler_output[:1], model(whole).pooler_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.pooler_output[1:], model(short).pooler_output, rtol=1e-4, atol=1e-5)
    alone = model(short).last_hidden_state
    torch.testing.assert_close(output.last_hidden_state[1:, 12:23], alone, rtol=1e-4, atol=1e-5)
    assert not output.last_hidden_state[1, :12].any()


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_series_shorter_than_the_shortest_segment_are_embedded_and_learnt_from(length):
    model = pretraining().train()
    output = loss_of(model, series(4, length))
    output.loss.backward()
    assert output.loss.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())
    assert model.model.eval()(series(4, length)).pooler_output.isfinite().all()


def test_the_number_of_segments_does_not_grow_with_the_series():
    torch.manual_seed(0)
    model = MUGModel(MUGConfig(**SMALL)).eval()
    assert {model(series(1, length)).spans.shape[1] for length in (50, 500, 1000)} == {24}


def test_a_long_series_is_attended_to_in_windows():
    """A change at the end of a long series reaches a far timestamp through segments alone."""
    torch.manual_seed(0)
    values = series(1, 100)
    changed = values.clone()
    changed[:, -1] += 3.0
    for window, is_local in ((8, True), (None, False)):
        config = MUGConfig(**SMALL, attention_window=window, cross_granularity="none", instance_embedding="fused")
        model = MUGModel(config).eval()
        difference = (model(changed).last_hidden_state - model(values).last_hidden_state).abs().amax(-1)
        assert (difference[0, 0] == 0) == is_local


def test_pre_training_measures_what_embeddings_are_scaled_by():
    model, values = pretraining(mask_ratio=0.01).train(), series(32)
    with torch.no_grad():
        for number in range(40):
            model(values, generator=torch.Generator().manual_seed(number))
    norm = model.model.norm
    assert norm.num_batches == 40
    embeddings = model.model.eval()(values).pooler_output
    assert embeddings.mean(0).abs().max() < 0.5
    assert 0.8 < embeddings.std(0).median() < 1.25
    before = norm.mean.clone()
    loss_of(model.eval(), series(32, seed=5))
    model.model.train()(series(32, seed=5))
    torch.testing.assert_close(norm.mean, before, rtol=0, atol=0)


def test_a_batch_without_two_series_teaches_no_scale():
    model = pretraining().train()
    values = series(2)
    values[0] = torch.nan
    loss_of(model, values)
    assert model.model.norm.num_batches == 0
    assert (model.model.norm.variance == 1).all()


@pytest.mark.parametrize("num_channels", [1, 2, 5])
def test_channels_have_places_of_their_own_or_signs(num_channels):
    torch.manual_seed(0)
    config = MUGConfig(**{**SMALL, "num_input_channels": num_channels, "channel_slots": 2})
    model = MUGModel(config).eval()
    values = series(1, 24, num_channels)
    embedding = model(values).pooler_output
    assert embedding.shape[1] == config.embedding_size == 2 * (16 + 2 * 4 * min(num_channels, 2) * 12)
    if num_channels > 1:
        segments = [*range(16, config.embedding_size // 2)]  # of the means, behind the fused representation
        swapped = model(values.flip(-1)).pooler_output
        assert (embedding - swapped)[:, segments].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fusion": "mean"}, "MUGConfig.fusion is 'mean'"),
        ({"temperature": 0.0}, "MUGConfig.temperature is 0.0; it must be above 0"),
        ({"rank_regularization": -1.0}, "MUGConfig.rank_regularization is -1.0"),
        ({"fine_weight": 0.0}, "MUGConfig.fine_weight is 0, .* cross_granularity='attention'"),
        ({"hidden_size": 15}, "MUGConfig.hidden_size is 15; it must be a multiple of num_attention_heads"),
        ({"num_coarse_layers": 0}, "MUGConfig.num_coarse_layers is 0"),
        ({"num_fine_layers": 0}, "MUGConfig.num_fine_layers is 0"),
        ({"fine_normalization": "group"}, "MUGConfig.fine_normalization is 'group'"),
        ({"segment_ratios": [0.2, 1.5]}, "MUGConfig.segment_ratios is"),
        ({"embedding_size": 7}, "MUGConfig.embedding_size is 7, but .* make it 416"),
    ],
)
def test_what_does_not_fit_is_refused_in_our_own_names(fields, words):
    with pytest.raises(ValueError, match=words):
        MUGConfig(**{**SMALL, **fields})


def test_an_embedding_tells_in_which_part_of_a_series_something_is():
    """Where segments are pooled at once a bump early or late is all but the same; with regions it is not."""
    bump = torch.zeros(2, 30, 1)
    bump[0, 3:8], bump[1, 22:27] = 1.0, 1.0
    apart = {}
    for num_regions in (1, 3):
        torch.manual_seed(0)
        fields = {**SMALL, "num_input_channels": 1, "num_regions": num_regions, "segment_ratios": [0.2]}
        model = MUGModel(MUGConfig(**fields)).eval()
        early, late = model(bump).pooler_output[:, 16 : model.config.embedding_size // 2]  # the means of segments
        apart[num_regions] = ((early - late).norm() / early.norm()).item()
    assert apart[1] < 0.2
    assert apart[3] > 2 * apart[1]


def test_segments_lie_in_the_region_of_their_centre():
    start = torch.tensor([[0, 6, 12, 18, 0, 12], [5, 8, 11, 14, 5, 5]])
    stop = torch.tensor([[6, 12, 18, 24, 12, 24], [8, 11, 14, 17, 11, 17]])
    expected = torch.tensor([[0, 1, 1, 2, 0, 2], [0, 1, 1, 2, 0, 1]])
    assert torch.equal(segment_regions(start, stop, 3), expected)
    assert torch.equal(segment_regions(start, stop, 1), torch.zeros_like(start))


def test_a_gap_on_a_line_changes_nothing_where_it_is_interpolated():
    """The line between its neighbours is what was there; as zeros it is another series."""
    line = (torch.arange(24.0) / 4).view(1, -1, 1).repeat(2, 1, 2)
    gappy = line.clone()
    gappy[:, 5:9, 0], gappy[:, 14] = torch.nan, torch.nan
    found = {}
    for filling in ("interpolate", "zero"):
        model = pretraining(missing_values=filling).eval().model
        found[filling] = (model(gappy).last_hidden_state - model(line).last_hidden_state).abs().max()
    assert found["interpolate"] < 1e-5
    assert found["zero"] > 0.1


def test_an_interpolated_value_is_not_asked_for_in_pre_training():
    model = pretraining(retrieval_weight=0.0).eval()
    values = series()
    values[:, 6:9, 0] = torch.nan
    filled, _ = fill_missing(values, ~values.isnan(), "interpolate")
    draws = draw_step(model.config, 4, 24, torch.Generator().manual_seed(0))
    kept = torch.ones_like(draws.kept)
    kept[:, 6:12, 0] = False
    draws = MUGDraws(kept, draws.dropout_seed, draws.clusters)
    hidden = model.model.encode_granularities(filled, kept).fused
    errors = (model.decoder(hidden) - values)[:, 9:12, 0].square()
    torch.testing.assert_close(model(values, draws=draws).fine_loss, errors.mean())
