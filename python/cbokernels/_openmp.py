"""Loads the compiled CPU module with threads that do not keep their cores busy for long while they wait.

OpenMP's runtime library reads its settings when it is loaded, so they stand in the environment just for that.
A runtime that another package has loaded before is as it is.
"""

import os

# How long an idle thread spins. GCC: turns of a loop, 0.1 ms instead of several. LLVM: 1 ms instead of 200.
_SETTINGS = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}

_ours = [] if "OMP_WAIT_POLICY" in os.environ else [name for name in _SETTINGS if name not in os.environ]
os.environ.update({name: _SETTINGS[name] for name in _ours})
try:
    from . import _cpu as _cpu
finally:
    for _name in _ours:
        del os.environ[_name]
