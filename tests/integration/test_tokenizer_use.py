"""CrossTimeNetTokenizer in other processes: workers, forks, a Hub, and where hf_tsrep is not installed."""

import json
import pickle
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from datasets.fingerprint import Hasher
from loopback_hub import LoopbackHub
from tiny_codec import make_codec, make_series

from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

pytestmark = pytest.mark.slow

REPOSITORY = "tester/tiny-tokenizer"
REFUSE = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("hf_tsrep", "modeling", "tokenization"):
                raise ImportError(name + " is not here")

    sys.meta_path.insert(0, Refuse())
"""


def _last_line(written):
    return json.loads(written.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return the folder of a tokenizer, the file of its series, and their ids."""
    folder, series = tmp_path_factory.mktemp("saved"), make_series()
    tokenizer = CrossTimeNetTokenizer.from_codec(make_codec())
    tokenizer.save_pretrained(folder / "tokenizer")
    np.save(folder / "series.npy", series)
    (folder / "tokenizer.pickle").write_bytes(pickle.dumps(tokenizer))
    ids = tokenizer(series, domain="har")["input_ids"]
    return SimpleNamespace(
        folder=folder / "tokenizer", series=folder / "series.npy", pickle=folder / "tokenizer.pickle", ids=ids
    )


@pytest.fixture(scope="module")
def hub():
    with LoopbackHub() as running:
        yield running


@pytest.fixture(scope="module")
def published(hub, saved, tmp_path_factory):
    """Publish the tokenizer in a process of another hash seed, load it from the Hub there; return what was seen."""
    home = tmp_path_factory.mktemp("home")
    code = f"""
        import json, pickle
        import numpy as np
        from datasets.fingerprint import Hasher

        series = np.load({str(saved.series)!r})
        with open({str(saved.pickle)!r}, "rb") as file:  # as a spawned worker gets it: nothing is imported before
            of_pickle = pickle.load(file)(series, domain="har")["input_ids"]
        from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

        tokenizer = CrossTimeNetTokenizer.from_pretrained({str(saved.folder)!r})
        code = Hasher.hash(tokenizer)
        tokenizer.push_to_hub({REPOSITORY!r})
        again = CrossTimeNetTokenizer.from_pretrained({REPOSITORY!r})
        ids = again(series, domain="har")["input_ids"]
        print(json.dumps({{"hash": code, "ids": ids, "of_pickle": of_pickle}}))
    """
    return home, _last_line(hub.run(textwrap.dedent(code), home))


def test_the_hash_is_the_same_in_another_process(saved, published):
    assert published[1]["hash"] == Hasher.hash(CrossTimeNetTokenizer.from_pretrained(saved.folder))


def test_a_pickled_tokenizer_gives_the_same_ids_in_a_worker_that_was_spawned(saved, published):
    assert published[1]["of_pickle"] == saved.ids


def test_the_hub_has_all_files_and_gives_the_tokenizer_back(hub, saved, published):
    files = set(hub.files(REPOSITORY))
    assert {"codec.safetensors", "tokenizer_config.json", "tokenization_crosstimenet.py"} <= files
    assert published[1]["ids"] == saved.ids


@pytest.fixture(scope="module")
def offline(hub, saved, published):
    """Without the Hub, load what was loaded from it before, and tokenise in forks; return what was seen."""
    code = f"""
        import json
        import datasets, numpy as np, torch
        from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

        torch.set_num_threads(2)
        tokenizer = CrossTimeNetTokenizer.from_pretrained({REPOSITORY!r})
        series = np.load({str(saved.series)!r})
        ids = tokenizer(series, domain="har")["input_ids"]
        tokenizer(np.repeat(series, 200, 0), domain="har")  # the parent has run with two threads

        def tokenise(batch):
            torch.set_num_threads(1)  # otherwise a forked process waits for threads that it does not have
            return tokenizer(batch["series"], domain="har")

        rows = datasets.Dataset.from_dict({{"series": series.tolist()}})
        mapped = list(rows.map(tokenise, batched=True, batch_size=2, num_proc=2)["input_ids"])
        print(json.dumps({{"ids": ids, "mapped": mapped}}))
    """
    begin = len(hub.requests)
    written = hub.run(textwrap.dedent(code), published[0], HF_HUB_OFFLINE="1")
    return {**_last_line(written), "requests": hub.requests[begin:]}


def test_what_was_loaded_once_needs_no_hub(saved, offline):
    assert offline["ids"] == saved.ids
    assert offline["requests"] == []


def test_a_map_in_forked_processes_works_with_one_thread_each(saved, offline):
    assert offline["mapped"] == saved.ids


def test_the_code_of_the_tokenizer_is_enough_without_the_library(hub, saved, published, tmp_path):
    code = f"""
        import json, pickle
        import numpy as np
        from transformers import AutoTokenizer

        series = np.load({str(saved.series)!r})
        found = []
        for place in ({str(saved.folder)!r}, {REPOSITORY!r}):
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=True)
            assert type(tokenizer).__module__.startswith("transformers_modules"), type(tokenizer)
            found.append(tokenizer(series, domain="har")["input_ids"])
        tokenizer.add_domain({{"name": "eeg", "num_input_channels": 2, "patch_length": 5, "codebook_size": 6}})
        tokenizer.save_pretrained("again")  # its code travels on
        again = AutoTokenizer.from_pretrained("again", trust_remote_code=True)
        found.append(again(series, domain="har")["input_ids"])
        found.append(pickle.loads(pickle.dumps(again))(series, domain="har")["input_ids"])
        print(json.dumps(found))
    """
    written = hub.run(textwrap.dedent(REFUSE) + textwrap.dedent(code), tmp_path, PYTHONPATH="")
    assert _last_line(written) == [saved.ids] * 4
