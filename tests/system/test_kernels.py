"""Kernels: the same bits on every x86-64 CPU, one digest for a mixture of CPUs, and resumes."""

import re

import pytest
from ranks import ROOT, Job, command_of, distbp, metrics

from distbp import kernels
from distbp.parallel import host

AVX2 = "avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"
ZEN_4, XEON = f"AuthenticAMD 25 {AVX512}", f"GenuineIntel 6 {AVX512}"
# The digests of the README, and the versions that they hold for.
VERSIONS = ("2.4.6", "openblas 0.3.31")
DIGITS = ("--optimizer", "adam", "--learning-rate", "0.003", "--kernels", "portable", "--epochs", 5)
DIGESTS = {
    "float32": "57435ca9a10d7ab54e7a34011b6db84cfc8183aed256d9eb4344f2bdd27167b0",
    "float64": "5225a338c532046ab94fc25c50902390097580bb1a44a4a0b5da2f6f7aea6b18",
}
"""One digest on every x86-64 CPU with AVX2: whatever machine the tests get."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Return the data set of scripts/demo."""
    path = tmp_path_factory.mktemp("digits") / "digits.h5"
    words = ("import", ROOT / "scripts" / "digits.npz", path, "--scaling", "standardize")
    distbp(*words, "--test-fraction", 0.2, folder=path.parent)
    return path


def can_run(name):
    return kernels.Cpu.detect({}).can_run(name)


def kernels_of(ended):
    """Return the kernels in the first lines of a run."""
    return re.search(r", (\w+) kernels; ", ended.out)[1]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("dtype", DIGESTS)
def test_the_portable_digest(tmp_path, digits, dtype, n):
    """Literally, on any CPU; the README says for which versions."""
    platform = host.numeric_platform()
    if platform["numpy"] != VERSIONS[0] or not platform["blas"].startswith(VERSIONS[1]):
        pytest.skip(f"other versions: NumPy {platform['numpy']}, {platform['blas']}")
    ended = distbp("train", digits, "--out", "run", *DIGITS, "--dtype", dtype, folder=tmp_path, n=n)
    assert ended.digest == DIGESTS[dtype]
    assert DIGESTS[dtype] in (ROOT / "README.md").read_text()


def test_portable_bits_do_not_depend_on_the_kernels_of_numpy(tmp_path, digits):
    """On a CPU without AVX-512 they are disabled anyway."""
    words = ("train", digits, "--dtype", "float64", "--epochs", 1, "--kernels", "portable", "--out")
    lines = [
        distbp(*words, f"run{i}", folder=tmp_path, environment=environment).digest
        for i, environment in enumerate([{}, {"DISTBP_TEST_CPU": XEON}])
    ]
    assert len(set(lines)) == 1


@pytest.mark.skipif(not can_run("Haswell"), reason="needs AVX2")
def test_kernels_are_named_and_kept(tmp_path, digits):
    """In the first lines, config.toml and info; a resume and a use take the run's own."""
    words = ("train", digits, "--out", "run", "--hidden", 30, "--epochs", 1)
    started = distbp(*words, "--kernels", "Sandybridge", folder=tmp_path)
    assert kernels_of(started) == "Sandybridge"
    assert 'kernels = "Sandybridge"' in (tmp_path / "run" / "config.toml").read_text()
    assert re.search(r"kernels +Sandybridge\n", distbp("info", "run", folder=tmp_path).out)
    resumed = distbp("train", "--resume", "run", "--epochs", 2, folder=tmp_path, n=2)
    assert kernels_of(resumed) == "Sandybridge"
    assert resumed.err == ""
    for model in ("run", "run/best.h5", next((tmp_path / "run/checkpoints").iterdir())):
        assert distbp("evaluate", model, digits, folder=tmp_path).err == ""
    again = distbp(
        "train", "--resume", "run", "--epochs", 3, "--kernels", "portable", folder=tmp_path
    )
    assert kernels_of(again) == "portable"
    assert re.search(r"the run was started with .*blas 'openblas \S+ Sandybridge'", again.err)
    moved = tmp_path / "model.h5"
    (tmp_path / "run" / "last.h5").rename(moved)
    copied = distbp(
        "evaluate", moved, digits, folder=tmp_path, environment={"OPENBLAS_CORETYPE": "Nehalem"}
    )
    assert "was trained with the kernels portable, and is used with Nehalem" in copied.err


