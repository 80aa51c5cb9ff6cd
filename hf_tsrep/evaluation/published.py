"""Numbers of the papers, to be set beside our own. Facts, not results of this library.

The values stand as they are printed. `note` says what differs from the run they are set beside.
"""

from __future__ import annotations

from functools import cache

from .published_simmtm import simmtm_values
from .published_timedrl import timedrl_values
from .published_ts2vec import ts2vec_values
from .published_values import PublishedTable as PublishedTable
from .published_values import PublishedValue as PublishedValue


def published_value(method: str, corpus: str, setting: str, metric: str) -> PublishedValue | None:
    """Returns the printed number for a result of this library, or None where none is known.

    Args:
        method: model type, such as `ts2vec`.
        corpus: corpus name, such as `ett/ETTh1`.
        setting: `multivariate` or `univariate`, `normal` or `cold-start`; anything for classification.
        metric: flat name, such as `mse_24`, `svm_accuracy` or `f1`.
    """
    return _tables().get(method.lower(), {}).get((*_lookup(corpus, setting, metric), metric))


def _lookup(corpus: str, setting: str, metric: str) -> tuple[str, str]:
    name = corpus.lower()
    if "kpi" in name.replace("_", "/").split("/"):
        return "kpi", setting
    return name, "" if metric == "svm_accuracy" else setting


@cache
def _tables() -> dict[str, PublishedTable]:
    return {"ts2vec": ts2vec_values(), "timedrl": timedrl_values(), "simmtm": simmtm_values()}
