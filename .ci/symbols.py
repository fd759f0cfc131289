"""No function compiled for one instruction set may be the linker's choice for everyone.

    python symbols.py BUILD_DIR

Every weak symbol in a set's objects must lie in that set's own namespace.
"""

import pathlib
import subprocess
import sys

# a pointer to the C++ runtime's routine for exceptions: data, and the same for all sets
RUNTIME = "DW.ref.__gxx_personality_v0"

build = pathlib.Path(sys.argv[1])
sets = sorted(build.glob("CMakeFiles/cbk_*.dir"))
sets = [folder for folder in sets if folder.name != "cbk_core.dir"]
assert {"cbk_baseline.dir"} <= {folder.name for folder in sets}, f"no instruction set's objects under {build}"
checked, strays = 0, []
for folder in sets:
    name = folder.name.removeprefix("cbk_").removesuffix(".dir")
    for path in folder.rglob("*.o"):
        checked += 1
        table = subprocess.run(["nm", "-C", path], check=True, capture_output=True, text=True).stdout
        for line in table.splitlines():
            kind, _, symbol = line[17:].partition(" ")
            if kind in ("W", "V", "u") and f"cbk::{name}::" not in symbol and symbol != RUNTIME:
                strays.append(f"{path.name}: {symbol}")
assert checked >= len(sets), f"no objects under {build}"
if strays:
    sys.exit("weak symbols outside their set's namespace:\n  " + "\n  ".join(strays))
print(f"{checked} objects of {len(sets)} sets: no weak symbol leaves its namespace")