def test_a_run_whose_kernels_are_not_available(tmp_path, digits):
    """It goes on with native ones, and says so."""
    distbp("train", digits, "--out", "run", "--epochs", 1, "--kernels", "Nehalem", folder=tmp_path)
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace("Nehalem", "SkylakeX"))
    old = {"DISTBP_TEST_CPU": f"GenuineIntel 6 {AVX2}", "OPENBLAS_CORETYPE": "Haswell"}
    ended = distbp("train", "--resume", "run", "--epochs", 2, folder=tmp_path, environment=old)
    assert re.search(r"the run was started with .*blas 'openblas \S+ Nehalem'", ended.err)
    assert kernels_of(ended) == "Haswell"


def test_a_variable_of_the_user_is_left_alone(tmp_path, digits):
    """Natively it is used; a contradiction is refused in one sentence."""
    variable = {"OPENBLAS_CORETYPE": "Nehalem"}
    words = ("train", digits, "--epochs", 1, "--out")
    ended = distbp(*words, "run", folder=tmp_path, environment=variable)
    assert kernels_of(ended) == "Nehalem"
    refused = distbp(
        *words, "no", "--kernels", "portable", folder=tmp_path, environment=variable, status=2
    )
    assert (
        "distbp: --kernels portable has no effect: OpenBLAS uses the kernels Nehalem."
        in refused.err
    )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("n", [None, 2])
def test_unknown_kernels_are_refused(tmp_path, digits, n):
    """OpenBLAS ignores a name that it does not know."""
    words = ("train", digits, "--out", "run", "--kernels", "Skylark")
    ended = distbp(*words, folder=tmp_path, n=n, status=None)
    assert ended.err.count("distbp: --kernels Skylark has no effect: OpenBLAS uses") == 1


def test_kernels_that_the_cpu_cannot_run_are_refused_once(tmp_path, digits):
    """On all ranks, though only one of them has the old CPU."""
    words = ("train", digits, "--out", "run", "--kernels", "SkylakeX")
    ended = on_different_cpus(tmp_path, words, [XEON, f"AuthenticAMD 23 {AVX2}"], status=None)
    assert ended.err.count("distbp: --kernels SkylakeX needs a CPU with avx512bw") == 1


@pytest.mark.skipif(not can_run("Haswell"), reason="needs AVX2")
def test_ranks_with_different_cpus_agree(tmp_path, digits):
    """The digest is that of `portable`, and the first lines say so."""
    words = ("train", digits, "--epochs", 2, "--out")
    alone = distbp(*words, "alone", "--kernels", "portable", folder=tmp_path)
    mixed = on_different_cpus(tmp_path, (*words, "mixed"), [ZEN_4, XEON, ZEN_4])
    assert mixed.digest == alone.digest
    assert "unlike rank 0" not in mixed.err
    assert (
        "the CPUs differ: portable kernels on all ranks, for the same bits; those native to them "
        "are Haswell and SkylakeX\n" in mixed.out
    )
    # The run keeps them, on ranks of one kind as well.
    resumed = distbp("train", "--resume", "mixed", "--epochs", 3, folder=tmp_path, n=2)
    assert kernels_of(resumed) == "portable"
    whole = distbp(
        *words[:2], "--epochs", 3, "--out", "whole", "--kernels", "portable", folder=tmp_path
    )
    assert resumed.digest == whole.digest
    assert metrics(tmp_path / "mixed") == metrics(tmp_path / "whole")


def on_different_cpus(folder, words, cpus, status=0):
    """Run distbp on ranks that have these CPUs, as far as they know."""
    cases = "".join(f'{rank}) DISTBP_TEST_CPU="{cpu}" ;;\n' for rank, cpu in enumerate(cpus))
    wrapper = folder / "rank.sh"
    wrapper.write_text(
        "#!/bin/sh\ncase ${PMI_RANK:-$OMPI_COMM_WORLD_RANK} in\n"
        f'{cases}esac\nexport DISTBP_TEST_CPU\nexec "$@"\n'
    )
    wrapper.chmod(0o755)
    command = command_of(words, len(cpus))
    command.insert(3, str(wrapper))
    ended = Job(command, folder).wait()
    assert ended.status == status if status is not None else ended.status != 0, str(ended)
    return ended
