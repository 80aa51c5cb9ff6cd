"""ShapeNet: segments, the causal encoder, clusters, the cluster-wise triplet loss, and what is left of odd series."""

import itertools
import math

import numpy as np
import pytest
import torch
from benchmark.cases_shapenet import shapenet_encode, shapenet_step
from company import assert_company_changes_nothing
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tsrep import (
    ShapeNetConfig,
    ShapeNetForPreTraining,
    ShapeNetForTimeSeriesClassification,
    ShapeNetModel,
)
from hf_tsrep.modeling import modeling_shapenet
from hf_tsrep.modeling.conversion_time_series import ConversionError
from hf_tsrep.modeling.encoding_time_series import observed_span
from hf_tsrep.modeling.layers_convolution import CausalConvolution, CausalEncoder, causal_convolution
from hf_tsrep.modeling.modeling_shapenet import (
    ShapeNetEncoder,
    candidate_utility,
    channel_signs,
    class_separation,
    cluster_triplet_loss,
    convert_shapenet_state_dict,
    cut_segments,
    draw_choices,
    draw_triplets,
    k_means,
    number_separation,
    segment_starts,
    shapenet_fields_of_hyperparameters,
)

TINY = {"hidden_size": 6, "embedding_size": 8, "num_hidden_layers": 4, "reduced_size": 7}


def config_of(**fields):
    return ShapeNetConfig(**{**TINY, **fields})


def series_of(batch_size, length, num_channels=1, seed=0):
    return torch.randn(batch_size, length, num_channels, generator=torch.Generator().manual_seed(seed))


@given(length=st.integers(1, 500), ratios=st.sampled_from([[0.2, 0.4, 0.6], [1.0], [0.05], [0.31, 0.5]]))
@settings(max_examples=60, deadline=None)
def test_segments_cover_every_timestamp_reach_both_ends_and_are_bounded(length, ratios):
    config = config_of(segment_ratios=ratios, max_num_segments=40)
    spans = segment_starts(length, config)
    assert len(spans) <= max(40, sum(math.ceil(1 / ratio) for ratio in ratios))
    covered = set()
    for segment_length, start in spans:
        assert 1 <= segment_length <= length
        assert 0 <= start <= length - segment_length
        covered |= set(range(start, start + segment_length))
    assert covered == set(range(length))
    for segment_length, starts in itertools.groupby(spans[: len(segment_starts(length, config))], lambda one: one[0]):
        starts = [start for _, start in starts]
        assert starts[0] == 0
        assert max(starts) == length - segment_length


def test_a_short_series_has_every_segment_and_the_stride_of_a_long_one_grows():
    config = config_of(segment_ratios=[0.4], max_num_segments=7)
    assert segment_starts(10, config) == [(4, start) for start in range(7)]
    assert segment_starts(1000, config) == [(400, 100 * place) for place in range(7)]
    assert segment_starts(2, config) == [(2, 0)]


def test_the_bound_is_shared_by_lengths_and_channels():
    assert sum(config_of(max_num_segments=61).positions_per_length) == 61
    assert config_of(num_input_channels=4, max_num_segments=61).num_segments == 60
    assert config_of(num_input_channels=50, max_num_segments=60).num_segments == 50 * (5 + 3 + 2)


def test_segments_are_what_a_slice_gives_whatever_the_padding():
    config = config_of(num_input_channels=2, max_num_segments=24)
    values = series_of(2, 30, 2)
    values[1, :4] = values[1, 25:] = torch.nan
    observed = ~values.isnan()
    groups = cut_segments(values, observed, observed_span(observed.any(-1)), config)
    for row, (first, length) in enumerate(((0, 30), (4, 21))):
        expected = iter(segment_starts(length, config))
        for group in groups:
            for place in torch.nonzero(group.exist[row])[:, 0].tolist():
                size, start = next(expected)
                for channel in range(2):
                    points, seen = (one[:, place, row, channel] for one in (group.values, group.observed))
                    part = values[row, first + start : first + start + size, channel]
                    assert torch.equal(points[seen], part)
        assert next(expected, None) is None


