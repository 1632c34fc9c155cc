"""Models of arrays whose parameters are averaged, smoothed or of another cost."""

import numpy as np

import distbp
from distbp.network.parameters import digest


def test_an_averaged_model_of_arrays(tmp_path):
    """It is the average, in memory and in a file, and keeps the digest of the training."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(200, 4)), random.integers(0, 3, 200)
    options = {"hidden": (5,), "epochs": 2, "activation": "silu", "quiet": True}
    plain = distbp.fit(x, y, **options)
    model = distbp.fit(x, y, ema=0.9, **options)
    assert model.digest == plain.digest == digest(plain.network.theta)
    assert digest(model.network.theta) != model.digest
    assert (model.predict_proba(x) != plain.predict_proba(x)).any()
    model.save(tmp_path / "m.h5")
    loaded = distbp.load_model(tmp_path / "m.h5")
    assert loaded.digest == model.digest
    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
