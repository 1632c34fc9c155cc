"""Inject a fault into a rank: an exception, a kill, a hang, or a flipped bit.

DISTBP_TEST_FAULT=rank:place:kind:call selects it. `call` is the number of the call, from 1,
of the place's function that fails; `rank` may be `all`. The time of the fault is written to the
file DISTBP_TEST_FAULT_TIME. With DISTBP_TEST_FAULT_ONCE set, the fault is not injected again
when that file exists, as in ranks after a restart.
"""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

# name of a place: module and function
PLACES = {
    "launch": ("distbp.cli.main", "select_kernels"),  # before MPI starts
    "configuration": ("distbp.training.config", "Config.__post_init__"),
    "connect": ("distbp.parallel.topology", "connect"),
    "start": ("distbp.parallel.topology", "make_topology"),
    "shared memory": ("distbp.parallel.shared_memory", "_map_file"),
    "data": ("distbp.data.dataset", "DataSet.__init__"),
    "backprop": ("distbp.network.network", "Network.backprop"),
    "layer": ("distbp.network.network", "Network.backprop_layer"),
    "combine": ("distbp.parallel.reduction", "OrderedReduction.reduce_and_update"),
    "update": ("distbp.network.update", "Update.begin"),
    "commit": ("distbp.network.parameter_store", "ParameterStore.commit"),
    "evaluation": ("distbp.training.evaluation", "Evaluator.score"),
    "prediction": ("distbp.training.evaluation", "Evaluator.run"),
    "checkpoint": ("distbp.storage.run_directory", "write_checkpoint"),
    "rename": ("pathlib", "Path.replace"),
    "last save": ("distbp.training.recorder", "RunRecorder.on_end"),
    "summary": ("distbp.training.loop", "Run._report"),
}


def install(place: str, kind: str, call: str = "1") -> None:
    """Make the given call of a place's function fail."""
    module_name, name = PLACES[place]
    module = importlib.import_module(module_name)
    *owners, attribute = name.split(".")
    owner: Any = getattr(module, owners[0]) if owners else module
    function = getattr(owner, attribute)
    calls = 0

    def faulty(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == int(call) and not is_done():
            note_time()
            if kind == "flip":
                flip(*arguments)
            else:
                KINDS[kind]()
        return function(*arguments, **options)

    setattr(owner, attribute, faulty)


def is_done() -> bool:
    """Return whether the fault has happened already and must not happen again."""
    once = "DISTBP_TEST_FAULT_ONCE" in os.environ
    return once and os.path.exists(os.environ["DISTBP_TEST_FAULT_TIME"])


def note_time() -> None:
    with open(os.environ["DISTBP_TEST_FAULT_TIME"], "w") as file:
        file.write(repr(time.time()))


def error() -> None:
    raise RuntimeError("an injected fault")


def memory() -> None:
    raise MemoryError


def interrupt() -> None:
    raise KeyboardInterrupt


def data_error() -> None:
    from distbp.errors import DataError

    raise DataError("an injected data error")


def disk_full() -> None:
    raise OSError(28, "No space left on device")


def thread() -> None:
    """Raise an exception in another thread; this one continues."""
    threading.Thread(target=error, daemon=True).start()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def flip(store: Any) -> None:
    """Flip a bit of θ in the version that is about to become the current one."""
    theta = store.versions[1 - store.current][0]
    theta.view("u4")[-1] ^= 1 << 20


def sleep() -> None:
    time.sleep(1000)


def loop() -> None:
    while True:
        pass


KINDS: dict[str, Callable[[], None]] = {
    "error": error,
    "memory": memory,
    "interrupt": interrupt,
    "data_error": data_error,
    "disk_full": disk_full,
    "thread": thread,
    "kill": kill,
    "stop": stop,
    "sleep": sleep,
    "loop": loop,
    "exit0": lambda: sys.exit(0),
    "exit3": lambda: sys.exit(3),
}
