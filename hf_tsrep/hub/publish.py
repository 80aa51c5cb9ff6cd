"""Publishing a complete model folder on the Hub, in one commit."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.files_time_series import SUMS_FILE, changed_files, sha256_of, text_of_sums
from ..modeling.publishing_time_series import CARD_FILE, EVAL_RESULTS_FILE, PLACEHOLDER_ID, add_papers
from ..results import RESULTS_FILE, read_results
from .cards import write_card
from .evaluation_results import write_evaluation_results
from .folders import IncompleteModelError, published_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)

# Formats that can run code when they are read.
UNSAFE_SUFFIXES = frozenset({".bin", ".ckpt", ".dill", ".h5", ".joblib", ".npy", ".pickle", ".pkl", ".pt", ".pth"})
SECRET_FILES = re.compile(r"(^\.env|^\.netrc|^token$|^id_[a-z0-9]+$|\.pem$|\.key$)")
_SIBLING_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)
_CARD_KEYS = ("library_name", "license", "pipeline_tag")


def push_to_hub(
    folder_or_model: Any,
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Publish a model: config, weights, code, feature extractor, card, results and figures, in one commit.

    Checkpoints of a training run (checkpoint-*) are left behind. The repository is created where it is missing. The
    placeholder in the card's snippets becomes `repo_id`. Results on a benchmark of the Hub also go to `.eval_results`.

    Args:
        folder_or_model: A model folder with its card, or a model: with the card, results and pictures of where it
            was loaded from, as long as it has those weights; else with a new card.
        repo_id: Id of the repository, "name/model".
        private: Whether a new repository is private.
        token: Access token; None for the stored one.
        revision: Branch to commit to, created where it does not exist; None for the main one.
        commit_message: Summary of the commit.
        create_pr: Whether to open a pull request instead of committing to the branch.

    Returns:
        URL of the commit, or of the pull request.

    Raises:
        FileNotFoundError: There is no such folder.
        IncompleteModelError: The folder lacks something or holds unsafe files. All of it is listed; nothing is sent.
    """
    if not isinstance(folder_or_model, (str, Path)):
        with tempfile.TemporaryDirectory() as draft:
            folder_or_model.save_pretrained(draft)
            add_papers(folder_or_model, Path(draft), repo_id, write_card)
            return push_to_hub(
                draft,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message,
                create_pr=create_pr,
            )
    from huggingface_hub import HfApi

    folder = Path(folder_or_model)
    check_model_folder(folder)
    write_evaluation_results(folder)
    api = HfApi(token=token)
    repository = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    _make_branch(api, repository, None if create_pr else revision)
    commit = api.create_commit(
        repository,
        operations=list(file_operations(folder, repository)),
        commit_message=commit_message or f"Publish {repository.rsplit('/', 1)[-1]}",
        revision=revision,
        create_pr=create_pr,
    )
    url = commit.pr_url if create_pr and commit.pr_url else commit.commit_url
    logger.info("Published %s as %s.", folder, url)
    return str(url)


