"""Draw README's picture: series of four activities, and where an encoder that saw no label puts them.

python scripts/draw_picture.py --output docs/embeddings.png
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import numpy as np

from hf_tsrep import load_corpus, pretrain
from hf_tsrep.data import get_labels, get_series
from hf_tsrep.visualization import project_embeddings

CORPUS = "uea/BasicMotions"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # told apart by colour-blind readers too


def main() -> None:
    """Train on the training part, embed the test part, draw both sides."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/embeddings.png"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    matplotlib.use("agg")
    from matplotlib import pyplot

    corpus = load_corpus(CORPUS)
    with tempfile.TemporaryDirectory() as folder:
        model = pretrain("ts2vec", CORPUS, Path(folder) / "model", seed=options.seed).model
    series, labels = get_series(corpus["test"]), np.asarray(get_labels(corpus["test"]))
    plane = project_embeddings(model.encode(series), "pca")
    names = corpus["test"].features["label"].names

    figure = pyplot.figure(figsize=(10, 3.6), dpi=150, layout="constrained")
    grid = figure.add_gridspec(len(names), 2, width_ratios=(1.25, 1))
    map_axes = figure.add_subplot(grid[:, 1])
    for index, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        axes = figure.add_subplot(grid[index, 0])
        axes.plot(series[int(np.flatnonzero(labels == index)[0])][:, :3], color=colour, linewidth=0.9)
        axes.set_axis_off()
        axes.set_title(name.lower(), loc="left", fontsize=9, color=colour, pad=1)
        map_axes.scatter(*plane[labels == index].T, color=colour, s=26, label=name.lower())
    map_axes.set_xlabel("first principal component of the test series' embeddings", fontsize=8)
    map_axes.set_xticks([])
    map_axes.set_yticks([])
    map_axes.set_title("model.encode(series): a vector each, learnt without labels", fontsize=10)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output)


if __name__ == "__main__":
    main()
