"""The command line as users see it: what is printed, where, how often, and the exit status."""

import gzip
import json
import re
import shlex
import subprocess
import tomllib

import h5py
import numpy as np
import pytest
import samples
from ranks import (
    FULL,
    ROOT,
    Job,
    base_environment,
    command_of,
    distbp,
    distbp_messages,
    is_open_mpi,
    metrics,
)

VERBS = (
    "import", "train", "watch", "evaluate", "predict", "export", "import-model", "report", "info",
    "digest", "plan", "slurm", "doctor", "diff", "verify", "completion",
)  # fmt: skip
RANK_COUNTS = (None, 1, 2, 3)  # None: without a launcher
DIGEST_LINE = re.compile(r"[0-9a-f]{64}\n")


# Success


def test_help_lists_the_verbs_and_version_prints_one_line(tmp_path):
    """Neither starts MPI or writes to standard error."""
    ended = distbp("--help", folder=tmp_path)
    assert all(re.search(rf"^ +{verb} ", ended.out, re.MULTILINE) for verb in VERBS), str(ended)
    assert ended.err == ""
    ended = distbp("--version", folder=tmp_path)
    assert re.fullmatch(r"distbp \d+\.\d+\.\d+\n", ended.out)
    assert ended.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(tmp_path, verb):
    ended = distbp(verb, "--help", folder=tmp_path)
    assert ended.out.startswith(f"usage: distbp {verb} ")
    assert ended.err == ""


@pytest.mark.parametrize("start", [{}, {"n": 2}], ids=str)
def test_plan_recommends_a_number_of_ranks(tmp_path, start):
    """It measures on the ranks that it is started on, and predicts for larger numbers."""
    words = ["plan", "--sizes", "50,20,3", "--batch-size", 64, "--shards", 8, "--up-to", 100]
    ended = distbp(*words, "--ranks-a-node", 4, folder=tmp_path, **start)
    assert ended.err == ""
    assert f"measured on {start.get('n', 1)} rank" in ended.out
    rows = [line.split() for line in ended.out.splitlines() if re.match(r" +\d+ +\d+ ", line)]
    assert [(int(row[0]), int(row[1])) for row in rows][-2:] == [(64, 16), (100, 25)]
    assert "ranks are worthwhile (efficiency of at least 50%)" in ended.out