def check_model_folder(folder: str | Path) -> None:
    """Refuse a folder that may not be published.

    Args:
        folder: A model folder.

    Raises:
        FileNotFoundError: There is no such folder.
        IncompleteModelError: Config, weights, code or card are missing, they or results.json are damaged, or there are
            files that run code when they are read or that look like secrets. The message lists all of it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    checks = (_sum_faults, _config_faults, _code_faults, _weight_faults, _card_faults, _results_faults, _unsafe_files)
    faults = [fault for check in checks for fault in check(folder)]
    if faults:
        listing = "\n".join(f"- {fault}" for fault in faults)
        raise IncompleteModelError(f"{folder} cannot be published:\n{listing}")
    if not (folder / "preprocessor_config.json").is_file():
        logger.warning("%s has no preprocessor_config.json: nobody will know how to scale the inputs.", folder)


def _sum_faults(folder: Path) -> Iterator[str]:
    for name, how in changed_files(folder).items():
        since = f"{name} {how}: it is not what {SUMS_FILE} says"
        if name.endswith(".md") and how == "differs":
            logger.warning("%s. The card that is published is the changed one.", since)
        else:
            yield f"{since}. Save it again; where it was changed on purpose, hf-tsrep check {folder} --accept."


def _config_faults(folder: Path) -> Iterator[str]:
    path = folder / "config.json"
    if not path.is_file():
        yield "config.json is missing; save the model with save_pretrained."
        return
    for name in ("config.json", "preprocessor_config.json"):
        try:
            stored = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).is_file() else {}
        except ValueError as error:
            yield f"{name} is no JSON ({error})."
            continue
        for auto_class, reference in (stored.get("auto_map") or {}).items():
            module = f"{str(reference).split('.', 1)[0]}.py"
            if "--" not in str(reference) and not (folder / module).is_file():
                yield f"{module} is missing, the code that {name} names for {auto_class}; save with save_pretrained."


def _code_faults(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        for sibling in sorted(set(_SIBLING_IMPORT.findall(path.read_text(encoding="utf-8")))):
            if not (folder / f"{sibling}.py").is_file():
                yield f"{sibling}.py is missing, which {path.name} imports; save with save_pretrained."


def _weight_faults(folder: Path) -> Iterator[str]:
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
    for name in names:
        if not (folder / name).is_file():
            yield f"{name}, the weights, is missing; save the model with save_pretrained."
            continue
        try:
            with safe_open(folder / name, framework="pt") as file:
                if not list(file.keys()):
                    yield f"{name} holds no weights."
        except (SafetensorError, OSError) as error:
            yield f"{name} is damaged ({error}); save the model again."


def _card_faults(folder: Path) -> Iterator[str]:
    from huggingface_hub import ModelCard

    path = folder / "README.md"
    if not path.is_file():
        yield "README.md, the card, is missing: hf_tsrep.hub.build_model_card(folder).save(folder / 'README.md')."
        return
    try:
        data = ModelCard.load(path).data
    except ValueError as error:
        yield f"README.md has no readable header ({error})."
        return
    absent = [key for key in _CARD_KEYS if not data.get(key)]
    if absent:
        yield f"README.md has no {', '.join(absent)} in its header; write it with hf_tsrep.hub.build_model_card."


def _results_faults(folder: Path) -> Iterator[str]:
    path = folder / RESULTS_FILE
    try:
        if path.is_file():
            read_results(path)
    except ValueError as error:
        yield f"{RESULTS_FILE} cannot be read ({error})."


def _unsafe_files(folder: Path) -> Iterator[str]:
    for path in published_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield f"{name} is a link; put the file itself there."
        elif path.suffix.lower() in UNSAFE_SUFFIXES:
            yield (
                f"{name} may run code when it is read; publish weights as safetensors only, and the final model's "
                "folder rather than a training run's."
            )
        elif SECRET_FILES.search(path.name):
            yield f"{name} looks like a secret; remove it."


def file_operations(folder: Path, repo_id: str, repo_type: str = "model") -> Iterator[Any]:
    """Yield the `CommitOperationAdd` of every file; a model's card and `.eval_results` name the repository.

    Args:
        folder: Folder of a model or of a corpus.
        repo_id: Id of its repository.
        repo_type: "model" or "dataset".
    """
    from huggingface_hub import CommitOperationAdd

    if repo_type != "model":
        for path in published_files(folder):
            yield CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path)
        return

    sums = {}
    for path in published_files(folder):
        name = path.relative_to(folder).as_posix()
        if name == SUMS_FILE:
            continue
        content: Any = path
        if name in (CARD_FILE, EVAL_RESULTS_FILE):
            content = path.read_text(encoding="utf-8").replace(PLACEHOLDER_ID, repo_id).encode()
        sums[name] = sha256_of(path) if content is path else hashlib.sha256(content).hexdigest()
        yield CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
    yield CommitOperationAdd(path_in_repo=SUMS_FILE, path_or_fileobj=text_of_sums(sums).encode())


def _make_branch(api: HfApi, repo_id: str, revision: str | None) -> None:
    if revision not in (None, "main"):
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)
