"""Tables as people have them, from the file to a trained model and its description."""

import gzip
import json
import sys

import numpy as np
import pytest
from ranks import Job, distbp, distbp_messages

N = 240


@pytest.fixture
def passengers():
    """Rows of index, sex, age (missing in places), fare, class and survival."""
    random = np.random.default_rng(0)
    sex, port = random.choice(["male", "female"], N), random.choice(list("CQS"), N)
    age = [("" if i % 11 == 0 else "NA" if i % 13 == 0 else str(20 + i % 50)) for i in range(N)]
    fare = random.uniform(5, 90, N).round(2)
    survived = (sex == "female") ^ (random.random(N) < 0.05)
    return [
        (i, s, a, f, p, int(y))
        for i, (s, a, f, p, y) in enumerate(zip(sex, age, fare, port, survived, strict=True))
    ]


HEADER = ("", "sex", "age", "fare", "port", "survived")


def write(path, rows, separator=",", decimal="."):
    lines = [separator.join(HEADER)]
    lines += [separator.join(str(cell) for cell in row) for row in rows]
    text = "\n".join(lines) + "\n"
    path.write_text(text if decimal == "." else text.replace(".", decimal))


def test_a_table_with_categories_and_missing_cells(tmp_path, passengers):
    """sex of male and female, NA and empty cells, pandas' index: a model and its description."""
    write(tmp_path / "t.csv", passengers)
    on = {"folder": tmp_path}
    refused = distbp("import", "t.csv", "t.h5", status=1, **on)
    message = distbp_messages(refused.err)
    assert "line 2, column 'age': the value is missing" in message
    assert "--missing mean" in message
    assert not (tmp_path / "t.h5").exists()
    words = ("import", "t.csv", "t.h5", "--test-fraction", 0.25)
    ended = distbp(*words, "--missing", "median", "--missing-indicator", **on)
    assert ended.err == "", str(ended)
    assert "left out as an index" in ended.out
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["sex", "feature", "text", "0", "2", "categories"] in rows
    assert any(row[:3] == ["age", "feature", "number"] for row in rows)
    distbp("train", "t.h5", "--out", "run", "--epochs", 20, "--hidden", 8, **on, n=2)
    score = json.loads(distbp("evaluate", "run", "t.h5", "--json", **on).out)
    assert score["accuracy"] > 0.85
    for file in ("t.h5", "run"):
        text = distbp("info", file, **on).out
        assert "sex: one of female, male" in text
        assert "age: number; if missing" in text
    distbp(*words, "--missing", "drop", "--drop", "port", "--quiet", **on)
    assert "port" not in distbp("info", "t.h5", **on).out


def test_semicolons_and_decimal_commas(tmp_path, passengers):
    """They are recognized and said, and give the same data set."""
    write(tmp_path / "a.csv", passengers)
    write(tmp_path / "b.csv", passengers, ";", ",")
    digests = set()
    for name in "ab":
        words = ("import", f"{name}.csv", f"{name}.h5", "--missing", "mean")
        ended = distbp(*words, folder=tmp_path)
        info = distbp("info", f"{name}.h5", folder=tmp_path).out
        digests |= {line.split()[1] for line in info.splitlines() if "digest" in line}
    assert "decimal" in ended.out
    assert len(digests) == 1


def test_quiet_import_prints_warnings_only(tmp_path):
    """Here an identifier and a class with nearly all rows."""
    lines = "".join(f"{i},{i * i % 7},{int(i == 5)}\n" for i in range(100))
    (tmp_path / "t.csv").write_text("id,x,y\n" + lines)
    ended = distbp("import", "t.csv", "t.h5", "--quiet", folder=tmp_path)
    assert ended.out == ""
    messages = distbp_messages(ended.err)
    assert "Column 'id' is different in every row" in messages
    assert "99.0% of the training rows are of class '0'" in messages


PEAK_OF_READING = """
import re, sys
from pathlib import Path
from distbp.data.table_reader import open_table
with open_table(sys.argv[1]) as reader:
    rows = sum(len(block) for block in reader.blocks())
# Not ru_maxrss, which starts from that of the parent.
peak = re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(rows, int(peak) // 1024)
"""


@pytest.mark.parametrize("is_packed", [False, True])
def test_reading_takes_bounded_memory(tmp_path, is_packed):
    """Ten times the rows take no more memory, also if a small file unpacks to them."""
    peaks = []
    for count in (400_000, 4_000_000):
        data = b"number,text\n" + b"1.25,some more text\n" * count
        path = tmp_path / "table.csv"
        path.write_bytes(gzip.compress(data, 1) if is_packed else data)
        ended = Job([sys.executable, "-c", PEAK_OF_READING, path], tmp_path).wait()
        rows, peak = map(int, ended.out.split())
        assert rows == count, str(ended)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 40, peaks  # of 80 MB