def test_from_a_source_to_predictions(tmp_path):
    """import, train, evaluate, predict, info and digest, one after the other, on two ranks."""
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 211)
    lines = [
        f"{a:.4f},{b:.4f},{'abc'[label]}" for (a, b), label in zip(
            random.normal(size=(211, 2)) + y[:, None], y, strict=True
        )
    ]  # fmt: skip
    (tmp_path / "points.csv").write_text("\n".join(["width,height,kind", *lines]) + "\n")
    on_two = {"folder": tmp_path, "n": 2}
    on_one = {"folder": tmp_path}
    distbp("import", "points.csv", "points.h5", "--label", "kind", "--test-fraction", 0.2, **on_one)
    assert "3 classes" in distbp("info", "points.h5", **on_one).out
    trained = distbp("train", "points.h5", "--out", "run", "--epochs", 3, "--hidden", 8, **on_two)
    assert trained.err == ""
    assert "2-8-3" in distbp("info", "run", **on_one).out
    assert distbp("digest", "run", **on_one).out == trained.digest + "\n"
    text = distbp("evaluate", "run", "points.h5", **on_two).out
    assert re.match(r"test: 4\d rows, cost \d\.\d+, accuracy \d+\.\d+%\n", text)
    assert re.search(r"\nclasses +rows +precision +recall +F1 +ROC AUC\na( +\S+){5}\nb ", text)
    distbp("predict", "run", "points.h5", "--out", "p.h5", "--split", "train", **on_two)
    with h5py.File(tmp_path / "p.h5") as file:
        assert file["output"].shape == (len(file["label"]), 3)
        assert np.allclose(file["output"][...].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("n", [None, 2])
def test_a_clean_run_writes_nothing_to_standard_error(tmp_path, data, n):
    """A line per epoch, the setup before and the summary after it, all on standard output."""
    ended = distbp(
        "train", data["digits"], "--out", "run", "--epochs", 2, "--shards", 4, folder=tmp_path, n=n
    )
    assert ended.err == "", str(ended)
    lines = ended.out.splitlines()
    assert [line for line in lines if line.startswith("epoch ")] == lines[-6:-4]
    assert lines[-4].startswith("time   ")
    assert ("slowest: rank " in lines[-4]) == bool(n)
    assert ("2 ranks" if n else "1 rank ") in lines[1]
    assert "\x1b" not in ended.out


@pytest.mark.parametrize("start", [{}, {"n": 2}, {"ranks": 2}])
def test_quiet_prints_nothing(tmp_path, data, start):
    words = ["train", data["digits"], "--out", "run", "--epochs", 1, "--quiet", "--shards", 4]
    if "ranks" in start:
        words += ["--ranks", start["ranks"]]
    ended = distbp(*words, folder=tmp_path, n=start.get("n"))
    assert (ended.out, ended.err) == ("", ""), str(ended)


def test_the_profile_of_a_run(tmp_path, data):
    """A lane for each rank, in a file that is compressed by its name."""
    words = ("train", data["digits"], "--epochs", 2, "--profile", "trace.json.gz", "--out", "run")
    distbp(*words, "--quiet", folder=tmp_path, n=2)
    events = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    assert {event["tid"] for event in events} == {1, 2}
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert {"rows", "forward", "backprop", "wait", "update", "checkpoint"} <= names


def test_the_files_of_a_run(tmp_path, data):
    """Text, checkpoints and the lock; best.h5 and last.h5 are files, not links."""
    words = ("train", data["digits packed"], "--out", "run", "--epochs", 5, "--keep", 2)
    distbp(*words, "--hidden", "20,10", folder=tmp_path, n=2)
    run = tmp_path / "run"
    names = {
        "config.toml", "metrics.jsonl", "events.jsonl", "status.json", "checkpoints", "last.h5",
        "best.h5", "lock",
    }  # fmt: skip
    assert {path.name for path in run.iterdir()} == names
    assert len(list((run / "checkpoints").iterdir())) == 2
    records = metrics(run)
    assert [record["epoch"] for record in records] == [1, 2, 3, 4, 5]
    fields = "epoch step train_cost train_accuracy validation_cost validation_accuracy test_cost"
    fields += " test_accuracy learning_rate digest"
    assert list(records[0]) == fields.split()
    best = min(records, key=lambda record: record["validation_cost"])
    assert distbp("digest", run / "best.h5", folder=tmp_path).out == best["digest"] + "\n"
    assert tomllib.loads((run / "config.toml").read_text())["hidden"] == [20, 10]


def test_the_configuration_of_a_run_can_be_used_again(tmp_path, data):
    """config.toml is valid for --config; options on the command line take precedence."""
    recipe = samples.RECIPES["adam, penalties, cosine"]
    first = distbp("train", data["digits"], "--out", "run", *recipe.flags(), folder=tmp_path)
    words = ("train", "--config", "run/config.toml", "--out")
    again = distbp(*words, "again", folder=tmp_path)
    assert again.digest == first.digest
    assert metrics(tmp_path / "again") == metrics(tmp_path / "run")
    other = distbp(*words, "other", "--seed", 6, folder=tmp_path)
    assert other.digest != first.digest


def test_init_from_starts_with_the_weights_of_a_model(tmp_path, data, run):
    """With a learning rate of 0 the initial weights remain: they are those of the model."""
    words = ("train", data["digits"], "--out", "new", "--epochs", 1, "--learning-rate", 0)
    first = distbp(*words, "--init-from", run, folder=tmp_path)
    assert distbp("digest", run, folder=tmp_path).out == first.digest + "\n"


def test_digest_prints_a_digest_and_nothing_else(tmp_path, run):
    ended = distbp("digest", run, folder=tmp_path)
    assert DIGEST_LINE.fullmatch(ended.out)
    assert ended.err == ""


@pytest.mark.parametrize("name", ["digits", "numbers"])
def test_evaluate_prints_json(tmp_path, data, name):
    """Equal to the last bit on any number of ranks, and to metrics.jsonl."""
    metric = "roc-auc" if name == "digits" else "mae"
    options = ("--epochs", 1, "--metrics", metric)
    distbp("train", data[name], "--out", "run", *options, folder=tmp_path)
    words = ("evaluate", "run", data[name], "--json")
    texts = {distbp(*words, folder=tmp_path, n=n).out for n in (RANK_COUNTS if FULL else (None, 3))}
    assert len(texts) == 1
    score = json.loads(texts.pop())
    measure = "accuracy" if name == "digits" else "r2"
    assert list(score)[:4] == ["split", "rows", "cost", measure]
    record = metrics(tmp_path / "run")[-1]
    assert (score["cost"], score[measure]) == (record["test_cost"], record["test_accuracy"])
    key = metric.replace("-", "_")
    assert score[key] == record[f"test_{key}"] > 0
    assert score["rows"] == samples.ROWS["test"]


def test_predictions_are_identical_on_any_number_of_ranks(tmp_path, data, run):
    """Byte by byte: without a launcher, on 1, 2 and 3 ranks, and with --ranks."""
    words = ("predict", run, data["digits"], "--split", "train")
    files = []
    for n in RANK_COUNTS:
        ended = distbp(*words, "--out", f"{n}.h5", folder=tmp_path, n=n)
        assert ended.out == f"{n}.h5: 503 rows\n"
        assert distbp_messages(ended.err) == ""
        files.append((tmp_path / f"{n}.h5").read_bytes())
    distbp(*words, "--out", "r.h5", "--ranks", 2, folder=tmp_path)
    files.append((tmp_path / "r.h5").read_bytes())
    assert len(set(files)) == 1


@pytest.fixture(scope="module")
def penguins(tmp_path_factory):
    """Return a folder with a table, a data set of all of its rows, and a run on it."""
    folder = tmp_path_factory.mktemp("penguins")
    (folder / "new.csv").write_bytes((ROOT / "scripts/penguins.csv").read_bytes())
    distbp("import", "new.csv", "d.h5", "--label", "species", "--missing", "mean", folder=folder)
    distbp("train", "d.h5", "--out", "run", "--epochs", 5, folder=folder)
    return folder


def test_predictions_of_a_table_are_identical_on_any_number_of_ranks(penguins):
    """Byte by byte, and those of the data set of the same rows; what is not used is said."""
    texts = []
    for n in RANK_COUNTS:
        out = f"{n}.csv"
        ended = distbp("predict", "run", "new.csv", "--out", out, folder=penguins, n=n)
        assert ended.out == f"new.csv: not used: column 'species'.\n{out}: 344 rows\n"
        assert distbp_messages(ended.err) == ""
        texts.append((penguins / out).read_text())
    words = ("predict", "run", "d.h5", "--split", "train", "--out", "d.csv")
    distbp(*words, folder=penguins)
    texts.append((penguins / "d.csv").read_text())
    assert len(set(texts)) == 1
    assert texts[0].startswith("row,class,p_Adelie,p_Chinstrap,p_Gentoo\n0,Adelie,0.")


def test_a_table_has_the_score_of_its_data_set(penguins):
    """To the last bit, on any number of ranks."""
    expected = distbp("evaluate", "run", "d.h5", "--split", "train", "--json", folder=penguins).out
    expected = json.loads(expected) | {"data": "new.csv"}
    del expected["split"]
    for n in RANK_COUNTS if FULL else (None, 3):
        ended = distbp("evaluate", "run", "new.csv", "--json", folder=penguins, n=n)
        assert json.loads(ended.out) == expected


@pytest.mark.parametrize("ranks", [[], ["--ranks", 2]], ids=str)
def test_predict_is_a_filter(penguins, ranks):
    """From standard input to standard output; messages are on standard error."""
    distbp("predict", "run", "new.csv", "--out", "expected.csv", "--force", folder=penguins)
    command = command_of(["predict", "run", "-", "--out", "-", *ranks])
    with (penguins / "new.csv").open("rb") as file:
        ended = subprocess.run(
            [str(word) for word in command], cwd=penguins, env=base_environment(), stdin=file,
            capture_output=True, check=True, timeout=600,
        )  # fmt: skip
    assert ended.stdout == (penguins / "expected.csv").read_bytes()
    messages = ended.stderr.decode()
    assert "standard input: not used: column 'species'.\n" in messages
    assert "standard output: 344 rows\n" in messages


def test_predict_ends_when_nobody_reads_its_output(penguins):
    """As of `| head`: without an error, and long before the end of the table."""
    header, _, rows = (penguins / "new.csv").read_text().partition("\n")
    (penguins / "long.csv").write_text(f"{header}\n" + rows * 2000)
    words = map(shlex.quote, map(str, command_of(["predict", "run", "long.csv", "--out", "-"])))
    script = f"set -o pipefail; {' '.join(words)} | head -n 2"
    ended = Job(["bash", "-c", script], penguins).wait()
    assert ended.status == 0, str(ended)
    assert len(ended.out.splitlines()) == 2
    count = re.search(r"^standard output: ([\d,]+) rows$", ended.err, re.M)
    assert int(count[1].replace(",", "")) < 344 * 2000, str(ended)


@pytest.mark.parametrize("n", [None, 3])
def test_a_column_that_is_missing_is_named_once(penguins, n):
    """On one rank or several; no file is left behind."""
    lines = (penguins / "new.csv").read_text().splitlines()
    (penguins / "bad.csv").write_text("\n".join(line.partition(",")[2] for line in lines[1:]))
    words = ["predict", "run", "bad.csv", "--no-header", "--out", "bad-out.csv"]
    ended = Job(command_of(words, n=n), penguins).wait()
    assert_one_sentence(ended, 1, ["bad.csv has no columns", "'island'", "'bill_length_mm'"])
    assert not list(penguins.glob("*bad-out*"))


# Errors

DATA, RUN = "data set", "run"

# name: arguments, exit status, parts of the message
ERRORS = {
    "no verb": ([], 2, ["VERB"]),
    "misspelt verb": (["trian", DATA], 2, ["trian", "train"]),
    "misspelt option": (
        ["train", DATA, "--out", "new", "--learning-rat", "0.1"],
        2,
        ["--learning-rat", "did you mean --learning-rate?"],
    ),
    "option before the verb": (["--ranks", "2", "train", DATA], 2, ["--ranks"]),
    "option of another verb": (["evaluate", RUN, DATA, "--epochs", "3"], 2, ["--epochs"]),
    "extra argument": (["train", DATA, "more", "--out", "new"], 2, ["more"]),
    "option without a value": (["train", DATA, "--out"], 2, ["--out"]),
    "not a number": (["train", DATA, "--out", "new", "--epochs", "ten"], 2, ["--epochs", "ten"]),
    "out of bounds": (["train", DATA, "--out", "new", "--dropout", "1"], 2, ["--dropout", "1"]),
    "unknown choice": (["train", DATA, "--out", "new", "--cost", "x"], 2, ["--cost", "quadratic"]),
    "invalid sizes": (["train", DATA, "--out", "new", "--hidden", "10,x"], 2, ["--hidden", "10,x"]),
    "invalid sizes for plan": (["plan", "--sizes", "10,x"], 2, ["--sizes", "10,x"]),
    "no data": (["train", "--out", "new"], 2, ["DATA.h5"]),
    "no directory": (["train", DATA], 2, ["--out"]),
    "option without effect": (
        ["train", DATA, "--out", "new", "--momentum", "0.5"], 2, ["--momentum", "sgd"],
    ),
    "contradicting options": (["train", "--resume", RUN, "--out", "new"], 2, ["--resume", "--out"]),
    "too many shards": (
        ["train", DATA, "--out", "new", "--batch-size", "4", "--shards", "5"], 2, ["--shards 5"],
    ),
    "empty validation set": (
        ["train", DATA, "--out", "new", "--validation", "0.0001"], 2, ["--validation", "503"],
    ),
    "missing data": (["train", "no.h5", "--out", "new"], 1, ["no.h5", "No such file"]),
    "not HDF5": (["train", "text.txt", "--out", "new"], 1, ["text.txt"]),
    "not a data set": (["train", f"{RUN}/last.h5", "--out", "new"], 1, ["last.h5"]),
    "a directory": (["train", ".", "--out", "new"], 1, ["."]),
    "missing model": (["evaluate", "no.h5", DATA], 1, ["no.h5", "No such file"]),
    "not a model": (["digest", DATA], 1, ["digits.h5"]),
    "empty run": (["digest", "empty"], 1, ["empty"]),
    "wrong number of inputs": (["evaluate", RUN, "narrow.h5"], 2, ["narrow.h5", "48", "11"]),
    "missing split": (["evaluate", RUN, DATA, "--split", "validation"], 2, ["validation"]),
    "run exists": (["train", DATA, "--out", RUN], 1, ["--resume", "--out"]),
    "fixed option": (["train", "--resume", RUN, "--seed", "1"], 2, ["--seed", "1", "0"]),
    "fewer epochs": (
        ["train", "--resume", RUN, "--epochs", "1"], 2, ["--epochs 1:", "has completed 2 epochs"],
    ),
    "missing run": (["train", "--resume", "no"], 2, ["--resume no"]),
    "no ranks": (["train", DATA, "--out", "new", "--ranks", "0"], 2, ["--ranks 0"]),
    "not TOML": (["train", DATA, "--out", "new", "--config", "text.txt"], 2, ["text.txt"]),
    "missing folder": (["predict", RUN, DATA, "--out", "no/p.h5"], 1, ["no/p.h5"]),
    "missing source": (["import", "no.npz", "new.h5"], 1, ["no.npz"]),
    "unknown format": (["import", "text.txt", "new.h5"], 1, ["text.txt"]),
}  # fmt: skip

UNDER_MPI = (
    *("misspelt option", "missing data", "wrong number of inputs", "run exists"),
    "fixed option",
)
BY_LAUNCHER = ("train", "evaluate", "predict")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory, data, run):
    """Return a folder with files that are not what the errors above need."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "text.txt").write_text("plain text\n")
    (folder / "empty").mkdir()
    samples.numbers(folder / "narrow.h5")
    return folder


def with_paths(words, data, run) -> list[str]:
    """Return the arguments with the paths of the data set and of the run."""
    paths = {DATA: str(data["digits"]), RUN: str(run), f"{RUN}/last.h5": str(run / "last.h5")}
    return [paths.get(word, word) for word in words]


def assert_one_sentence(ended, status: int, parts: list[str]) -> None:
    """One message by distbp, without a traceback; nothing on standard output."""
    assert ended.status == status, str(ended)
    message = distbp_messages(ended.err)
    assert message.count("distbp: ") == 1, str(ended)
    assert all(part in message for part in parts), str(ended)
    assert "Traceback" not in ended.err, str(ended)
    assert ended.out == "", str(ended)
    assert not re.search(r"\bparse_\w+|\bError:|!", message), str(ended)


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_one_sentence(workspace, data, run, name):
    words, status, parts = ERRORS[name]
    ended = Job(command_of(with_paths(words, data, run)), workspace).wait()
    assert_one_sentence(ended, status, parts)
    assert ended.err == distbp_messages(ended.err) + "\n", str(ended)
    assert not (workspace / "new").exists()
    assert not (workspace / "new.h5").exists()


@pytest.mark.parametrize(
    "name",
    [name for name, (words, *_) in ERRORS.items() if words and words[0] in BY_LAUNCHER]
    if FULL
    else UNDER_MPI,
)
def test_an_error_is_printed_once_by_three_ranks(workspace, data, run, name):
    """By one rank, before the launcher kills the others; with the same exit status."""
    if name == "no ranks":
        return  # --ranks under mpiexec is another error, tested below
    words, status, parts = ERRORS[name]
    ended = Job(command_of(with_paths(words, data, run), n=3), workspace).wait()
    assert_one_sentence(ended, status, parts)


@pytest.mark.parametrize("name", ["missing data", "invalid sizes"])
def test_an_error_is_printed_once_with_ranks_option(workspace, data, run, name):
    words, status, parts = ERRORS[name]
    ended = Job(command_of([*with_paths(words, data, run), "--ranks", 3]), workspace).wait()
    assert_one_sentence(ended, status, parts)


def test_ranks_option_under_a_launcher_is_refused(workspace, data):
    words = ["train", data["digits"], "--out", "new", "--ranks", 2]
    ended = Job(command_of(words, n=2), workspace).wait()
    assert_one_sentence(ended, 2, ["--ranks 2", "launcher"])


def test_a_run_is_resumed_from_another_folder(tmp_path, data):
    """If its data set is not found from there, the message says how to name it."""
    elsewhere = tmp_path / "a b"
    elsewhere.mkdir()
    (tmp_path / "data.h5").write_bytes(data["digits"].read_bytes())
    ended = distbp("train", "data.h5", "--out", "a run", "--epochs", 1, folder=tmp_path)
    assert "\nnext   distbp evaluate 'a run' data.h5\n" in ended.out
    words = ["train", "--resume", "../a run", "--epochs", 2]
    ended = Job(command_of(words), elsewhere).wait()
    assert_one_sentence(ended, 2, ["data.h5 does not exist", "train DATA.h5 --resume"])
    distbp("train", "../data.h5", *words[1:], folder=elsewhere)
    assert len(metrics(tmp_path / "a run")) == 2


def test_predict_does_not_overwrite_its_input(tmp_path, data, run):
    """Neither the data set nor the model."""
    copy = samples.digits(tmp_path / "copy.h5")
    model = tmp_path / "model.h5"
    model.write_bytes((run / "last.h5").read_bytes())
    for out in (copy, model):
        before = out.read_bytes()
        ended = Job(command_of(["predict", model, copy, "--out", out]), tmp_path).wait()
        assert out.read_bytes() == before, str(ended)
        assert ended.status in (1, 2), str(ended)


def test_divergence_is_an_error_with_a_remedy(tmp_path, data):
    """A far too large learning rate is reported once, on all ranks at the same step."""
    words = ("train", data["numbers"], "--out", "run", "--learning-rate", 1e9, "--epochs", 9)
    ended = distbp(*words, folder=tmp_path, n=3, status=1)
    message = distbp_messages(ended.err).splitlines()[-1]
    assert "--learning-rate" in message, str(ended)
    assert "not a finite number" in message, str(ended)
    assert "Traceback" not in ended.err
    for record in metrics(tmp_path / "run"):
        assert np.isfinite(record["train_cost"])


def test_only_launchers_add_lines_to_standard_error(workspace):
    """So `distbp_messages` leaves out nothing that distbp has written."""
    ended = Job(command_of(["train", "no.h5", "--out", "new"], n=2), workspace).wait()
    foreign = [line for line in ended.err.splitlines() if not line.startswith("distbp: ")]
    assert not any("distbp" in line for line in foreign), str(ended)
    assert is_open_mpi() or foreign == [], str(ended)
