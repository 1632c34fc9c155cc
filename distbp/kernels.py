"""The kernels: which machine code multiplies matrices, and computes elementwise functions.

Kernels differ in speed, and in how they round: the same kernels give the same bits on every
CPU, other kernels other bits. OpenBLAS chooses its kernels when NumPy is loaded, by the CPU or
by the variable OPENBLAS_CORETYPE, and NumPy its own, of which only those for AVX-512 round
differently (exp in float64, for one). So this module imports no NumPy, and the command line
calls `select` before anything does. The choice of the user is

    native      the fastest of OpenBLAS for this family of CPUs, by the table below
    portable    Haswell's, and no AVX-512 in NumPy: what every x86-64 server CPU since 2013
                can run (AVX2 and FMA)
    NAME        those that OpenBLAS knows by this name, such as SkylakeX

**The table** is measured, by `scripts/bench/kernels`. GFLOP/s of one core in float32, NumPy's
OpenBLAS 0.3.31, products of the forward pass / BP4 / BP2 of a layer (rows × n_in × n_out):

    CPU            kernels     10×784×30     32×784×100    128×784×100   128×1024×1024
    AMD Zen 4      SkylakeX    49            57/91/90      83/99/100     81/90/90
    (family 25)    Haswell     27 to 40      82/93/92      96/101/104    101/104/105
    AMD Zen 5      SkylakeX    152/155/174   101/189/187   176/220/226   187/228/199
    (family 26)    Haswell     40/77/70      101/115/112   118/120/126   127/128/128

Zen 4 executes 512-bit operations in two halves: there Haswell's kernels are the faster ones
but for the smallest products, on Zen 5 SkylakeX's. Intel's CPUs with AVX-512 use SkylakeX's and
CPUs with AVX2 alone Haswell's: this is also what the OpenBLAS of NumPy's wheels would choose,
but builds with more kernels would not, such as Cooperlake's and Zen's. Without AVX2, and on
ARM, the choice is left to OpenBLAS.

**Other builds.** The OpenBLAS 0.3.21 of Debian 12 obeys the variable, too, and returned the
bits of 0.3.31 with Haswell's and with SkylakeX's kernels, where it was tried. Debian's BLIS and
reference BLAS ignore the variable; so does MKL. There `native` is whatever the library does,
and any other choice is refused.

**ARM.** The same digests came out on 1 to 3 ranks of both MPIs under an emulator (QEMU 10 with
OpenBLAS's ARMV8 kernels; its SME kernels returned NaN there).

A `Cpu` is what the choice depends on. `common_kernels` is the choice for the ranks of a run
together, of which each may have another CPU. What other BLAS libraries do is not known here:
`parallel.host` says which kernels are loaded in the end.
"""

import re
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distbp.errors import ConfigError

NATIVE, PORTABLE = "native", "portable"
PORTABLE_KERNELS = "Haswell"
_AVX512_KERNELS = "SkylakeX"
CORETYPE_VARIABLE = "OPENBLAS_CORETYPE"
NUMPY_VARIABLE = "NPY_DISABLE_CPU_FEATURES"
# What `select` has chosen: processes that this one starts choose anew, unlike after a user's
# choice.
_SELECTED_VARIABLE = "DISTBP_KERNELS"
# Replaces the CPU of this machine in tests: "VENDOR FAMILY FLAG FLAG …".
_TEST_CPU_VARIABLE = "DISTBP_TEST_CPU"
_ZEN_4_FAMILY = 25

