"""What protocols do with what they are given: checks of arrays, corpora and names, and the domain of a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data import corpus_metadata
from ..data.checks import check_channel_order
from ..data.domains import find_domain
from ..errors import near_matches


def check_finite(arrays: Sequence[np.ndarray], what: str, begin: int = 0, end: int | None = None) -> None:
    """Raise ValueError that names the first missing or infinite value.

    Args:
        arrays: Per series (time, columns).
        what: What a value is, for the message.
        begin: First step to look at.
        end: One past the last step to look at; default all.
    """
    for index, array in enumerate(arrays):
        finite = np.isfinite(array[begin:end])
        if finite.all():
            continue
        step, column = (int(position) for position in np.argwhere(~finite)[0])
        rows = int((~finite).any(axis=1).sum())
        raise ValueError(
            f"Series {index}, step {begin + step}, column {column}: {what} is {array[begin + step, column]}; "
            f"{rows} steps have missing or infinite values. Fill or drop them before the evaluation."
        )


def require_splits(corpus: Any, names: Sequence[str], protocol: str) -> Any:
    """Return the corpus if it has the splits.

    Raises:
        ValueError: It is not a mapping of splits, or one is absent.
    """
    if not isinstance(corpus, Mapping):
        raise ValueError(f"The {protocol} protocol needs a DatasetDict with splits {', '.join(names)}.")
    absent = [name for name in names if name not in corpus]
    if absent:
        raise ValueError(
            f"The {protocol} protocol needs splits {', '.join(names)}; the corpus has {', '.join(map(str, corpus))}. "
            "Cut long series in time when the corpus is loaded (split, such as 70/10/20), or keep a file a split."
        )
    return corpus


def require_names(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raise ValueError with near matches for a name that is not known, or if there are no names."""
    if len(names) == 0:
        raise ValueError(f"No {what} was chosen; known: {', '.join(known)}.")
    for name in names:
        if name not in known:
            hint = near_matches(name, known, cutoff=0.5)
            raise ValueError(f"Unknown {what} {name!r}.{hint} Known: {', '.join(known)}.")


def choose_domain(model: Any, corpus: Any, domain: str | None) -> tuple[dict[str, str], dict[str, str]]:
    """Choose the domain by the option, else by the corpus's name; the only one where there is one.

    Args:
        model: Anything with `encode`; its `config`, where it has one, tells the domains.
        corpus: DatasetDict, which knows its name.
        domain: What the protocol was told, or None.

    Returns:
        What `encode` is given besides: the domain where the model has domains, else nothing. And what goes into the
        settings of the result: the domain where the model has several, of which one had to be chosen.

    Raises:
        ValueError: See `hf_tsrep.data.domains.find_domain`.
    """
    config: Any = getattr(model, "config", None)
    chosen = find_domain(config, domain, "", corpus_metadata(corpus).name)
    if chosen is None:
        return {}, {}
    told = {"domain": chosen}
    return told, told if len(config.domains) > 1 else {}


def check_channels(model: Any, corpus: Any, told: Mapping[str, str]) -> None:
    """Refuse a corpus with the model's channels in another order.

    Args:
        model: Anything with `encode`; its preparation, where it has one, tells their names.
        corpus: DatasetDict, whose time features, which stand in front, are not the model's preparation's.
        told: Further arguments of the method's `encode`, such as the domain.

    Raises:
        SettingsError: The message names both orders and the fix.
    """
    preparation_for = getattr(model, "preparation_for", None)
    known = getattr(preparation_for(**told), "channel_names", None) if preparation_for is not None else None
    metadata = corpus_metadata(corpus)
    given = metadata.channel_names[metadata.num_time_features :]
    check_channel_order(tuple(known or ()), given, "The corpus", "the model")


def preparation_arguments(model: Any, corpus: Any = None) -> dict[str, bool]:
    """Return what tells `encode` that series are prepared, where a model would prepare them.

    Args:
        model: Anything with `encode`; only a model with a `preparation` is told.
        corpus: DatasetDict, which knows whether it is scaled; None where the protocol has prepared its series itself.
    """
    is_prepared = corpus is None or corpus_metadata(corpus).is_prepared
    return {"prepared": True} if is_prepared and getattr(model, "preparation", None) is not None else {}
