"""Every run of a grid, settled: its layers over each other, its variables put in."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any

import yaml

import hf_tsrep
from hf_tsrep.data import list_known_corpora
from hf_tsrep.errors import SettingsError, near_matches
from hf_tsrep.training import load_recipe, recipe_for_corpus

GRIDS = Path(__file__).parents[1] / "grids"
WEIGHTS_FILE = "model.safetensors"
RANDOM_WEIGHTS, DRAWN = "random_weights", "drawn"
_OF_AN_OPTION = {"type", "default", "many", "help", "choices", "values", "tasks", "replaces", "name", "setting"}


@dataclass(frozen=True)
class Stage:
    """What must be there before the last training, and how it comes about.

    Args:
        folder: Its folder; a later run with the same one uses it again.
        start: None for `hf_tsrep.pretrain`, RANDOM_WEIGHTS, or a function of the method's own.
        corpora: Corpora of the training.
        fields: Arguments of what makes it.
        weights_file: The file that is written last.
        shared: Whether the folder stays when the result is written.
    """

    folder: Path
    start: str | None
    corpora: list[str]
    fields: dict[str, Any]
    weights_file: str = WEIGHTS_FILE
    shared: bool = False


@dataclass(frozen=True)
class Run:
    """One run, everything about it settled; its result is one file.

    Args:
        method: Name of the method.
        result: File of the result.
        seed: Seed of the run.
        corpus: Name of the corpus in the result.
        corpora: What is evaluated: the corpora, joined.
        task: Name of the task; None where the protocol says it.
        protocol: Name of the protocol in the result.
        stages: What is trained before, in order; the last is the encoder. None: the fine-tuning draws the weights.
        finetuning: Arguments of `hf_tsrep.finetune`; None for an evaluation of the frozen encoder.
        trained_by: Function of the method's own in place of `hf_tsrep.finetune`.
        horizons: Steps to predict, one fine-tuning each; one None for a classification.
        outcome: How the result tells of the fine-tunings: "horizons", "facts" or "outcome".
        loading: Arguments of `load_corpus` for the evaluated corpus.
        evaluation: Settings of the protocol of a run without fine-tuning.
        settings: What the result says of the settings, beside the protocol's own.
        variant: Name of the variant; None where the grid has none.
        output: Folder of the fine-tuning.
    """

    method: str
    result: Path
    seed: int
    corpus: str
    corpora: list[str]
    task: str | None
    protocol: str
    stages: list[Stage]
    finetuning: dict[str, Any] | None
    trained_by: str | None
    horizons: list[int | None]
    outcome: str
    loading: dict[str, Any]
    evaluation: dict[str, Any]
    settings: dict[str, Any]
    variant: str | None
    output: Path

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with whether the result is there."""
        return {"done": self.result.exists(), **json.loads(json.dumps(dataclasses.asdict(self), default=str))}


def list_grids() -> list[str]:
    """Return the names of the methods that have a grid."""
    return sorted(path.stem for path in GRIDS.glob("*.yaml"))


def load_grid(method: str) -> dict[str, Any]:
    """Read the grid of a method, its jobs expanded to one job a corpus where their names end in *.

    Raises:
        SettingsError: There is no such grid; the message names the near matches.
    """
    known = list_grids()
    if method not in known:
        raise SettingsError(f"No grid of {method!r}.{near_matches(method, known)} Methods: {', '.join(known)}.")
    grid: dict[str, Any] = yaml.safe_load((GRIDS / f"{method}.yaml").read_text(encoding="utf-8"))
    corpora, jobs = list_known_corpora(), {}
    for name, job in grid["jobs"].items():
        if name.endswith("*"):
            found = [one for pattern in job["corpora"] for one in fnmatch.filter(corpora, pattern)]
            jobs |= {name[:-1] + one.partition("/")[2]: {**job, "corpora": [one]} for one in found}
        else:
            jobs[name] = job
    return {"method": method, "options": {}, "horizons": "apart", **grid, "jobs": jobs}


