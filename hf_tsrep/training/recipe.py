"""Published hyper-parameters, each value with its source: METHOD/NAME.yaml.

The name is that of a corpus, `etth1` of `ett/ETTh1`, or of its family, `ett`. Recipes of fine-tuning lie in
finetuning/ and have the method and the mode or the task in front: `timedrl-linear-probe-etth1`.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from ..errors import near_matches

FINETUNING = "finetuning"

# Two names of one corpus: a recipe serves both.
_OTHER_NAMES = {"wisdm": "wisdm_partial", "wisdm_partial": "wisdm"}


def _folder(method: str) -> Any:
    return resources.files(__package__) / "recipes" / method


def list_recipes(method: str) -> list[str]:
    """Return the names of a method's recipes."""
    folder = _folder(method)
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_recipe(method: str, name: str) -> dict[str, Any]:
    """Read a recipe.

    Args:
        method: Name of the method.
        name: Name of the recipe, such as "ett".

    Returns:
        Pre-training fields and their values; see `hf_tsrep.training.pretraining_fields`.

    Raises:
        ValueError: There is no such recipe; the message names the near matches.
    """
    import yaml

    known = list_recipes(method)
    if name not in known:
        hint = near_matches(name, known, count=2, cutoff=0.5)
        raise ValueError(f"Method {method!r} has no recipe {name!r}.{hint} Recipes: {', '.join(known) or 'none'}.")
    text = (_folder(method) / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text) or {})


def recipe_for_corpus(method: str, corpus: str | None) -> str:
    """Return the recipe that serves a corpus: its own (`ett/ETTh1` -> `etth1`), its family's (`ett`), or the default.

    Args:
        method: Name of the method.
        corpus: Name of the corpus; None, a path or a Hub id gets the default.

    Returns:
        Name of the recipe.
    """
    from ..data.known_corpora import SHORT_NAMES
    from ..registry import get_method

    known = list_recipes(method)
    own = next((name for name in corpus_recipe_names(corpus) if name in known), None)
    if own is not None:
        return own
    family, slash, _ = SHORT_NAMES.get((corpus or "").lower(), corpus or "").partition("/")
    return family if slash and family in known else get_method(method).default_recipe


def corpus_recipe_names(corpus: str | None) -> list[str]:
    """Return the names that a recipe of a corpus may have, the first of them first; none for a path or a Hub id."""
    from ..data.known_corpora import SHORT_NAMES, find_known_corpus

    written = SHORT_NAMES.get((corpus or "").lower(), corpus or "")
    if find_known_corpus(written) is None:
        return []
    name = written.partition("/")[2].lower()
    return [name, *([_OTHER_NAMES[name]] if name in _OTHER_NAMES else [])]


def recipe_for(method: str, mode: Any, task: str | None = None, corpus: str | None = None) -> str:
    """Return the recipe that serves.

    Args:
        method: Name of the method.
        mode: See FinetuneRunSettings; None where it is not said.
        task: Name of the task.
        corpus: Name of the corpus; None, a path or a Hub id has no recipe of its own.

    Returns:
        METHOD-MODE-CORPUS, METHOD-MODE-TASK, METHOD-MODE, MODE, METHOD-TASK-CORPUS, METHOD-TASK, METHOD or default:
        the first there is.
    """
    known, corpora = list_recipes(FINETUNING), corpus_recipe_names(corpus)
    names = [f"{method}-{mode}-{one}" for one in corpora] + [f"{method}-{mode}-{task}", f"{method}-{mode}", str(mode)]
    names += [f"{method}-{task}-{one}" for one in corpora] + [f"{method}-{task}", method, "default"]
    return next(name for name in names if name in known)


def corpus_as_known(corpus: Any, data_directory: str | None = None) -> str | None:
    """Return the name of a corpus with its folder where it was written without; None for what is no name."""
    from ..data.known_corpora import complete_name, list_known_corpora

    if not isinstance(corpus, str) or "/" in corpus:
        return corpus if isinstance(corpus, str) else None
    return complete_name(corpus, list_known_corpora(data_directory)) or corpus
