"""Series of other lengths beside a series change nothing of its embedding."""

import numpy as np


def assert_company_changes_nothing(model, lengths=(1, 2, 3, 9, 24, 60)):
    """Embed series of all lengths together, missing at their ends, and each alone; compare, and look at the shapes."""
    generator = np.random.default_rng(0)
    size = (model.config.num_input_channels, model.config.embedding_size)
    series = [generator.standard_normal((length, size[0])).astype(np.float32) for length in lengths]
    ends = [max(lengths) - length for length in lengths]
    together = [np.pad(one, ((0, end), (0, 0)), constant_values=np.nan) for one, end in zip(series, ends, strict=True)]
    found = model.encode(np.stack(together), layout="ntc")
    assert found.shape == (len(lengths), size[1])
    for one, embedding in zip(series, found, strict=True):
        np.testing.assert_allclose(embedding, model.encode(one, layout="ntc"), rtol=1e-4, atol=1e-5)
        assert model.encode(one, level="timestamp", layout="ntc").shape == (len(one), model.config.hidden_size)
