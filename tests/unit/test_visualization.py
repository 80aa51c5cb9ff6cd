"""Maps of embeddings: what is drawn, and that nothing global is touched."""

import sys

import numpy as np
import pytest

from hf_tsrep.visualization import plot_embedding_map, project_embeddings

matplotlib = pytest.importorskip("matplotlib")


def clusters(num_classes=3, per_class=8, size=10):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(num_classes), per_class)
    return 8 * rng.normal(size=(num_classes, size))[labels] + rng.normal(size=(len(labels), size)), labels


def test_pca_is_the_singular_value_decomposition():
    embeddings, _ = clusters()
    plane = project_embeddings(embeddings, "pca")
    centred = embeddings - embeddings.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(plane), np.abs(centred @ directions[:2].T), atol=1e-8)


def test_tsne_keeps_clusters_together_and_is_reproducible():
    embeddings, labels = clusters(num_classes=4, per_class=15)
    plane = project_embeddings(embeddings, "tsne", seed=3)
    np.testing.assert_array_equal(plane, project_embeddings(embeddings, "tsne", seed=3))
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2) + np.diag(np.full(len(plane), np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).mean() > 0.95


def test_one_dimensional_embeddings_have_a_map():
    assert project_embeddings(np.arange(5.0)[:, None], "pca").shape == (5, 2)


@pytest.mark.parametrize(
    ("embeddings", "method", "message"),
    [
        (np.zeros((5, 3)), "umap", "'umap' is unknown; choose one of 'tsne', 'pca'"),
        (np.zeros((2, 3)), "pca", "at least 3"),
        (np.array([[0.0, 1], [1, np.nan], [2, 2]]), "pca", "Embedding 1 holds a value that is not finite"),
    ],
)
def test_bad_embeddings_are_refused(embeddings, method, message):
    with pytest.raises(ValueError, match=message):
        project_embeddings(embeddings, method)


def test_embeddings_labels_and_splits_of_unequal_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="4 embeddings, 3 labels and 4 splits"):
        plot_embedding_map(np.zeros((4, 2)), [0, 1, 2], tmp_path / "map.png", splits=list("abcd"))


def drawn(monkeypatch, *arguments, **options):
    """Return the axes of the picture that plot_embedding_map draws."""
    from matplotlib.figure import Figure

    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: figures.append(self))
    plot_embedding_map(*arguments, method="pca", **options)
    return figures[0].axes[0]


def test_every_point_is_drawn_once_in_the_colour_of_its_class(monkeypatch):
    embeddings, labels = clusters()
    splits = np.where(np.arange(len(labels)) % 2, "test", "train")
    axes = drawn(monkeypatch, embeddings, labels, "map.png", splits=splits, class_names=["red", "green", "blue"])
    plane = project_embeddings(embeddings, "pca")
    points = np.concatenate([collection.get_offsets() for collection in axes.collections])
    np.testing.assert_allclose(np.unique(points, axis=0), np.unique(plane, axis=0))
    assert len(points) == len(plane)
    colours = {}
    for collection in axes.collections:
        colour = tuple(collection.get_edgecolor()[0][:3])
        rows = [int(np.argmin(np.abs(plane - point).sum(axis=1))) for point in collection.get_offsets()]
        assert len(set(labels[rows])) == 1
        colours.setdefault(labels[rows[0]], set()).add(colour)
    assert all(len(one) == 1 for one in colours.values())
    assert len(set.union(*colours.values())) == 3


def test_legends_name_classes_and_splits(monkeypatch):
    embeddings, labels = clusters()
    splits = ["train"] * 14 + ["test"] * 10
    axes = drawn(monkeypatch, embeddings, labels, "map.png", splits=splits, class_names=["a", "b", "c"], title="Title")
    legends = [child for child in axes.get_children() if child.__class__.__name__ == "Legend"]
    texts = [[text.get_text() for text in legend.get_texts()] for legend in legends]
    assert sorted(texts) == [["a", "b", "c"], ["train (14)", "test (10)"]]
    assert axes.get_title(loc="left") == "Title"


def test_many_classes_have_different_colours_and_a_short_legend(monkeypatch):
    embeddings, labels = clusters(num_classes=40, per_class=2)
    axes = drawn(monkeypatch, embeddings, labels, "map.png")
    assert len({tuple(one.get_edgecolor()[0]) for one in axes.collections}) == 40
    assert [text.get_text() for text in axes.get_legend().get_texts()][-1] == "and 16 more"


def test_the_picture_has_room_for_its_legends_and_no_global_state_is_touched(tmp_path):
    from matplotlib.image import imread

    embeddings, labels = clusters()
    path = plot_embedding_map(
        embeddings,
        labels,
        tmp_path / "map.png",
        splits=["train"] * 12 + ["a split with a long name"] * 12,
        method="pca",
    )
    picture = imread(path)[..., :3]
    assert min(picture.shape[:2]) > 600
    assert (picture[:, -3:] == 1).all(), "something is cut at the right edge"
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