def field_and_number(text: str) -> tuple[str, int]:
    """Return the parts of FIELD=NUMBER."""
    name, _, number = text.partition("=")
    if not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=NUMBER, such as hidden_size=128")
    return name, int(number)


_TYPES = {"int": int, "float": float, "text": str, "fields": field_and_number}


def build_parser(grid: Mapping[str, Any]) -> argparse.ArgumentParser:
    """Return the parser of the command line of a method's grid."""
    method = grid["method"]
    parser = argparse.ArgumentParser(prog=f"reproduce.py {method}", allow_abbrev=False)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help=f"default: all of {', '.join(job_names(grid))}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    for name, option in grid["options"].items():
        kind = option.get("type", "text")
        if kind == "flag":
            parser.add_argument(f"--{name}", action="store_true", help=option["help"])
            continue
        choices, many = option.get("choices"), option.get("many") or kind == "fields"
        default = option.get("default", list(choices) if choices and many else None)
        parser.add_argument(
            f"--{name}", type=_TYPES[kind], default=default, choices=choices, nargs="+" if many else None,
            help=option["help"].replace("%", "%%"), metavar="FIELD=NUMBER" if kind == "fields" else None,
        )  # fmt: skip
    parser.add_argument("--results-dir", type=Path, default=Path("results") / method)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs") / method, help="folder of the models")
    parser.add_argument("--dry-run", action="store_true", help="print the settled settings of every run as JSON lines")
    return parser


def job_names(grid: Mapping[str, Any]) -> list[str]:
    """Return what can be asked for: groups of jobs, then jobs that are in none."""
    jobs = grid["jobs"]
    groups = dict.fromkeys(job["group"] for job in jobs.values() if "group" in job)
    return [*groups, *(name for name, job in jobs.items() if "group" not in job)]


