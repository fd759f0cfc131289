"""What a kernel asks of a card: the instructions of each of its loops, counted in the compiled code.

    python bench/gpu/instructions.py csrc/update/update_cuda.cu 'step_rows.*E0ELb0ELb1Ef'

No card is needed, but nvcc and nvdisasm (`pip install nvidia-cuda-nvdisasm`). A loop is what lies between a
label and a branch back to it, with all that is seldom done.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["-std=c++17", "-O3", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true", "-cubin"]


def disassembler() -> str:
    """Path of nvdisasm: of the toolkit, or of its package from PyPI."""
    found = shutil.which("nvdisasm")
    package = importlib.util.find_spec("nvidia")
    places = package.submodule_search_locations if package and package.submodule_search_locations else ()
    for place in () if found else places:
        found = next((str(p) for p in Path(place).glob("*/bin/nvdisasm")), found)
    if found is None:
        sys.exit("instructions.py: no nvdisasm was found: pip install nvidia-cuda-nvdisasm")
    return found


def kernels(source: Path, architecture: str) -> dict[str, list[str]]:
    """Lines of code, labels and instructions, of each kernel of a source file."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernels.cubin"
        compiler = ["nvcc", *FLAGS, f"-arch=sm_{architecture}", "-o", binary, source]
        subprocess.run(compiler, check=True, cwd=ROOT)
        text = subprocess.check_output([disassembler(), "-c", binary], text=True)
    found = {}
    for section in re.split(r"\n(?=\t\.section\t\.text\.)", text)[1:]:
        name = re.search(r"\.text\.([^,\s]+)", section)
        lines = [re.sub(r"/\*[0-9a-f]+\*/", "", line).strip() for line in section.splitlines()]
        assert name
        found[name[1]] = [line for line in lines if line.endswith(";") or line.startswith(".L")]
    return found


def loops(lines: list[str]) -> list[tuple[int, int]]:
    """First and last line of each loop."""
    labels = {line.rstrip(":"): i for i, line in enumerate(lines) if line.startswith(".L")}
    branches = [(i, re.search(r"BRA.*`\((\.L\w+)\)", line)) for i, line in enumerate(lines)]
    starts = [(labels.get(branch[1], i), i) for i, branch in branches if branch]
    return [(start, end) for start, end in starts if start < end]


def counted(lines: list[str]) -> collections.Counter[str]:
    """How often each instruction occurs."""
    found = (re.match(r"(?:@!?U?P\w+ )?([A-Z][A-Z0-9_]*)", line) for line in lines if line.endswith(";"))
    return collections.Counter(match[1] for match in found if match)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a .cu file")
    parser.add_argument("kernel", help="a regular expression: part of the kernels' mangled names")
    parser.add_argument("--arch", default="90")
    arguments = parser.parse_args()
    for name, lines in kernels(arguments.source, arguments.arch).items():
        if not re.search(arguments.kernel, name):
            continue
        print(f"{name}: {sum(counted(lines).values())} instructions")
        for start, end in loops(lines):
            counts = counted(lines[start : end + 1])
            most = ", ".join(f"{number} {code}" for code, number in counts.most_common(8))
            print(f"  lines {start} to {end}: {sum(counts.values())}: {most}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
