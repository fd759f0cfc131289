"""What the CUDA side of this installation can do. The compiled module `_cuda` is optional.

Whether there is a card is looked up once per process, and without initialising CUDA here, since a process
that has done so cannot `fork` any more: a short-lived child asks the driver and runs a kernel on each card.
Where this process has initialised CUDA already, or is about to, it asks the driver itself, and whether the
cards can run this build's code is judged by their compute capability. Without a driver nothing is asked.
"""

from __future__ import annotations

import functools
import importlib
import re
import sys
from types import ModuleType
from typing import Any

from .errors import CudaUnavailableError

_DRIVERS = {11: 450, 12: 525, 13: 580}  # the oldest for each CUDA
_SECONDS = 60  # for a driver to answer
_CHILD = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(json.dumps(module.look(True)))
"""
_FORKED = (
    "this process was forked from one that had used CUDA, and CUDA does not survive that: start workers with "
    "multiprocessing's 'spawn' or 'forkserver'"
)

_found: tuple[Any, dict[str, Any], str | None] | None = None  # a module, its findings, the reason in them


@functools.cache
def _load() -> ModuleType | str:
    """The compiled module, or why there is none."""
    try:
        return importlib.import_module("cbokernels._cuda")
    except ModuleNotFoundError:
        return (
            "this build of cbokernels has no CUDA kernels; to have them, build it with nvcc in the PATH and "
            "pip's option --config-settings=cmake.define.CBOKERNELS_CUDA=ON"
        )
    except ImportError as error:
        return f"the CUDA kernels of this build cannot be loaded: {error}"


def _module() -> ModuleType | None:
    loaded = _load()
    return None if isinstance(loaded, str) else loaded


def module() -> Any:
    """The compiled kernels, about to be used; CudaUnavailableError where they cannot be."""
    reason = reason_against_use()
    if reason is not None:
        raise CudaUnavailableError(f"CUDA is not available: {reason}")
    return _module()


def device_count() -> int:
    """Number of CUDA devices the kernels can run on; 0 without a CUDA build, a driver or a fitting card.

    Looked up once; does not initialise CUDA in this process, which may `fork` afterwards.
    """
    return len(devices())


def is_available() -> bool:
    """Whether CUDA arrays and `device="cuda"` can be used.

    Looked up once; does not initialise CUDA in this process, which may `fork` afterwards.
    """
    return unavailable_reason() is None


def unavailable_reason() -> str | None:
    """Why CUDA cannot be used, for messages; None where it can.

    Looked up once; does not initialise CUDA in this process, which may `fork` afterwards.
    """
    return _reason(use=False)


def reason_against_use() -> str | None:
    """The same where CUDA is about to be used here, so that no child need be asked."""
    return _reason(use=True)


def _reason(use: bool) -> str | None:
    kernels = _module()
    if kernels is None:
        return str(_load())
    return _FORKED if kernels.is_forked() else _look(kernels, use)[1]


def _look(kernels: Any, use: bool) -> tuple[dict[str, Any], str | None]:
    """What the driver says, and of each card why it cannot be used; and the reason against CUDA in that."""
    global _found
    if _found is None or _found[0] is not kernels:
        state = kernels.driver_state()
        if state == "absent":
            found: dict[str, Any] = {"driver": 0}
        else:
            asked = _ask_a_child(kernels.__file__) if state == "idle" and not use else None
            found = kernels.look(False) if asked is None else asked
        for card in found.get("cards", ()):
            card["trouble"] = card["trouble"] or _lack_of_code(card, found["architectures"])
        _found = kernels, found, _words(found)
    return _found[1:]


def _ask_a_child(path: str) -> dict[str, Any] | None:
    """The findings of a process of its own; None where Python cannot be started like that."""
    if not sys.executable or getattr(sys, "frozen", False):
        return None
    import json
    import subprocess

    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD, path],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except OSError:
        return None
    except subprocess.TimeoutExpired:
        return {"failed": f"the driver did not answer within {_SECONDS} seconds"}
    if done.returncode < 0:
        return {"failed": f"a process that asked the driver was ended by signal {-done.returncode}"}
    if done.returncode > 0:
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _words(found: dict[str, Any]) -> str | None:
    """The reason against CUDA in what was found."""
    if "failed" in found:
        return str(found["failed"])
    if not found["driver"]:
        return "no NVIDIA driver is installed (libcuda.so.1 was not found)"
    driver, runtime = found["driver"], found["runtime"]
    if found["name"] == "cudaErrorInsufficientDriver":
        oldest = _DRIVERS.get(runtime // 1000)
        return (
            f"the driver (CUDA {_version(driver)}) is older than CUDA {_version(runtime)}, which this build "
            f"needs: install driver {oldest or 'of that CUDA'} or newer"
        )
    if found["error"]:
        return f"the driver (CUDA {_version(driver)}) says: {found['words']} ({found['name']})"
    troubles = [card["trouble"] for card in found["cards"]]
    if all(troubles):
        return "; ".join(dict.fromkeys(troubles)) or "the driver reports no CUDA device"
    return None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _lack_of_code(card: dict[str, Any], architectures: str) -> str:
    """Why this build has no code for a card, as CMake names what it was compiled for; empty where it has."""
    major, minor = card["capability"]
    for name in architectures.split():
        made = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", name)
        if made is None:  # not known here: the first kernel will tell
            return ""
        oldest, letter, kind = (int(made[1]), int(made[2])), made[3], made[4]
        binary = major == oldest[0] and (minor == oldest[1] if letter == "a" else minor >= oldest[1])
        compiled_later = not letter and (major, minor) >= oldest
        if (binary and kind != "-virtual") or (compiled_later and kind != "-real"):
            return ""
    return (
        f"{card['name']} is sm_{major}{minor}, and this build has code for {architectures}: build cbokernels "
        f"with CUDAARCHS={major}{minor}"
    )


def devices() -> list[str]:
    """The names of the devices that the kernels can run on, with their compute capability."""
    if unavailable_reason() is not None:
        return []
    cards = _look(_module(), False)[0]["cards"]
    return ["{} (sm_{}{})".format(c["name"], *c["capability"]) for c in cards if not c["trouble"]]
