"""Jobs of several ranks, for tests of MPI. What their ranks do is in ranks.py."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MPIEXEC = shutil.which(
    "mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
)
needs_mpi = pytest.mark.skipif(
    importlib.util.find_spec("mpi4py") is None or MPIEXEC is None,
    reason="needs mpi4py and an MPI, as pip install 'cbokernels[mpi]' mpich brings them",
)
LONGEST = 120  # seconds of a job that is not to end by itself; one that fails ends in a tenth of it


def launch(ranks, *arguments, program=("-m", "mpi4py", "ranks.py"), timeout=LONGEST):
    """A job of so many ranks; its process, ended."""
    command = [MPIEXEC, "-n", str(ranks), sys.executable, *program, *map(str, arguments)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CBK_RANKS": str(ranks),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, cwd=Path(__file__).parent
    )


def succeed(*arguments, **options):
    done = launch(*arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done
