"""CrossTimeNetTokenizer among the tools that take one: datasets, loaders, collators, AutoTokenizer, the Hub."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from loopback_hub import LoopbackHub

ROOT = Path(__file__).resolve().parents[3]
REFUSE = """
    import sys

    class Refuse:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("hf_tsrep", "modeling", "tokenization"):
                raise ImportError(name + " is not here")

    sys.meta_path.insert(0, Refuse())
"""


def _run(code, *arguments, home, **environment):
    """Run code in a process of its own and return what it wrote."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    kept |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "cache"), "OMP_NUM_THREADS": "1", **environment}
    script = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    done = subprocess.run(script, cwd=home, env=kept, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def saved(tokenizer, series, tmp_path):
    """Return folders of the tokenizer and the series, and the ids."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    np.save(tmp_path / "series.npy", series)
    return tmp_path / "tokenizer", tmp_path / "series.npy", tokenizer(series, domain="har")["input_ids"]


class Items(torch.utils.data.Dataset):
    """Tokenises in the worker; at the top of the module, so that a spawned one finds it."""

    def __init__(self, tokenizer, series):
        self.tokenizer, self.series = tokenizer, series

    def __len__(self):
        return len(self.series)

    def __getitem__(self, index):
        return self.tokenizer(self.series[index], domain="har")


class Padding:
    """Collates in the worker."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __call__(self, items):
        return self.tokenizer.pad(items, return_tensors="pt")


def test_spawned_workers(tokenizer, series):
    ragged = [*series, series[0][:9]]
    expected = tokenizer(ragged, domain="har")["input_ids"]
    loader = torch.utils.data.DataLoader(
        Items(tokenizer, ragged),
        batch_size=3,
        num_workers=1,
        collate_fn=Padding(tokenizer),
        multiprocessing_context="spawn",
    )
    rows = [
        row[keep.bool()].tolist()
        for batch in loader
        for row, keep in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert rows == expected


def test_the_hash_is_of_what_it_does(tokenizer, series, saved):
    folder, _, _ = saved
    loaded = CrossTimeNetTokenizer.from_pretrained(folder)

    def tokenise(rows):
        return loaded(rows["series"], domain="har")

    before = Hasher.hash(loaded), Hasher.hash(tokenise)
    loaded(list(series), domain="har", padding=True, add_special_tokens=True, return_tensors="pt")
    loaded(series[0], domain="har", padding=True, truncation=True, max_length=2)
    loaded("<har_1> [MASK]")
    loaded.decode([4, 5])
    loaded.evaluate(series, domain="har")
    len(loaded)
    loaded.all_special_ids  # noqa: B018 - it might be kept
    assert (Hasher.hash(loaded), Hasher.hash(tokenise)) == before
    code = """
        import sys
        from datasets.fingerprint import Hasher
        from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
        print(Hasher.hash(CrossTimeNetTokenizer.from_pretrained(sys.argv[1])))
    """
    elsewhere = _run(code, folder, home=folder.parent, PYTHONPATH=str(ROOT), PYTHONHASHSEED="1")
    assert elsewhere.strip() == before[0]
    with torch.no_grad():
        loaded.codec.domains[1].codebook.codes[0, 0] += 1.0
    assert Hasher.hash(loaded) != before[0]
    assert Hasher.hash(tokenise) != before[1]


def test_datasets_map(tokenizer, series):
    ragged = [*series, series[0][:9]]
    expected = tokenizer(ragged, domain="har")
    features = datasets.Features({"series": datasets.Array2D((None, 3), "float32")})
    rows = datasets.Dataset.from_dict({"series": ragged}, features=features)
    batched = rows.map(lambda batch: tokenizer(batch["series"], domain="har"), batched=True, batch_size=4)
    assert list(batched["input_ids"]) == expected["input_ids"]
    assert list(batched["attention_mask"]) == expected["attention_mask"]
    single = rows.map(lambda row: tokenizer(row["series"], domain="har"))
    assert list(single["input_ids"]) == expected["input_ids"]
    arrays = rows.with_format("numpy").map(
        lambda batch: tokenizer(batch["series"], domain="har"), batched=True, batch_size=5
    )
    assert [row.tolist() for row in arrays["input_ids"]] == expected["input_ids"]


def test_map_in_forked_processes_with_one_thread_each(saved):
    folder, series, expected = saved
    code = """
        import json, sys
        import datasets, numpy as np, torch
        from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer

        torch.set_num_threads(2)
        tokenizer = CrossTimeNetTokenizer.from_pretrained(sys.argv[1])
        series = np.load(sys.argv[2])
        tokenizer(np.repeat(series, 200, 0), domain="har")  # the parent has run with two threads

        def tokenise(batch):
            torch.set_num_threads(1)  # otherwise a forked process waits for threads that it does not have
            return tokenizer(batch["series"], domain="har")

        rows = datasets.Dataset.from_dict({"series": series.tolist()})
        print(json.dumps(list(rows.map(tokenise, batched=True, batch_size=2, num_proc=2)["input_ids"])))
    """
    found = _run(code, folder, series, home=folder.parent, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="2")
    assert json.loads(found.strip().splitlines()[-1]) == expected


def test_language_modelling(tokenizer):
    generator = np.random.default_rng(0)
    # Series that repeat two shapes, so that what is hidden can be guessed from what is not.
    shapes = generator.normal(size=(2, 4, 3)).astype(np.float32) * 2
    several = [np.tile(shapes[index % 2], (length, 1)) for index, length in enumerate(generator.integers(4, 9, 32))]
    items = [tokenizer(one, domain="har") for one in several]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=0)
    batch = collator(items)
    hidden = batch["labels"] != -100
    assert 0.1 < float(hidden.sum() / batch["attention_mask"].sum()) < 0.5
    assert (batch["input_ids"][hidden] == tokenizer.mask_token_id).float().mean() > 0.6
    assert not hidden[batch["attention_mask"] == 0].any()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            pad_token_id=tokenizer.pad_token_id,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = BertForMaskedLM(config)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = model(**collator(items)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_mask_that_was_there_is_not_to_be_guessed(tokenizer, series):
    holes = series.copy()
    holes[:, 4:8] = np.nan
    batch = tokenizer(holes, domain="har", return_special_tokens_mask=True)
    assert [row[1] for row in batch["special_tokens_mask"]] == [1] * 5
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.9, seed=0)
    assert (collator([tokenizer(one, domain="har") for one in holes])["labels"][:, 1] == -100).all()


def test_auto_tokenizer_by_remote_code(saved, tmp_path):
    folder, series, expected = saved
    code = (
        REFUSE
        + """
    import json
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
    assert type(tokenizer).__module__.startswith("transformers_modules"), type(tokenizer)
    series = np.load(sys.argv[2])
    found = [tokenizer(series, domain="har")["input_ids"]]
    tokenizer.add_domain({"name": "eeg", "num_input_channels": 2, "patch_length": 5, "codebook_size": 6})
    tokenizer.save_pretrained(sys.argv[3])  # its code travels on
    again = AutoTokenizer.from_pretrained(sys.argv[3], trust_remote_code=True)
    found.append(again(series, domain="har")["input_ids"])
    import pickle

    found.append(pickle.loads(pickle.dumps(again))(series, domain="har")["input_ids"])
    print(json.dumps(found))
    """
    )
    found = _run(code, folder, series, tmp_path / "again", home=tmp_path)
    assert json.loads(found.strip().splitlines()[-1]) == [expected] * 3


def test_the_hub(saved, tmp_path):
    folder, series, expected = saved
    push = f"""
        import sys
        from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
        CrossTimeNetTokenizer.from_pretrained({str(folder)!r}).push_to_hub("tester/tiny-tokenizer")
    """
    load = (
        REFUSE
        + f"""
    import json
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("tester/tiny-tokenizer", trust_remote_code=True)
    print(json.dumps(tokenizer(np.load({str(series)!r}), domain="har")["input_ids"]))
    """
    )
    with LoopbackHub() as hub:
        hub.run(textwrap.dedent(push), home=tmp_path)
        files = set(hub.files("tester/tiny-tokenizer"))
        assert {"codec.safetensors", "tokenizer_config.json", "tokenization_crosstimenet.py"} <= files
        found = hub.run(textwrap.dedent(load), home=tmp_path)
        assert json.loads(found.strip().splitlines()[-1]) == expected
        here = f"""
            import json
            import numpy as np
            from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer
            tokenizer = CrossTimeNetTokenizer.from_pretrained("tester/tiny-tokenizer")
            print(json.dumps(tokenizer(np.load({str(series)!r}), domain="har")["input_ids"]))
        """
        hub.requests.clear()
        offline = hub.run(textwrap.dedent(here), home=tmp_path, HF_HUB_OFFLINE="1")
        assert json.loads(offline.strip().splitlines()[-1]) == expected
        assert hub.requests == []
