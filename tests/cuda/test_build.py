"""Where the CUDA module is built: CMake's own decision, without compiling anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

WANTED = Path(__file__).parents[2] / "csrc/cuda/wanted.cmake"
CMAKE = shutil.which("cmake")


def decide(folder, option, devices="", environment=None, *more):
    """Whether the module is wanted, and what CMake says."""
    script = folder / "script.cmake"
    script.write_text(f"include({WANTED.as_posix()})\nmessage(STATUS wanted=${{CBK_WANTS_CUDA}})\n")
    plain = {name: value for name, value in os.environ.items() if name != "CUDAARCHS"}
    done = subprocess.run(
        [CMAKE, f"-DCBOKERNELS_CUDA={option}", f"-DCBK_DEVICE_FILES={devices}", *more, "-P", str(script)],
        capture_output=True, text=True, check=True, env={**plain, **(environment or {})},
    )  # fmt: skip
    *said, wanted = done.stdout.splitlines()
    return wanted == "-- wanted=ON", said


@pytest.mark.skipif(CMAKE is None, reason="needs cmake in the PATH")
def test_where_the_module_is_built(tmp_path):
    there = tmp_path / "nvidiactl"
    there.touch()
    assert decide(tmp_path, "AUTO", f"{tmp_path}/dxg;{there}") == (True, [])
    assert decide(tmp_path, "ON", tmp_path / "none") == (True, [])
    assert decide(tmp_path, "OFF", there) == (False, [])
    assert decide(tmp_path, "AUTO", tmp_path / "none", {"CUDAARCHS": "90"}) == (True, [])
    assert decide(tmp_path, "AUTO", tmp_path / "none", None, "-DCMAKE_CUDA_ARCHITECTURES=90") == (True, [])
    wanted, said = decide(tmp_path, "AUTO", tmp_path / "none")
    assert not wanted
    assert len(said) == 1
    assert "no CUDA device" in said[0]
    assert "-DCBOKERNELS_CUDA=ON" in said[0]
