"""The example of users' own parts: trained, restarted, resumed and evaluated as the docs say."""

import shutil

from ranks import ROOT, Job, command_of, distbp, fault, metrics

from distbp.own_parts import PARTS_VARIABLE

NAMES = {"activation": "Mish", "cost": "FocalCost", "optimizer": "Lion", "schedule": "Sqrt",
         "metrics": "TopTwo", "callbacks": "StopAtAccuracy"}  # fmt: skip
PARTS = [word for kind, name in NAMES.items() for word in (f"--{kind}", f"my_parts:{name}")]
ALLOWED = {PARTS_VARIABLE: "my_parts"}


def test_the_example(tmp_path, data):
    """One rank, and two that are restarted: the same bits; files run no code by themselves."""
    source = tmp_path / "my_parts.py"
    shutil.copy(ROOT / "scripts" / "examples" / "my_parts.py", source)
    words = ["train", data["digits"], *PARTS, "--learning-rate", 0.01, "--epochs", 20]
    one = distbp(*words, "--out", "one", folder=tmp_path)
    assert "stopped early: by a callback" in one.out
    once = {"DISTBP_TEST_FAULT_ONCE": "1"}
    job = Job(
        command_of([*words, "--out", "two", "--ranks", 2, "--restarts", 2, "--stall-limit", "9s"]),
        tmp_path,
        fault(tmp_path, "all", "update", "kill", 7) | once,
    )
    two = job.wait()
    assert two.status == 0, str(two)
    assert "Restarting from" in two.err, str(two)
    assert metrics(tmp_path / "two") == metrics(tmp_path / "one")
    assert "test_my_parts:TopTwo" in metrics(tmp_path / "one")[0]

    refused = distbp("evaluate", "one", data["digits"], folder=tmp_path, status=2)
    assert "Set DISTBP_PARTS=my_parts if you trust it" in refused.err
    evaluated = distbp("evaluate", "one", data["digits"], folder=tmp_path, environment=ALLOWED)
    assert "my_parts:TopTwo" in evaluated.out

    source.write_text(source.read_text().replace("0.99 * old[1]", "0.98 * old[1]"))
    evaluated = distbp("evaluate", "one", data["digits"], folder=tmp_path, environment=ALLOWED)
    assert "The source of my_parts:Lion has changed since one was trained" in evaluated.err
    words = ("train", "--resume", "one", "--epochs", 21)
    changed = distbp(*words, folder=tmp_path, environment=ALLOWED, status=2)
    assert "The source of my_parts:Lion has changed since the run was started" in changed.err
    source.unlink()
    missing = distbp(*words, folder=tmp_path, environment=ALLOWED, status=2)
    assert "There is no module 'my_parts'" in missing.err