_AVX2 = frozenset({"avx2", "fma"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
# What a CPU must have to run kernels: OpenBLAS does not check, the process would be killed.
_REQUIRED_FLAGS: dict[str, frozenset[str]] = {
    "haswell": _AVX2, "zen": _AVX2, "skylakex": _AVX512, "cooperlake": _AVX512,
    "sapphirerapids": _AVX512, "sandybridge": frozenset({"avx"}),
    "nehalem": frozenset({"sse4_2"}), "prescott": frozenset({"sse2"}),
}  # fmt: skip
# NumPy's names of its AVX-512 code, until version 2.3 and since.
_NUMPY_AVX512_OLD = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
_NUMPY_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR"


@dataclass(frozen=True)
class Cpu:
    """What the choice of kernels depends on.

    Attributes
    ----------
    vendor : str
        Such as AuthenticAMD or GenuineIntel; '' if it is unknown.
    family : int
    flags : frozenset of str
        Those of its instruction sets, by Linux's names.
    """

    vendor: str = ""
    family: int = 0
    flags: frozenset[str] = frozenset()

    @classmethod
    def detect(cls, environ: Mapping[str, str]) -> "Cpu":
        """Return this machine's CPU, or the one that tests put in its place."""
        if _TEST_CPU_VARIABLE in environ:
            return cls.from_text(environ[_TEST_CPU_VARIABLE])
        try:
            return cls.from_cpuinfo(Path("/proc/cpuinfo").read_text("utf-8", "replace"))
        except OSError:  # macOS
            return cls()

    @classmethod
    def from_cpuinfo(cls, text: str) -> "Cpu":
        """Return the CPU that the text of /proc/cpuinfo describes; on ARM it has no vendor."""
        fields = dict(re.findall(r"^(vendor_id|cpu family|flags)\s*:[ \t]*(.*)$", text, re.M))
        family, known = fields.get("cpu family", ""), _AVX512.union(*_REQUIRED_FLAGS.values())
        return cls(
            fields.get("vendor_id", ""),
            int(family) if family.isdecimal() else 0,
            known & frozenset(fields.get("flags", "").split()),
        )

    @classmethod
    def from_text(cls, text: str) -> "Cpu":
        """Return the CPU that `to_text` has described."""
        vendor, family, *flags = text.split()
        return cls(vendor.strip("-"), int(family), frozenset(flags))

    def to_text(self) -> str:
        """Return a description in one line of ASCII, for `from_text`."""
        return " ".join([self.vendor or "-", str(self.family), *sorted(self.flags)])

    def can_run(self, kernels: str) -> bool:
        """Return whether this CPU has the instructions of some kernels, as far as is known."""
        required = _REQUIRED_FLAGS.get(kernels.lower(), frozenset())
        return required <= self.flags or not self.vendor


def native_kernels(cpu: Cpu) -> str:
    """Return the name of the fastest kernels for a CPU; '' leaves the choice to OpenBLAS."""
    if not cpu.vendor or not cpu.can_run(PORTABLE_KERNELS):
        return ""
    is_zen_4 = cpu.vendor == "AuthenticAMD" and cpu.family <= _ZEN_4_FAMILY
    return _AVX512_KERNELS if cpu.can_run(_AVX512_KERNELS) and not is_zen_4 else PORTABLE_KERNELS


def common_kernels(cpus: Sequence[Cpu]) -> str:
    """Return the choice that replaces `native` for ranks on these CPUs together.

    The kernels that are native to all; if there are none, `portable` where all CPUs can run
    it; '' leaves the choice to OpenBLAS on each.
    """
    natives = {native_kernels(cpu) for cpu in cpus}
    if len(natives) == 1:
        return natives.pop()
    return "" if "" in natives else PORTABLE


def is_set_by_user(environ: Mapping[str, str]) -> bool:
    """Return whether the kernels stand in the environment, and not by `select`."""
    value = environ.get(CORETYPE_VARIABLE)
    return value is not None and value != openblas_name(selected(environ))


def selected(environ: Mapping[str, str]) -> str:
    """Return what `select` has chosen, for this process or one that started it; '' if nothing."""
    return environ.get(_SELECTED_VARIABLE, "")


def select(choice: str, cpus: Sequence[Cpu], environ: MutableMapping[str, str]) -> None:
    """Have the chosen kernels used, in this process and those that it starts.

    To be called before NumPy is loaded; afterwards it has no effect on this process. A
    variable that the user has set is left alone.

    Parameters
    ----------
    choice : str
        `native`, `portable` or a name.
    cpus : sequence of Cpu
        Those of all ranks.
    environ : mapping
        The environment, which is changed.

    Raises
    ------
    ConfigError
        A CPU cannot run these kernels: the process would be killed.
    """
    if is_set_by_user(environ):
        return
    _forget_selection(environ)
    chosen = common_kernels(cpus) if choice == NATIVE else choice
    name = openblas_name(chosen)
    unable = next((cpu for cpu in cpus if not cpu.can_run(name)), None)
    if unable is not None:
        missing = ", ".join(sorted(_REQUIRED_FLAGS[name.lower()] - unable.flags))
        raise ConfigError(
            f"--kernels {choice} needs a CPU with {missing}, which {unable.vendor} family "
            f"{unable.family} lacks. Use --kernels native."
        )
    if chosen:
        environ[CORETYPE_VARIABLE], environ[_SELECTED_VARIABLE] = name, chosen
    if chosen == PORTABLE and "avx512f" in set().union(*(cpu.flags for cpu in cpus)):
        environ.setdefault(NUMPY_VARIABLE, numpy_avx512_names())


def _forget_selection(environ: MutableMapping[str, str]) -> None:
    """Remove what the process that started this one has selected for itself."""
    if environ.pop(_SELECTED_VARIABLE, None) is not None:
        environ.pop(CORETYPE_VARIABLE, None)
        if environ.get(NUMPY_VARIABLE) == numpy_avx512_names():
            del environ[NUMPY_VARIABLE]


def openblas_name(choice: str) -> str:
    """Return the name that OpenBLAS has for a choice."""
    return PORTABLE_KERNELS if choice == PORTABLE else choice


def numpy_avx512_names() -> str:
    """Return NumPy's names of its code for AVX-512, as its variable takes them."""
    from importlib import metadata  # slow to import, and seldom needed

    major, minor = (int(part) for part in metadata.version("numpy").split(".")[:2])
    return _NUMPY_AVX512 if (major, minor) >= (2, 4) else _NUMPY_AVX512_OLD
