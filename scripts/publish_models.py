"""Take finished models, and corpora of `hf-tsrep data prepare`, to the Hub; without --push only say what would go.

    python scripts/publish_models.py runs/* --namespace me [--push] [--private]

Every folder is one commit and is said to be published when the Hub's files have been compared with those here. What
is there already is passed over, so that the same line goes on after an error. Exit code 1 where a folder did not go.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_tsrep.errors import one_line
from hf_tsrep.hub.publish import check_model_folder, file_operations, push_to_hub
from hf_tsrep.hub.transfers import differing_files, hub_error, is_of_the_hub


def kind_of(folder: Path) -> str | None:
    """Return "model" or "dataset"; None for a folder that is neither."""
    if (folder / "config.json").is_file():
        return "model"
    return "dataset" if (folder / "README.md").is_file() and any(folder.rglob("*.parquet")) else None


def check(folder: Path) -> list[Any]:
    """Return the files of a folder that may be published, as operations of a commit.

    Raises:
        ValueError: It may not; the message says all that is wrong.
    """
    kind = kind_of(folder)
    if kind is None:
        raise ValueError("is neither a finished model (config.json) nor a prepared corpus (README.md, *.parquet).")
    if kind == "model":
        check_model_folder(folder)
    return list(file_operations(folder, "", kind))


def publish(folder: Path, repo_id: str, private: bool, api: Any) -> str:
    """Publish a folder, and compare what the Hub then has.

    Returns:
        What was done, in words.

    Raises:
        OSError: The Hub has other files afterwards.
    """
    kind = kind_of(folder) or "model"
    operations = list(file_operations(folder, repo_id, kind))
    if not differing_files(operations, repo_id, repo_type=kind, api=api):
        return "is there already"
    if kind == "model":
        push_to_hub(folder, repo_id, private=private)
    else:
        api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        api.create_commit(repo_id, operations, repo_type=kind, commit_message="Write the corpus and its card")
    missing = differing_files(list(file_operations(folder, repo_id, kind)), repo_id, repo_type=kind, api=api)
    if missing:
        raise OSError(f"the Hub has other contents of {', '.join(missing)}; run the same again")
    return "published, and every file compared"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see the head of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--namespace", required=True, help="User or organisation on the Hub.")
    parser.add_argument("--push", action="store_true", help="Really publish.")
    parser.add_argument("--private", action="store_true", help="Make new repositories private.")
    options = parser.parse_args(arguments)
    api = None
    if options.push:
        from huggingface_hub import HfApi

        api = HfApi()
        try:
            api.whoami()
        except Exception as error:
            print(f"nothing was sent: {hub_error(error, options.namespace)}")
            return 1
    failed = 0
    for folder in options.folders:
        repo_id = f"{options.namespace}/{folder.resolve().name}"
        try:
            operations = check(folder)
            if api is None:
                size = sum(one.upload_info.size for one in operations)
                print(f"{folder}: would go to {repo_id}, {len(operations)} files, {size / 1e6:.1f} MB")
                continue
            print(f"{folder}: {repo_id} {publish(folder, repo_id, options.private, api)}")
        except Exception as error:  # whatever is wrong with one folder, the others go
            failed += 1
            told = hub_error(error, repo_id) if is_of_the_hub(error) else one_line(error)
            print(f"{folder}: NOT published: {told}")
    if failed:
        print(f"{failed} of {len(options.folders)} folders were not published; the same line goes on with them.")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
