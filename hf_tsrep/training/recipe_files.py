"""The recipes: where they lie, and which one serves a corpus.

Recipes are published values with their sources: data in `recipes/`, one folder a method. recipes/METHOD/NAME.yaml is
of pre-trainings: NAME is a corpus, `etth1` of `ett/ETTh1`, its family, `ett`, or default.
recipes/METHOD/finetuning/NAME.yaml is of fine-tunings and goes by METHOD-NAME, such as timedrl-linear-probe-etth1; its
default goes by METHOD. Those of recipes/finetuning/ serve all methods.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from ..data.known_corpora import SHORT_NAMES, find_known_corpus
from ..errors import near_matches
from .settings import DEFAULT_RECIPE

FINETUNING = "finetuning"  # folder of the recipes of fine-tunings

# Two names of one corpus: a recipe serves both.
_OTHER_NAMES = {"wisdm": "wisdm_partial", "wisdm_partial": "wisdm"}


def recipe_files(method: str) -> dict[str, Any]:
    """Return the files of a method's recipes, or of all fine-tunings', by name.

    Args:
        method: Name of the method, or FINETUNING.
    """
    recipes = resources.files(__package__) / "recipes"
    found = _yaml_files(recipes / method)
    if method == FINETUNING:
        for folder in recipes.iterdir():
            for name, file in _yaml_files(folder / FINETUNING).items():
                found[folder.name if name == DEFAULT_RECIPE else f"{folder.name}-{name}"] = file
    return dict(sorted(found.items()))


def _yaml_files(folder: Any) -> dict[str, Any]:
    files = folder.iterdir() if folder.is_dir() else ()
    return {file.name.removesuffix(".yaml"): file for file in files if file.name.endswith(".yaml")}


def list_recipes(method: str) -> list[str]:
    """Return the names of a method's recipes, or with "finetuning" those of fine-tunings."""
    return list(recipe_files(method))


def load_recipe(method: str, name: str) -> dict[str, Any]:
    """Read a recipe.

    Args:
        method: Name of the method; "finetuning" for a recipe of fine-tunings.
        name: Name of the recipe, such as "ett".

    Returns:
        Fields and their values; see `hf_tsrep.training.pretraining_fields` and `finetuning_fields`.

    Raises:
        ValueError: There is no such recipe; the message names the near matches.
    """
    import yaml

    known = recipe_files(method)
    if name not in known:
        whose = "Fine-tuning" if method == FINETUNING else f"Method {method!r}"
        hint = near_matches(name, known, count=2, cutoff=0.5)
        raise ValueError(f"{whose} has no recipe {name!r}.{hint} Recipes: {', '.join(known) or 'none'}.")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times as fast
    return dict(yaml.load(known[name].read_text(encoding="utf-8"), loader) or {})


def recipe_for_corpus(method: str, corpus: str | None) -> str:
    """Return the recipe that serves a corpus: its own (`ett/ETTh1` -> `etth1`), its family's (`ett`), or the default.

    Args:
        method: Name of the method.
        corpus: Name of the corpus; None, a path or a Hub id gets the default.

    Returns:
        Name of the recipe.
    """
    known = list_recipes(method)
    own = next((name for name in corpus_recipe_names(corpus) if name in known), None)
    if own is not None:
        return own
    family, slash, _ = SHORT_NAMES.get((corpus or "").lower(), corpus or "").partition("/")
    return family if slash and family in known else DEFAULT_RECIPE


def corpus_recipe_names(corpus: str | None) -> list[str]:
    """Return the names that a recipe of a corpus may have, the first of them first; none for a path or a Hub id."""
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
        the first there is. Tasks with the head of classification have its recipe where they have none.
    """
    known, corpora = list_recipes(FINETUNING), corpus_recipe_names(corpus)
    tasks = (task, "classification") if task in ("multi-label", "regression") else (task,)
    names = [f"{method}-{mode}-{one}" for one in (*corpora, *tasks)] + [f"{method}-{mode}", str(mode)]
    names += [f"{method}-{one}-{corpus_name}" for one in tasks for corpus_name in corpora]
    names += [*(f"{method}-{one}" for one in tasks), method, DEFAULT_RECIPE]
    return next(name for name in names if name in known)
