"""The lines that people read, above all those about slow runs and differing bits."""

import re
from types import SimpleNamespace

import pytest
import samples
import table_models

from distbp.data.dataset import DataSet
from distbp.network.network import Network
from distbp.parallel.host import CpuShare
from distbp.training.config import Config
from distbp.training.messages import (
    RankInfo,
    about_targets,
    epoch_line,
    format_cost,
    introduction,
    rank_failure_message,
    step_status,
    warnings,
)
from distbp.training.state import Position, Progress

BITS = {"cpu": "X", "numpy": "2.0", "simd": "AVX-512", "blas": "openblas Haswell"}
MKL = BITS | {"blas": "mkl"}


def ranks(n, cores=None, nodes=1, bits=None, quota=None):
    """Return the `RankInfo` of n ranks, each with all cores of its node."""
    cpu = CpuShare(list(range(cores or n)), quota)
    return [RankInfo(rank % nodes, cpu, (bits or {}).get(rank, BITS)) for rank in range(n)]


CONFIG = Config(shards=4, combine="tree", engine="numpy")


def test_no_warning():
    """Ranks with a core and a shard each need none."""
    assert warnings(CONFIG, ranks(4), None) == []
    assert warnings(CONFIG, ranks(4, cores=2, nodes=2), None) == []
    same = SimpleNamespace(about={"machine": BITS | {"threads": 1}})
    assert warnings(CONFIG, ranks(1), same) == []
    # Version 0.1.0 did not record the vectors, and the same kernels round alike on any CPU.
    del same.about["machine"]["simd"]
    assert warnings(CONFIG, ranks(2, bits={1: BITS | {"cpu": "Y"}}), same) == []


@pytest.mark.parametrize(
    ("config", "infos", "message"),
    [
        (CONFIG, ranks(4, cores=2), "4 ranks of 1 thread share 2 cores"),
        (CONFIG, ranks(4, quota=2.9), r"share 2 cores \(of 4, by the CPU quota of the container"),
        (Config(shards=4, threads=2), ranks(2, cores=2), "2 ranks of 2 threads share 2 cores"),
        (CONFIG, ranks(7), "3 of 7 ranks have nothing to compute.*--shards 7 would use all ranks"),
        (CONFIG, ranks(3), "some of 3 ranks compute 2 of the 4 shards.* 2 ranks .*--shards 3 "),
        (Config(shards=16), ranks(5), "of 5 ranks compute 4 of the 16.* 4 ranks .*--shards 15 "),
        (Config(batch_size=6, shards=4), ranks(7), "4 ranks .* Only a batch of at least 7 rows "),
        (Config(batch_size=7, shards=4), ranks(7), "--shards 7 "),
        (Config(batch_size=10, shards=10), ranks(6), "--shards 6 "),
        (Config(shards=4, combine="allreduce"), ranks(1), "--combine allreduce is not exact"),
        (CONFIG, ranks(4, bits={2: BITS | {"simd": "AVX2"}}), "rank 2 has simd 'AVX2', unlike"),
        (
            CONFIG,
            [RankInfo(0, CpuShare([0]), MKL), RankInfo(0, CpuShare([1]), MKL | {"cpu": "Y"})],
            "has cpu 'Y'",
        ),
    ],
)
def test_warnings(config, infos, message):
    """One sentence each: the fact, and what it means."""
    (text,) = warnings(config, infos, None)
    assert re.search(message, text)


def test_a_run_resumed_on_other_hardware():
    """What differs from the hardware before is named, because the last bits may differ."""
    before = SimpleNamespace(about={"machine": BITS | {"numpy": "1.9", "threads": 1}})
    (text,) = warnings(CONFIG, ranks(1), before)
    assert "started with numpy '1.9'" in text


def test_introduction_of_ranks_on_different_cpus():
    """Whose common kernels may be slower than those of some."""
    config = Config(kernels="portable", shards=4)
    infos = [
        RankInfo(0, CpuShare([rank]), BITS, name) for rank, name in enumerate(["A", "A", "B", ""])
    ]
    lines = introduction(config, Network((4, 2)), infos, 1000, Progress.at_start(), False)
    assert lines[2] == (
        "the CPUs differ: portable kernels on all ranks, for the same bits; those native to them "
        "are A and B and others"
    )