@pytest.mark.parametrize("missing", [False, True])
def test_a_long_segment_is_shortened_to_means_of_what_is_observed(missing):
    config = config_of(segment_ratios=[0.5], max_num_segments=3, max_segment_points=7)
    values = series_of(1, 50) + 1000
    if missing:
        values[0, 3:9] = torch.nan
    observed = ~values.isnan()
    (group,) = cut_segments(values, observed, torch.ones(1, 50, dtype=torch.bool), config)
    assert group.values.shape[0] == 7
    for place, start in enumerate(group.starts[0].tolist()):
        part = values[0, start : start + 25, 0].double()
        bounds = [25 * point // 7 for point in range(8)]
        means = torch.stack([part[low:high].nanmean() for low, high in itertools.pairwise(bounds)])
        seen = group.observed[:, place, 0, 0]
        assert torch.equal(seen, ~means.isnan())
        torch.testing.assert_close(group.values[:, place, 0, 0][seen], means[seen].float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dilation", [1, 4, 64])
@pytest.mark.parametrize("length", [1, 2, 9])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
def test_the_causal_convolution_by_matrix_products_is_the_plain_one(dilation, length, kernel_size):
    torch.manual_seed(0)
    layer = CausalConvolution(3, 5, kernel_size, dilation).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    hidden = torch.randn(length, 4, 3, dtype=torch.float64, requires_grad=True)
    leaves = [hidden, *layer.parameters()]
    fast = layer(hidden)
    plain = causal_convolution(hidden, layer.weight, layer.bias, dilation, 0.01)
    weight = torch.randn_like(plain)
    torch.testing.assert_close(fast, plain)
    for found, expected in zip(
        torch.autograd.grad((fast * weight).sum(), leaves),
        torch.autograd.grad((plain * weight).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(found, expected)


def test_the_direction_has_no_length_of_its_own():
    layer = CausalConvolution(3, 5, 3, 1)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    torch.testing.assert_close(layer.weight.flatten(1).norm(dim=1), layer.magnitude.abs())


def test_segments_of_several_lengths_share_a_batch_and_what_follows_changes_nothing():
    torch.manual_seed(0)
    encoder = ShapeNetModel(config_of()).segments.encoder.eval()
    values = series_of(4, 40)[:, :, 0]
    lengths = torch.tensor([1, 7, 23, 40])
    together = encoder(values, torch.arange(40) < lengths[:, None])
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(values[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(together[row], alone[0])
    assert isinstance(encoder, ShapeNetEncoder)
    assert isinstance(encoder, CausalEncoder)


def test_a_segment_without_a_value_has_no_embedding_and_no_token():
    torch.manual_seed(0)
    config = config_of(num_input_channels=3)
    model = ShapeNetModel(config)
    values = series_of(2, 20, 3)
    values[0, :, 1] = torch.nan
    output = model(values)
    channel = output.spans[..., 2]
    assert not output.observed_segments[0][channel[0] == 1].any()
    assert (output.segment_tokens[0][channel[0] == 1] == 0).all()
    assert output.observed_segments[1].sum() == len(segment_starts(20, config)) * 3
    assert torch.isfinite(output.last_hidden_state).all()


def test_marks_tell_position_length_and_channel_apart():
    config = config_of(num_input_channels=2, embedding_size=64)
    output = ShapeNetModel(config)(torch.ones(1, 60, 2))  # all values alike: only the marks differ
    tokens = output.segment_tokens[0][output.observed_segments[0]]
    assert len(tokens) == config.num_segments
    distances = torch.cdist(tokens, tokens) + torch.eye(len(tokens))
    assert distances.min() > 0.05


def test_the_signs_of_channels_are_fixed_balanced_and_nearly_orthogonal():
    signs = channel_signs(50, 320)
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    assert (signs[0] == 1.0).all()
    assert torch.equal(signs[:7], channel_signs(7, 320))
    products = signs[1:] @ signs[1:].t() / 320 - torch.eye(49)
    assert products.abs().max() < 0.3


def test_a_timestamp_has_the_mean_of_the_segments_that_cover_it():
    torch.manual_seed(0)
    config = config_of(num_input_channels=2)
    model = ShapeNetModel(config).eval()
    output = model(series_of(1, 17, 2), output_hidden_states=True)
    embeddings = output.hidden_states[0][0]
    start, length, channel = output.spans[0].unbind(-1)
    signed = embeddings * channel_signs(2, 8)[channel]
    for step in range(17):
        covering = (start <= step) & (step < start + length) & output.observed_segments[0]
        torch.testing.assert_close(output.last_hidden_state[0, step], signed[covering].mean(0))


def test_k_means_finds_clusters_that_lie_apart_and_leaves_out_what_is_not_valid():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    truth = torch.arange(60) % 3
    points = centres[truth] + 0.5 * torch.randn(60, 2, generator=generator)
    points[::7] = 1e6
    valid = torch.arange(60) % 7 != 0
    clusters, distance = k_means(points, valid, torch.rand(3, generator=generator), 20)
    assert (clusters[~valid] == -1).all()
    assert distance[~valid].isinf().all()
    assert len({(int(one), int(other)) for one, other in zip(clusters[valid], truth[valid], strict=True)}) == 3
    for cluster in range(3):
        member = points[clusters == cluster]
        expected = (member - member.mean(0)).square().sum(1)
        torch.testing.assert_close(distance[clusters == cluster], expected, rtol=1e-4, atol=1e-5)


def test_k_means_of_nothing_and_of_equal_points():
    nothing = torch.zeros(4, dtype=torch.bool)
    assert (k_means(torch.zeros(4, 3), nothing, torch.rand(2), 5)[0] == -1).all()
    clusters, distance = k_means(torch.ones(4, 3), ~nothing, torch.tensor([0.3, 0.9]), 5)
    assert len(clusters.unique()) == 1
    assert (distance == 0).all()


def test_triplets_are_the_nearest_of_a_cluster_and_any_of_the_others():
    config = config_of(num_clusters=3, sample_fraction=0.2, max_num_positives=4)
    clusters = torch.tensor([0] * 30 + [1] * 10 + [2] + [-1] * 3)
    distance = torch.cat([torch.arange(30.0).flip(0), torch.arange(14.0)])
    keys = torch.arange(44.0)
    first, second = draw_triplets(clusters, distance, keys, config)  # the third cluster has no positive
    assert first.anchor == 29
    assert first.positives.tolist() == [28, 27, 26, 25]
    assert [one.tolist() for one in first.negatives] == [[30, 31, 32], [40]]
    assert second.anchor == 30
    assert second.positives.tolist() == [31, 32, 33]
    assert [one.tolist() for one in second.negatives] == [[0, 1, 2, 3], [40]]
    assert first.chosen.tolist() == [29, 28, 27, 26, 25, 30, 31, 32, 40]
    assert draw_triplets(torch.zeros(9, dtype=torch.long), distance[:9], keys[:9], config) == []


def test_the_loss_is_the_equation_written_out():
    generator = torch.Generator().manual_seed(0)
    anchor, positives, near, far = (torch.randn(size, 5, generator=generator) for size in (1, 4, 3, 2))
    found, ratio, intra = cluster_triplet_loss(anchor[0], positives, [near, far], margin=0.3, intra_weight=0.7)
    distance = lambda one, other: float(np.linalg.norm(one.numpy() - other.numpy()))  # noqa: E731
    from_positives = np.mean([distance(anchor[0], one) for one in positives])
    from_negatives = np.mean([np.mean([distance(anchor[0], one) for one in group]) for group in (near, far)])
    widest = [max(distance(*pair) for pair in itertools.combinations(group, 2)) for group in (positives, near, far)]
    assert float(ratio) == pytest.approx(math.log((from_positives + 0.3) / from_negatives), rel=1e-5)
    assert float(intra) == pytest.approx(sum(widest), rel=1e-5)
    assert float(found) == pytest.approx(float(ratio) + 0.7 * float(intra), rel=1e-5)


def test_equal_segments_have_a_finite_gradient():
    anchor = torch.ones(5, requires_grad=True)
    loss, _, _ = cluster_triplet_loss(anchor, anchor.expand(3, 5), [anchor.expand(2, 5)], 0.2, 1.0)
    loss.backward()
    assert torch.isfinite(anchor.grad).all()


def test_a_step_can_be_taken_again_and_learns():
    config = config_of(num_input_channels=2)
    torch.manual_seed(0)
    model = ShapeNetForPreTraining(config).train()
    values = series_of(4, 40, 2).cumsum(1)
    draws = draw_choices(4, config, torch.Generator().manual_seed(1))
    losses = [model(values, draws=draws).loss for _ in range(2)]
    assert losses[0] == losses[1] != model(values).loss
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = model(values, draws=draws).loss
        loss.backward()
        optimizer.step()
    assert loss < losses[0] - 0.5


@pytest.mark.parametrize(("batch_size", "length"), [(1, 40), (1, 4), (3, 1)])
def test_one_series_or_one_timestamp_trains_where_there_are_two_clusters(batch_size, length):
    model = ShapeNetForPreTraining(config_of()).train()
    loss = model(series_of(batch_size, length)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(value.grad).all() for value in model.parameters())


def test_a_batch_with_nothing_to_compare_is_told(monkeypatch):
    said = []
    monkeypatch.setattr(modeling_shapenet.logger, "warning_once", said.append)
    model = ShapeNetForPreTraining(config_of()).train()
    model(series_of(1, 40))
    assert not said
    loss = model(torch.full((1, 1, 1), torch.nan)).loss
    loss.backward()
    assert loss == 0
    (warning,) = said
    assert "nothing to compare" in warning


def test_company_changes_nothing():
    torch.manual_seed(0)
    assert_company_changes_nothing(ShapeNetModel(config_of(num_input_channels=2, hidden_size=8)).eval())


@pytest.mark.parametrize("ratios", [[], [0.0], [1.2], [0.5, 0.0001]])
def test_ratios_out_of_range_are_refused(ratios):
    with pytest.raises(ValueError, match="segment_ratios"):
        config_of(segment_ratios=ratios)


def classes_of(num_series=12, length=32, num_channels=2):
    """Series of two classes: the second has a wave in its last channel."""
    values = 0.3 * series_of(num_series, length, num_channels)
    labels = torch.arange(num_series) % 2
    values[labels == 1, 10:26, -1] += 2 * torch.sin(torch.arange(16.0))
    return values, labels


def classifier(**fields):
    torch.manual_seed(0)
    sizes = {"num_shapelets": 5, "num_shapelet_clusters": 12, "shapelet_length": 32, "num_labels": 2}
    return ShapeNetForTimeSeriesClassification(config_of(num_input_channels=2, **{**sizes, **fields})).eval()


def test_shapelets_are_segments_of_the_training_data_and_lie_at_distance_zero_from_their_series():
    model, (values, labels) = classifier(), classes_of()
    model.select_shapelets(values, labels)
    head = model.head
    distances = model.compute_head_inputs(values).head_inputs["distances"]
    for number, (row, start, length, channel, ratio) in enumerate(head.origins.tolist()):
        raw = head.shapelets[number][head.shapelet_observed[number]]
        assert torch.equal(raw, values[row, start : start + length, channel])
        assert (length, start) in segment_starts(32, model.config)
        assert length == math.ceil(32 * model.config.segment_ratios[ratio])
        assert distances[row, number] < 1e-5
    torch.testing.assert_close(head.distance_mean, distances.mean(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(head.distance_scale, distances.std(0, correction=0), rtol=1e-3, atol=1e-6)


def test_selection_by_separation_finds_where_the_classes_differ():
    model, (values, labels) = classifier(num_shapelets=2), classes_of(40)
    model.select_shapelets(values, labels)
    assert (model.head.origins[:, 3] == 1).all()


def test_selection_leaves_the_random_state_alone_and_can_be_made_again():
    values, labels = classes_of()
    first, second = classifier(), classifier()
    state = torch.get_rng_state()
    for model in (first, second):
        model.select_shapelets(values, labels, batch_size=5)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in first.head.named_buffers():
        assert torch.equal(value, dict(second.head.named_buffers())[name])


def test_selected_shapelets_are_saved_and_follow_the_encoder(tmp_path):
    model, (values, labels) = classifier(), classes_of()
    model.select_shapelets(values, labels)
    model.save_pretrained(tmp_path)
    loaded = ShapeNetForTimeSeriesClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(values).logits, model(values).logits)
    loss = loaded.train()(values, labels=labels).loss
    loss.backward()
    assert all(value.grad is not None for value in loaded.model.parameters())


@pytest.mark.parametrize("ranking", ["separation", "utility"])
def test_few_series_with_missing_values_fill_what_they_can_and_the_rest_tells_nothing(ranking):
    model = classifier(num_shapelets=40, num_shapelet_clusters=60, shapelet_ranking=ranking)
    values, labels = series_of(2, 4, 2), torch.arange(2)
    values[0, :, 0] = torch.nan
    values[1, 1, 1] = torch.nan
    model.select_shapelets(values, labels)
    filled = model.head.origins[:, 0] >= 0
    assert 0 < filled.sum() < 40
    assert not model.head.shapelet_observed[~filled].any()
    other = series_of(3, 9, 2)
    other[0] = torch.nan
    inputs = model.compute_head_inputs(other).head_inputs["distances"]
    assert torch.isfinite(inputs).all()
    assert (inputs[:, ~filled] == inputs[:1, ~filled]).all()
    assert torch.isfinite(model(other, labels=torch.tensor([0, 1, 1])).loss)


def test_candidates_are_bounded_and_come_from_every_class():
    model = classifier(max_num_candidates=240, max_num_segments=20)  # twelve of twenty segments
    values, labels = classes_of(60)
    model.select_shapelets(values, labels)
    rows = model.head.origins[:, 0]
    assert (rows >= 0).all()
    assert torch.isfinite(model(values).logits).all()


def test_series_beyond_the_length_of_the_head_and_series_without_values_are_refused():
    model, (values, labels) = classifier(shapelet_length=8), classes_of()
    with pytest.raises(ValueError, match="shapelet_length is 8"):
        model.select_shapelets(values, labels)
    with pytest.raises(ValueError, match="no observed value"):
        classifier().select_shapelets(torch.full_like(values, torch.nan), labels)


def test_the_separation_of_numbers_is_the_f_statistic_of_a_line():
    from sklearn.feature_selection import f_regression

    generator = torch.Generator().manual_seed(0)
    distances, numbers = torch.rand(20, 5, generator=generator), torch.rand(20, generator=generator)
    distances[:, 2] += 2 * numbers
    expected, _ = f_regression(distances.numpy(), numbers.numpy())
    np.testing.assert_allclose(number_separation(distances, numbers), expected, rtol=1e-4, atol=1e-5)
    assert (number_separation(distances, torch.ones(20)) == 0).all()


def test_the_separation_of_classes_is_the_f_statistic():
    from sklearn.feature_selection import f_classif

    distances, labels = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    expected = f_classif(distances.numpy(), labels.numpy())[0]
    np.testing.assert_allclose(class_separation(distances, labels), expected, rtol=1e-4)
    assert (class_separation(distances, torch.zeros(20, dtype=torch.long)) == 0).all()


def test_the_utility_prefers_large_clusters_and_candidates_far_from_others():
    embeddings = torch.tensor([[0.0, 0.0], [0.1, 0.0], [5.0, 0.0]])
    sizes = torch.tensor([9, 3, 3])
    assert candidate_utility(embeddings, sizes, 1.0).argmax() == 0
    assert candidate_utility(embeddings, sizes, 0.0).argmax() == 2
    expected = 0.5 * math.log(3) + 0.5 * math.log(5.0 + 4.9)
    assert float(candidate_utility(embeddings, sizes, 0.5)[2]) == pytest.approx(expected)


def test_a_finetuned_model_keeps_the_shapelets_of_its_training_part(tmp_path):
    from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, Value

    from hf_tsrep import finetune

    named = {"series": Array2D((None, 2), "float32"), "item_id": Value("string"), "label": ClassLabel(2)}
    values, labels = classes_of(36)
    rows = [
        {"series": one.numpy(), "item_id": str(number), "label": label}
        for number, (one, label) in enumerate(zip(values, labels.tolist(), strict=True))
    ]
    parts = {"train": rows[:16], "validation": rows[16:24], "test": rows[24:]}
    corpus = DatasetDict({name: Dataset.from_list(part, features=Features(named)) for name, part in parts.items()})
    fields = {**TINY, "num_shapelets": 5, "num_shapelet_clusters": 9, "max_num_segments": 24}
    fields |= {"num_train_epochs": 20, "learning_rate": 0.05, "disable_tqdm": True, "use_cpu": True, "scaler": "none"}
    result = finetune("shapenet", corpus, tmp_path / "run", mode="linear-probe", **fields)
    assert result.metrics["accuracy"] > 0.9
    head = ShapeNetForTimeSeriesClassification.from_pretrained(tmp_path / "run").head
    for number, (row, start, length, channel, _) in enumerate(head.origins.tolist()):
        assert 0 <= row < 16
        raw = head.shapelets[number][head.shapelet_observed[number]]
        assert torch.equal(raw, values[row, start : start + length, channel])
    assert head.shapelets.shape == (5, 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {}, "no checkpoint of ShapeNet"),
        (lambda state: {**state, "head.weight": torch.zeros(1)}, "unknown: head.weight"),
        (lambda state: {key: value for key, value in state.items() if key != "network.3.bias"}, "missing: network.3"),
        (
            lambda state: {**state, "network.0.network.0.causal.0.weight_v": torch.zeros(5, 2, 3)},
            "2 input channels",
        ),
        (lambda state: {"network.0.network.99999.causal.0.bias": torch.zeros(1)}, "no checkpoint of ShapeNet"),
    ],
)
def test_a_checkpoint_that_is_none_is_refused_by_name(change, words):
    from shapenet_equations import make_parameters

    official = make_parameters(torch.Generator().manual_seed(0))
    fields, state_dict = convert_shapenet_state_dict(official)
    ShapeNetModel(ShapeNetConfig(**fields)).load_state_dict(state_dict)
    with pytest.raises(ConversionError, match=words):
        convert_shapenet_state_dict(change(official))


def test_official_arguments_become_fields():
    fields = shapenet_fields_of_hyperparameters({"depth": 10, "channels": 40, "lr": 0.001, "out_channels": 320})
    assert fields == {"num_hidden_layers": 11, "hidden_size": 40, "embedding_size": 320}
    with pytest.raises(ConversionError, match="no whole number"):
        shapenet_fields_of_hyperparameters({"depth": True})


@pytest.mark.parametrize("case", [shapenet_step, shapenet_encode])
def test_the_plain_side_of_the_benchmark_computes_the_same(case):
    ours, plain = (case(side, batch_size=2, length=30)["sample"] for side in (False, True))
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
