"""ShapeNet's equations once more, written plainly: they make the fixtures of its pre-training and its shapelets.

There is no official fixture. This file imports nothing of the library and goes segment by segment in float64, so that
two hands wrote what is compared. `python tests/support/shapenet_equations.py` writes both fixtures anew.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

FOLDER = Path(__file__).resolve().parents[1] / "parity" / "fixtures"
SIZES = {"hidden_size": 5, "num_hidden_layers": 3, "reduced_size": 6, "embedding_size": 4, "kernel_size": 3}
SEGMENTS = {"segment_ratios": [0.25, 0.5], "min_segment_length": 3, "max_num_segments": 24, "num_input_channels": 2}
LOSS = {"num_clusters": 2, "max_num_positives": 3, "sample_fraction": 0.2, "margin": 0.3, "intra_weight": 0.7}
SHAPELETS = {"num_shapelets": 6, "num_shapelet_clusters": 8, "shapelet_ranking": "separation"}


def make_parameters(generator):
    """Random weights under the official names of the encoder, float64."""
    widths = [1, *[SIZES["hidden_size"]] * (SIZES["num_hidden_layers"] - 1), SIZES["reduced_size"]]
    parameters = {}

    def draw(name, *shape):
        parameters[name] = 0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    for index in range(SIZES["num_hidden_layers"]):
        block, (inside, outside) = f"network.0.network.{index}", widths[index : index + 2]
        for layer, width in ((0, inside), (3, outside)):
            draw(f"{block}.causal.{layer}.weight_v", outside, width, SIZES["kernel_size"])
            draw(f"{block}.causal.{layer}.weight_g", outside, 1, 1)
            draw(f"{block}.causal.{layer}.bias", outside)
        if inside != outside:
            draw(f"{block}.upordownsample.weight", outside, inside, 1)
            draw(f"{block}.upordownsample.bias", outside)
    draw("network.3.weight", SIZES["embedding_size"], SIZES["reduced_size"])
    draw("network.3.bias", SIZES["embedding_size"])
    return parameters


def embed(parameters, segment):
    """Embed one segment (length,): causal convolutions, the maximum over time, a linear layer."""
    hidden = segment.view(1, 1, -1)
    for index in range(SIZES["num_hidden_layers"]):
        block, before = f"network.0.network.{index}", hidden
        for layer in (0, 3):
            direction = parameters[f"{block}.causal.{layer}.weight_v"]
            weight = parameters[f"{block}.causal.{layer}.weight_g"] * direction
            weight = weight / direction.pow(2).sum((1, 2), keepdim=True).sqrt()
            padded = F.pad(hidden, ((SIZES["kernel_size"] - 1) * 2**index, 0))
            bias = parameters[f"{block}.causal.{layer}.bias"]
            hidden = F.leaky_relu(F.conv1d(padded, weight, bias, dilation=2**index), 0.01)
        if f"{block}.upordownsample.weight" in parameters:
            projection = parameters[f"{block}.upordownsample.weight"], parameters[f"{block}.upordownsample.bias"]
            before = F.conv1d(before, *projection)
        hidden = hidden + before
    pooled = hidden[0].max(dim=1).values
    return parameters["network.3.weight"] @ pooled + parameters["network.3.bias"]


def positions_per_length():
    """Share max_num_segments out among the lengths, at least as many as cover a series."""
    positions = [math.ceil(1 / ratio) for ratio in SEGMENTS["segment_ratios"]]
    while sum(positions) < SEGMENTS["max_num_segments"] // SEGMENTS["num_input_channels"]:
        positions[positions.index(min(positions))] += 1
    return positions


def segments_of(series):
    """Return (ratio, position, channel, start, length) of every segment of a series (time, channel)."""
    found, time = [], len(series)
    for ratio, count in enumerate(positions_per_length()):
        length = min(max(math.ceil(SEGMENTS["segment_ratios"][ratio] * time), SEGMENTS["min_segment_length"]), time)
        count = min(count, time - length + 1)
        for place in range(count):
            start = place * (time - length) // max(count - 1, 1)
            found += [(ratio, place, channel, start, length) for channel in range(series.shape[1])]
    return found


def cluster(points, uniform, num_steps):
    """k-means from centres that each uniform number draws by squared distance; (clusters, squared distances)."""
    centres, weight = [], np.ones(len(points))
    for share in uniform:
        chosen = int(np.searchsorted(np.cumsum(weight), share * weight.sum(), side="right"))
        centres.append(points[min(chosen, len(points) - 1)])
        weight = np.min([((points - one) ** 2).sum(1) for one in centres], axis=0)
    for _ in range(num_steps):
        clusters = np.argmin([((points - one) ** 2).sum(1) for one in centres], axis=0)
        centres = [
            points[clusters == number].mean(0) if (clusters == number).any() else one
            for number, one in enumerate(centres)
        ]
    return clusters, np.min([((points - one) ** 2).sum(1) for one in centres], axis=0)


def pretraining_loss(parameters, series, centres, keys):
    """The cluster-wise triplet loss of a batch (batch, time, channel), length by length and cluster by cluster."""
    losses, places = [], segments_of(series[0])
    for ratio in range(len(SEGMENTS["segment_ratios"])):
        segments = [
            series[row, start : start + length, channel]
            for place in range(positions_per_length()[ratio])
            for row in range(len(series))
            for _, _, channel, start, length in [one for one in places if one[:2] == (ratio, place)]
        ]
        clusters, distance = cluster(torch.stack(segments).numpy(), centres[ratio].numpy(), 10)
        vectors = [embed(parameters, segment) for segment in segments]
        members = [np.flatnonzero(clusters == number) for number in range(LOSS["num_clusters"])]
        taken = [min(int(len(one) * LOSS["sample_fraction"]) + 1, LOSS["max_num_positives"]) for one in members]
        for own, one in enumerate(members):
            nearest = one[np.argsort(distance[one], kind="stable")]
            anchor, positives = vectors[nearest[0]], [vectors[i] for i in nearest[1 : taken[own] + 1]]
            other = members[1 - own]
            drawn = other[np.argsort(keys[ratio].numpy()[other], kind="stable")][: taken[1 - own]]
            negatives = [vectors[i] for i in drawn]
            apart = [torch.stack([(anchor - one).norm() for one in group]).mean() for group in (positives, negatives)]
            widest = [max((a - b).norm() for a in group for b in group) for group in (positives, negatives)]
            losses.append(torch.log((apart[0] + LOSS["margin"]) / apart[1]) + LOSS["intra_weight"] * sum(widest))
    return torch.stack(losses).mean()


def shapelet_transform(parameters, series, labels, uniform):
    """Select shapelets, as origins (series, start, length, channel, ratio), and return the distances from them."""
    by_class = np.argsort(labels.numpy(), kind="stable").tolist()
    entries = [(row, *one) for row in by_class for one in sorted(segments_of(series[row]), key=_in_order)]
    cut = [series[row, start : start + length, channel] for row, _, _, channel, start, length in entries]
    vectors = torch.stack([embed(parameters, segment) for segment in cut]).numpy()
    clusters, distance = cluster(vectors, uniform.numpy(), 10)
    candidates = []
    for number in range(SHAPELETS["num_shapelet_clusters"]):
        members = np.flatnonzero(clusters == number)
        if len(members):
            candidates.append(int(members[np.argmin(distance[members])]))
    distances = np.array([[_least(vectors, entries, row, one) for one in candidates] for row in range(len(series))])
    groups = [distances[labels.numpy() == label] for label in np.unique(labels.numpy())]
    between = sum(len(one) * (one.mean(0) - distances.mean(0)) ** 2 for one in groups) / (len(groups) - 1)
    within = sum(((one - one.mean(0)) ** 2).sum(0) for one in groups) / (len(series) - len(groups))
    best = np.argsort(-between / within, kind="stable")[: SHAPELETS["num_shapelets"]]
    origins = [[entries[candidates[one]][place] for place in (0, 4, 5, 3, 1)] for one in best]
    return torch.tensor(origins), torch.from_numpy(distances[:, best])


def _in_order(segment):
    ratio, place, channel, _, _ = segment
    return channel, ratio, place


def _least(vectors, entries, row, candidate):
    """The least distance of a series' segments of the candidate's channel and ratio from it."""
    _, ratio, _, channel, _, _ = entries[candidate]
    alike = [number for number, one in enumerate(entries) if (one[0], one[1], one[3]) == (row, ratio, channel)]
    return min(np.linalg.norm(vectors[number] - vectors[candidate]) for number in alike)


def write(name, kind, config, tensors):
    """Save a fixture, rounded to float32."""
    from safetensors.torch import save_file

    rounded = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    facts = {"method": "shapenet", "kind": kind, "config": json.dumps(config), "source": "tests/support"}
    save_file({key: value.contiguous() for key, value in rounded.items()}, str(FOLDER / f"{name}.safetensors"), facts)


def main():
    generator = torch.Generator().manual_seed(0)
    # What is stored is float32: the numbers are made from what a reader of the fixture has.
    parameters = {name: one.float().double() for name, one in make_parameters(generator).items()}
    stored = {f"param.{name}": value for name, value in parameters.items()}
    series = torch.randn(4, 21, 2, generator=generator).cumsum(1).float().double()
    centres = torch.rand(2, LOSS["num_clusters"], generator=generator)
    keys = [torch.rand(count * 4 * 2, generator=generator) for count in positions_per_length()]
    leaves = {name: value.clone().requires_grad_() for name, value in parameters.items()}
    loss = pretraining_loss(leaves, series, centres, keys)
    loss.backward()
    biased = [name for name in parameters if name.endswith(("network.3.bias", "2.upordownsample.bias"))]
    gradients = {f"grad.loss.{name}": one.grad for name, one in leaves.items() if name not in biased}
    inputs = {"input.series": series, "input.centres": centres}
    inputs |= {f"input.keys{number}": one for number, one in enumerate(keys)}
    config = {**SIZES, **SEGMENTS, **LOSS}
    tensors = {**stored, **inputs, **gradients, "output.loss": loss.detach()}
    write("shapenet_pretraining", "pretraining", config, tensors)

    series = torch.randn(9, 16, 2, generator=generator).float().double()
    labels = torch.arange(9) % 3
    series[labels == 1] += 1.5 * torch.sin(torch.arange(16)).view(1, 16, 1)
    uniform = torch.rand(SHAPELETS["num_shapelet_clusters"], generator=torch.Generator().manual_seed(7))
    origins, distances = shapelet_transform(parameters, series, labels, uniform)
    inputs = {"input.series": series, "input.labels": labels}
    outputs = {"output.origins": origins, "output.distances": distances}
    config = {**SIZES, **SEGMENTS, **SHAPELETS, "seed": 7}
    write("shapenet_shapelets", "shapelets", config, {**stored, **inputs, **outputs})


if __name__ == "__main__":
    main()
