"""CrossTimeNetTokenizer among the tools that take one: datasets and collators.

What takes processes of its own is in tests/integration/test_tokenizer_use.py.
"""

import datasets
import numpy as np
import torch
from datasets.fingerprint import Hasher
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from hf_tsrep.tokenization.tokenization_crosstimenet import CrossTimeNetTokenizer


def test_the_hash_is_of_what_it_does(tokenizer, series, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = CrossTimeNetTokenizer.from_pretrained(tmp_path)

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
    assert Hasher.hash(CrossTimeNetTokenizer.from_pretrained(tmp_path)) == before[0]
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
