"""Other tasks than classification, from a CSV file to predictions, as a user would do it."""

import json

import h5py
import numpy as np
import pytest
from ranks import distbp, metrics


def write_houses(path) -> None:
    """Write 400 prices of around 200,000, which follow from two features but for some noise."""
    random = np.random.default_rng(0)
    area, rooms = random.normal(120, 40, 400).clip(30), random.integers(1, 8, 400)
    price = 30_000 + 1_200 * area + 9_000 * rooms + random.normal(0, 10_000, 400)
    rows = (f"{a:.1f},{r},{p:.0f}\n" for a, r, p in zip(area, rooms, price, strict=True))
    path.write_text("area,rooms,price\n" + "".join(rows))


def test_house_prices_with_all_defaults(tmp_path):
    """Large targets are learned, on two ranks with the same bits, and shown in their units."""
    write_houses(tmp_path / "houses.csv")
    words = ("houses.csv", "houses.h5", "--task", "regression", "--test-fraction", 0.2)
    assert "target scaling standardize" in distbp("import", *words, folder=tmp_path).out
    one = distbp("train", "houses.h5", "--out", "one", folder=tmp_path, n=1)
    two = distbp("train", "houses.h5", "--out", "two", folder=tmp_path, n=2)
    assert two.digest == one.digest
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")
    score = json.loads(distbp("evaluate", "one", "houses.h5", "--json", folder=tmp_path).out)
    assert score["r2"] > 0.9
    assert metrics(tmp_path / "one")[-1]["test_accuracy"] == score["r2"]
    distbp("predict", "one", "houses.h5", "--out", "p.h5", folder=tmp_path, n=2)
    with h5py.File(tmp_path / "p.h5") as file, h5py.File(tmp_path / "houses.h5") as data:
        error = file["output"][...] - data["test/y"][...]
    assert np.square(error).mean() / 2 == pytest.approx(score["cost"], rel=1e-5)
    for name in ("houses.h5", "one"):
        assert "targets" in distbp("info", name, folder=tmp_path).out


def test_an_averaged_model_with_parts_of_other_names(tmp_path):
    """What is evaluated, shown and written is the average; the digest is that of the training."""
    write_houses(tmp_path / "houses.csv")
    words = ("houses.csv", "houses.h5", "--task", "regression", "--test-fraction", 0.2)
    distbp("import", *words, folder=tmp_path)
    train = (
        "train", "houses.h5", "--activation", "gelu", "--cost", "huber", "--optimizer", "adamw",
        "--weight-decay", 0.02, "--learning-rate", 0.01, "--batch-size", 64, "--out",
    )  # fmt: skip
    plain = distbp(*train, "plain", folder=tmp_path)
    averaged = distbp(*train, "averaged", "--ema", 0.95, folder=tmp_path, n=2)
    assert averaged.digest == plain.digest
    assert distbp("digest", "averaged", folder=tmp_path).out.strip() == plain.digest
    score = json.loads(distbp("evaluate", "averaged", "houses.h5", "--json", folder=tmp_path).out)
    last = metrics(tmp_path / "averaged")[-1]
    assert (score["cost"], score["r2"]) == (last["test_cost"], last["test_accuracy"])
    assert score["cost"] != metrics(tmp_path / "plain")[-1]["test_cost"]
    assert score["r2"] > 0.9
    assert (
        "moving average of the weights, β 0.95" in distbp("info", "averaged", folder=tmp_path).out
    )
    distbp("predict", "averaged", "houses.h5", "--out", "p.h5", folder=tmp_path)
    with h5py.File(tmp_path / "p.h5") as file, h5py.File(tmp_path / "houses.h5") as data:
        error = np.abs(file["output"][...] - data["test/y"][...])
        unit = 1 / data["target/scale"][0]
    costs = np.where(error <= unit, error**2 / 2, unit * (error - unit / 2))
    assert costs.mean() == pytest.approx(score["cost"], rel=1e-5)


def test_several_labels_a_row(tmp_path):
    """Each is predicted by itself; the accuracy is that of all labels."""
    random = np.random.default_rng(1)
    x = random.normal(size=(300, 4)).round(3)
    y = (x[:, :3] + x[:, 1:] > 0).astype(int)
    lines = (",".join(map(str, [*a, *b])) for a, b in zip(x, y, strict=True))
    (tmp_path / "d.csv").write_text("a,b,c,d,red,green,blue\n" + "\n".join(lines) + "\n")
    options = ("--task", "multilabel", "--label", "red,green,blue", "--test-fraction", 0.2)
    said = distbp("import", "d.csv", "d.h5", *options, folder=tmp_path).out
    assert "3 labels a row: red, green, blue" in said
    train = ("train", "d.h5", "--optimizer", "adam", "--learning-rate", 0.02, "--out")
    digests = {distbp(*train, f"run{n}", folder=tmp_path, n=n).digest for n in (1, 2, 3)}
    assert len(digests) == 1
    score = json.loads(distbp("evaluate", "run1", "d.h5", "--json", folder=tmp_path).out)
    assert score["accuracy"] > 0.85
    distbp("predict", "run1", "d.h5", "--out", "p.h5", folder=tmp_path)
    with h5py.File(tmp_path / "p.h5") as file, h5py.File(tmp_path / "d.h5") as data:
        assert (file["label"][...] == data["test/y"][...]).mean() == score["accuracy"]
    assert "red, green, blue" in distbp("info", "d.h5", folder=tmp_path).out


def test_a_rare_class_with_weights(tmp_path):
    """Balanced classes find more of the rare one; weights of rows are no feature."""
    random = np.random.default_rng(2)
    x, is_rare = random.normal(size=(400, 2)), np.arange(400) % 20 == 0
    lines = (
        f"{a:.3f},{b:.3f},{1 + number % 3},{'rare' if rare else 'often'}"
        for number, (a, b, rare) in enumerate(zip(*(x.T + is_rare * 1.5), is_rare, strict=True))
    )
    (tmp_path / "d.csv").write_text("a,b,times,kind\n" + "\n".join(lines) + "\n")
    said = distbp("import", "d.csv", "d.h5", "--weight", "times", folder=tmp_path).out
    assert "2 numbers per row" in said
    assert "weighted" in said
    assert "from 1 to 3" in distbp("info", "d.h5", folder=tmp_path).out
    found = []
    for number, choice in enumerate(("none", "balanced"), 1):
        run = ("train", "d.h5", "--out", choice, "--class-weight", choice)
        distbp(*run, folder=tmp_path, n=number)
        predicted = distbp("predict", choice, "d.csv", "--out", "-", folder=tmp_path).out
        found.append(sum(",rare," in line for line in predicted.splitlines()[1:]))
    assert found[0] < 20 < found[1]