def choose_jobs(grid: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Return the names of the jobs: those that were asked for by their or their group's name, or all.

    Raises:
        SettingsError: There is no such job; the message names the near matches.
    """
    jobs, chosen = grid["jobs"], []
    for one in wanted or job_names(grid):
        members = [name for name, job in jobs.items() if one in (name, job.get("group"))]
        if not members:
            known = job_names(grid)
            hint = near_matches(one, {*known, *jobs})
            raise SettingsError(f"{grid['method']} has no job {one!r}.{hint} Jobs: {', '.join(known)}.")
        chosen += members
    return list(dict.fromkeys(chosen))


def plan(grid: Mapping[str, Any], arguments: argparse.Namespace) -> Iterator[Run]:
    """Return all runs that a command line asks for, in order.

    Raises:
        SettingsError: A job, a variant or a horizon that there is not, or a text of the grid that cannot be filled.
    """
    values = vars(arguments) | {"jobs": choose_jobs(grid, arguments.jobs)}
    loops = [name.replace("-", "_") for name in grid["loops"]]
    alone = {name.replace("-", "_") for name in grid["options"]}.difference(loops, {"horizons"})
    for combination in itertools.product(*(values[name] for name in loops)):
        chosen = {name: values[name] for name in alone}
        chosen |= {name: dict(value) for name, value in chosen.items() if isinstance(value, list)}  # FIELD=NUMBER
        chosen |= {name.removesuffix("s"): value for name, value in zip(loops, combination, strict=True)}
        for horizons in _horizons(grid, chosen["job"], values.get("horizons")):
            apart = horizons[0] if grid["horizons"] == "apart" else None
            yield settle(grid, arguments, chosen | {"horizon": apart}, horizons)


def _horizons(grid: Mapping[str, Any], name: str, wanted: list[int] | None) -> list[list[int | None]]:
    """Return the horizons of each run of a job: all in one run, each in one of its own, or none ([None])."""
    job = grid["jobs"][name]
    known = job.get("horizons", grid.get("tasks", {}).get(job.get("task"), {}).get("horizons"))
    if known is None:
        return [[None]]
    if grid["horizons"] == "apart":
        return [[one] for one in wanted or known]
    chosen = [one for one in known if not wanted or one in wanted]
    if not chosen:
        raise SettingsError(f"{name} has none of the horizons {wanted}; it has {known}.")
    return [chosen]


def settle(
    grid: Mapping[str, Any], arguments: argparse.Namespace, chosen: dict[str, Any], horizons: list[int | None]
) -> Run:
    """Lay the layers over each other, put in the variables, and return the run.

    Args:
        grid: The grid.
        arguments: Of the command line.
        chosen: Value of every option, the job, the seed and the horizon of a run of its own.
        horizons: Steps to predict.
    """
    job = grid["jobs"][chosen["job"]]
    layers, suffixes, words = _layers_of_options(grid["options"], job, chosen)
    merged = _over([grid.get("common", {}), grid.get("tasks", {}).get(job.get("task"), {}), job, *layers])
    variables = _variables(grid["method"], merged, chosen)
    named = variables | {key: fill(value, variables) for key, value in suffixes.items()}
    said = variables | {key: fill(value, variables) for key, value in words.items()}
    stages = list(_stages(grid, merged, variables, named, arguments.runs_dir))
    finetuning = fill(merged["finetuning"], variables) if "finetuning" in merged else None
    if finetuning is not None and chosen["horizon"]:
        finetuning["prediction_length"] = chosen["horizon"]
    if merged.get("start") == DRAWN:
        # How many steps the encoder sees, the fine-tuning says.
        drawn = config_fields(grid["method"], variables["recipe"])
        finetuning = {key: value for key, value in drawn.items() if key != "context_length"} | (finetuning or {})
    told = fill(merged.get("pretraining", {}), variables)
    told = {key: value for key, value in told.items() if key not in grid.get("untold", ())}
    settings = fill(grid.get("settings", {}), variables | {"pretraining": told, "finetuning": finetuning})
    if "setting" in grid:
        settings["setting"] = ", ".join(filter(None, (fill(one, said) for one in grid["setting"])))
    name = fill(grid["result"], named)
    return Run(
        method=grid["method"],
        result=arguments.results_dir / f"{name}.json",
        seed=chosen["seed"],
        corpus=variables["corpus"],
        corpora=variables["corpora"],
        task=job.get("task"),
        protocol=merged["protocol"],
        stages=stages,
        finetuning=finetuning,
        trained_by=merged.get("trained_by"),
        horizons=horizons,
        outcome="horizons" if grid["horizons"] == "together" else grid.get("details", "outcome"),
        loading=fill(merged.get("loading", {}), variables),
        evaluation=fill(merged.get("evaluation", {}), variables),
        settings=settings,
        variant=chosen.get("variant"),
        output=arguments.runs_dir / f"{name}-finetuned",
    )


def fill(value: Any, variables: Mapping[str, Any]) -> Any:
    """Return a value of a grid with its variables put in, in lists and mappings too.

    A text that is one variable alone becomes its value; {of_recipe: FIELD, times: FACTOR} the recipe's field.

    Raises:
        SettingsError: There is no such variable; the message names the near matches.
    """
    if isinstance(value, dict):
        if "of_recipe" in value:
            found = variables["recipe"][value["of_recipe"]]
            return value["times"] * found if "times" in value else found
        return {key: fill(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [fill(one, variables) for one in value]
    if not isinstance(value, str):
        return value
    parts = list(Formatter().parse(value))
    try:
        if len(parts) == 1 and parts[0][0] == "" and not parts[0][2]:
            return Formatter().get_field(str(parts[0][1]), (), variables)[0]
        return Formatter().vformat(value, (), variables)
    except KeyError as error:
        hint = near_matches(error.args[0], variables)
        raise SettingsError(f"The grid's text {value!r} names no variable {error.args[0]!r}.{hint}") from error


def config_fields(method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields that are of the method's config."""
    known = hf_tsrep.get_method(method).config_class.__dataclass_fields__
    return {key: value for key, value in fields.items() if key in known}


def _over(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the layers over each other; a group's fields are laid over the group."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for group in layer.get("replaces", ()):
            merged.pop(group, None)
        for key, value in layer.items():
            if key not in _OF_AN_OPTION:
                merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def _layers_of_options(
    options: Mapping[str, Any], job: Mapping[str, Any], chosen: Mapping[str, Any]
) -> tuple[list[Mapping[str, Any]], dict[str, str], dict[str, str]]:
    """Return the layers of all options, and by variable the suffixes of names and the words of the setting."""
    layers: list[Mapping[str, Any]] = []
    suffixes, words = {}, {}
    for name, option in options.items():
        variable = variable_of(name, chosen)
        value = chosen[variable]
        by_value = option.get("choices", option.get("values", {}))
        by_task = option.get("tasks", {})
        own = job.get(name, {}) if "choices" in option else {}
        if own and value not in own:
            raise SettingsError(
                f"{chosen['job']} has no {variable} {value!r}; it has {', '.join(own)}. Name other jobs."
            )
        if any("name" in one for one in (option, *by_value.values(), *by_task.values())):
            suffixes[variable] = ""
        words[variable] = ""
        if value is None or value is False:
            continue
        taken = [option, by_task.get(job.get("task"), {}), by_value.get(value, {}) if by_value else {}]
        taken.append(own.get(value, {}) if own else {})
        if isinstance(value, dict):  # fields go where their variable stands alone
            taken = [{key: value if one == f"{{{variable}}}" else one for key, one in each.items()} for each in taken]
        layers += taken
        if option.get("many") or by_value or value != option.get("default"):
            told = {key: one[key] for one in taken for key in ("name", "setting") if key in one}
            suffixes |= {variable: _each(told["name"], value, "")} if "name" in told else {}
            words |= {variable: _each(told["setting"], value, ", ")} if "setting" in told else {}
    return layers, suffixes, words


def variable_of(name: str, chosen: Mapping[str, Any]) -> str:
    """Return the variable of an option: its name, in the singular where every value is a run of its own."""
    variable = name.replace("-", "_")
    return variable if variable in chosen else variable.removesuffix("s")


def _each(text: str, value: Any, separator: str) -> str:
    """Return a text once for every field where the value is a mapping of fields, else as it is."""
    if not isinstance(value, dict):
        return text
    items = [{"field": key, "short_field": key.removeprefix("num_"), "number": one} for key, one in value.items()]
    return separator.join(str(fill(text, one)) for one in items)


def _variables(method: str, merged: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may stand in braces."""
    known = list_known_corpora()
    corpora = []
    for name in merged.get("corpora", [merged.get("corpus", chosen["job"])]):
        corpora += fnmatch.filter(known, name) if "*" in name else [name]
    if not corpora:
        raise SettingsError(f"{chosen['job']}: no known corpus is called {merged['corpora']}. Set HF_TSREP_DATA.")
    corpus = merged.get("corpus", corpora[0])
    source = merged.get("source", corpus)
    variables = {key: value for key, value in merged.items() if not isinstance(value, dict)} | dict(chosen)
    variables |= {key: fill(value, chosen) for key, value in variables.items() if isinstance(value, str)}
    return variables | {
        "corpus": corpus,
        "corpora": corpora,
        "corpus_name": corpus.rpartition("/")[2],
        "source": None if merged.get("start") == DRAWN else source,
        "recipe": load_recipe(method, recipe_for_corpus(method, source)),
        "folders": {},
    }


def _stages(
    grid: Mapping[str, Any],
    merged: Mapping[str, Any],
    variables: dict[str, Any],
    named: Mapping[str, Any],
    runs_dir: Path,
) -> Iterator[Stage]:
    """Yield the stages and enter their folders among the variables, for those that come after."""
    if merged.get("start") == DRAWN:
        return
    for name, stage in grid["stages"].items():
        is_last = name == list(grid["stages"])[-1]
        folder = runs_dir / fill(stage["folder"], named)
        fields = fill({**stage.get("fields", {}), **merged.get(name, {})}, variables)
        told = {key: stage[key] for key in ("weights_file", "shared") if key in stage}
        start = merged.get("start") if is_last else stage.get("start")
        yield Stage(folder, start, fill(stage.get("corpora", []), variables), fields, **told)
        variables["folders"][name] = str(folder)
