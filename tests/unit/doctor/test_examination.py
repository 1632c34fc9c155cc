"""From facts to one table: hosts that differ, ranks that do not connect, areas without facts."""

import json
import re
from dataclasses import replace

import pytest
from machine_facts import AREAS, CORES, FOLDER, GB, HOSTS, SHARED, WORLD, ranks_of_two_hosts

from distbp.doctor.examination import Examination, judge
from distbp.doctor.facts import RankFacts, StorageFacts
from distbp.doctor.finding import Finding, Verdict, merge_hosts, problem, warning, worst
from distbp.doctor.table import table_lines, to_json

ALONE = Examination([RankFacts(0, "a", AREAS)], 2, True, WORLD)
ON_HOSTS = Examination(
    ranks_of_two_hosts(), 3, False, replace(HOSTS, ranks=3, clock_offsets_s=[0.0, 0.0, 0.0])
)


def found_by(examination, check):
    """Return the finding of a name."""
    (finding,) = [one for one in judge(examination) if one.check == check]
    return finding


@pytest.mark.parametrize("examination", [ALONE, ON_HOSTS], ids=["alone", "on hosts"])
def test_a_healthy_machine(examination):
    """Every line is ok, and every name is there once."""
    findings = judge(examination)
    assert worst(findings) == Verdict.OK, findings
    names = [one.check for one in findings]
    assert len(names) == len(set(names))
    assert {"mpi library", "cores", "cpu quota", "locks in runs", "reduction"} <= set(names)
    assert ("clocks" in names) == ("differences" in names) == (examination is ON_HOSTS)


def test_a_finding_on_one_host_names_it():
    ranks = ranks_of_two_hosts(shared_memory=replace(SHARED, free=GB // 50))
    finding = found_by(replace(ON_HOSTS, ranks=ranks), "/dev/shm")
    assert finding.verdict == "warning"
    assert finding.found == (
        "b: 20 MB free of 32 GB: too little for a large network; a: 31 GB free of 32 GB"
    )


def test_ranks_of_a_host_are_counted_together():
    """Two on the host a share its one core, one on b has one of its own."""
    one_core = AREAS | {"cores": replace(CORES, cores=[0], siblings=[[0]])}
    ranks = [RankFacts(n, host, one_core) for n, host in enumerate("aab")]
    finding = found_by(replace(ON_HOSTS, ranks=ranks), "cores")
    assert finding.verdict == "warning"
    assert finding.found.startswith("a: 2 ranks; EPYC: 1 core of 4: ranks share cores; b: ")


def test_ranks_that_do_not_connect():
    """The rest is examined as on one rank."""
    alone = Examination([RankFacts(0, "a", AREAS)], 3, False, None, "ended by SIGSEGV")
    finding = found_by(alone, "ranks")
    assert (finding.verdict, finding.check) == ("problem", "ranks")
    assert "3 ranks did not connect: ended by SIGSEGV" in finding.found
    assert found_by(alone, "matrix products").verdict == "ok"
    assert not [one for one in judge(alone) if one.check == "reduction"]


def test_without_any_ranks():
    """As without an MPI library."""
    names = [one.check for one in judge(Examination([RankFacts(0, "a", AREAS)]))]
    assert "ranks" not in names
    assert "matrix products" in names


def test_an_area_that_did_not_answer_is_a_problem():
    """It is named, and only what depends on it is left out."""
    areas = {name: facts for name, facts in AREAS.items() if name != "storage"}
    silent = RankFacts(0, "a", areas, {"storage": "no answer within 12 s"})
    findings = judge(Examination([silent]))
    assert findings[0] == problem(
        "storage", "no answer within 12 s",
        "Choose other folders: this file system does not respond.",
    )  # fmt: skip
    assert not [one for one in findings if "folder" in one.check]
    assert [one for one in findings if one.check == "cores"]


def test_a_folder_that_cannot_be_written_is_one_line():
    """What cannot be tried there is left out."""
    areas = AREAS | {"storage": StorageFacts([FOLDER, replace(FOLDER, folder="b", error="full")])}
    names = [one.check for one in judge(Examination([RankFacts(0, "a", areas)]))]
    assert [name for name in names if name.endswith(" b")] == ["folder b"]
    assert "locks in runs" in names


def test_many_hosts_are_not_all_listed():
    findings = [(f"n{i}", Finding("load", "1.0")) for i in range(20)]
    findings += [(f"m{i}", warning("load", f"{i}.5", "End others.")) for i in range(5)]
    merged = merge_hosts(findings)
    assert merged == warning("load", "m0: 0.5; m1: 1.5; m2: 2.5; and 3 more", "End others.")
    assert merge_hosts(findings[:20]) == Finding("load", "1.0")
    merged = merge_hosts([*findings[:20], ("z", Finding("load", "2.0"))])
    assert merged.found == "n0, n1, n2 and 17 more: 1.0; z: 2.0"


FINDINGS = [
    Finding("cores", "4 of 4"),
    warning("load", "3.4 processes " * 8 + "end", "End them."),
    problem("hdf5 in runs", "no locks", "Mount it with locks."),
]


def test_the_table_has_a_line_for_each_finding():
    """Unless it is on a terminal, where lines are wrapped."""
    lines = table_lines(FINDINGS)
    assert lines[0] == "cores         ok       4 of 4"
    assert lines[1].endswith("end. End them.")
    assert lines[2:] == [
        "hdf5 in runs  problem  no locks. Mount it with locks.", "",
        "3 checks: 1 problem, 1 warning",
    ]  # fmt: skip
    assert table_lines(FINDINGS[:1])[-1] == "1 checks: all ok"


def test_the_table_on_a_terminal():
    """As wide as it is, with coloured verdicts."""
    lines = table_lines(FINDINGS, 80)
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in lines]
    assert max(map(len, plain)) <= 80
    assert plain[2].startswith(" " * 23 + "3.4") or plain[2].startswith(" " * 23 + "processes")
    assert "\x1b[31mproblem\x1b[0m" in "".join(lines)


def test_json_has_the_documented_keys():
    printed = json.loads(json.dumps(to_json(ON_HOSTS, FINDINGS)))
    assert list(printed) == [
        "schema", "distbp", "verdict", "ranks", "hosts", "findings", "facts",
    ]  # fmt: skip
    assert (printed["schema"], printed["verdict"]) == (1, "problem")
    assert (printed["ranks"], printed["hosts"]) == (3, ["a", "b"])
    assert printed["findings"][2] == {
        "check": "hdf5 in runs", "found": "no locks", "verdict": "problem",
        "remedy": "Mount it with locks.",
    }  # fmt: skip
    assert set(printed["facts"]) == {"ranks", "world"}
    assert set(printed["facts"]["ranks"][0]) == {"rank", "host", "areas", "failures"}