def test_what_costs_of_other_targets_mean(tmp_path):
    """Those of logarithms; and of targets of which one is much larger, without a validation."""
    data = DataSet(samples.prices(tmp_path / "d.h5"))
    assert about_targets(data, has_validation=True) == []
    (line,) = about_targets(data, has_validation=False)
    assert "with --validation 0.1, all targets count alike" in line
    path = table_models.write_data(tmp_path / "t.h5", table_models.people(50), "regression")
    assert about_targets(DataSet(path), has_validation=False) == [
        "costs are of ln price, which is learned; R² is of price"
    ]
    assert about_targets(DataSet(samples.numbers(tmp_path / "n.h5")), has_validation=False) == []


def test_introduction():
    """Sizes, rows, ranks, sums, what a rank's death would cost, and where the run resumes."""
    network = Network((4, 3, 2))
    lines = introduction(CONFIG, network, ranks(2, nodes=2), 1000, Progress.at_start(), False)
    assert lines[0] == "4-3-2, 23 parameters, float32; 1,000 training rows, 4 steps an epoch"
    assert lines[1].startswith("2 ranks on 2 nodes, 4 shards, 1 thread a rank, 4 cores, numpy eng")
    assert lines[2:] == [
        "if a rank dies, the run ends; --resume continues from the last checkpoint"
    ]
    lines = introduction(CONFIG, network, ranks(2), 1000, Progress.at_start(), True)
    assert lines[2] == "if a rank dies, the others repeat the step in flight and continue"
    at = Progress.at_start()._replace(position=Position(1, 2, 6))
    lines = introduction(CONFIG, network, ranks(1), 1000, at, False)
    assert lines[2] == "resumed after 1 epoch and 2 steps"
    at = Progress.at_start()._replace(position=Position(30, 0, 120))
    assert introduction(CONFIG, network, ranks(1), 1000, at, False)[-1].startswith("nothing to do")


def test_epoch_line():
    """Costs and accuracies of the splits there are; a cost that was not finite is inf."""
    record = {
        "epoch": 3, "train_cost": 0.5, "train_accuracy": 0.75, "validation_cost": None,
        "validation_accuracy": None, "test_cost": None, "test_accuracy": 0.5, "seconds": 2.0,
        "samples_per_s": 1234.5,
    }  # fmt: skip
    assert epoch_line(record, 10, True) == (
        "epoch  3/10 | train cost 0.5000 accuracy 75.00% | test cost inf accuracy 50.00% | 2.0 s, "
        "1,234 samples/s"
    )
    others = {"test_f1:a_b\x1b": 0.25, "test_roc_auc": None, "test_confusion_matrix": [[1]]}
    line = epoch_line(record | others, 10, True)
    assert "accuracy 50.00% f1:'a_b\\x1b' 0.2500 roc auc undefined | 2.0 s" in line
    assert "test cost inf R² 0.5000 |" in epoch_line(record, 10, False)


def test_costs_in_any_unit():
    """Small and large ones are shown by their digits, not by their place."""
    texts = [format_cost(cost) for cost in (0.0, 0.5, 999_999, 5.71e8, 3e-9, float("inf"))]
    assert texts == ["0.0000", "0.5000", "999999.0000", "5.71e+08", "3e-09", "inf"]
    assert format_cost(123456789.0, 6) == "1.234568e+08"


def test_step_status():
    """Means over the rows that were not skipped."""
    progress = Progress.at_start()._replace(cost=6.0, correct=3, skipped=4)
    assert step_status(progress, 16, 1000.0, True) == "cost 0.5000 accuracy 25.00% 1,000 samples/s"
    assert step_status(progress, 16, 1000.0, 4).startswith("cost 0.5000 accuracy 6.25% ")
    assert step_status(progress, 4, 0.0, False) == "cost 6.0000 0 samples/s"


def test_rank_failure_message():
    """Who died, where the others continue, and how many they are."""
    text = rank_failure_message([2], 3, Position(2, 1, 9))
    assert text.startswith("rank 2 died. Training continues after 2 epochs and 1 step on 3 ranks;")
    assert rank_failure_message([0, 2], 1, Position()).startswith("ranks 0, 2 died.")
