"""What one warp issues in a kernel, counted by following its compiled code: no card is needed.

    python bench/gpu/executed.py                  # workload B's risks on tensor cores, in every precision

Integers, addresses and predicates are computed for 32 lanes as SASS says; numbers that are read, and what is
made of them in floating point, are unknown (sass.py). What follows the last wait for copies is the epilogue:
activations, the second layer, the losses and their sums. Branches on unknown numbers are counted: what they
might skip is taken for executed, unless it calls a function (divisions of seldom seen numbers). nvcc and
nvdisasm are needed, as for instructions.py.
"""

from __future__ import annotations

import argparse
import collections
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import instructions
import numpy as np
from sass import step
from warp import LANES, Warp, is_predicate

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = {"75": 0x160, "80": 0x160, "90": 0x210}  # where constant bank 0 has a launch's arguments
Counts = collections.Counter[str]

# The arguments of B's launch as launch_tensor fills them, in hexadecimal.
LAUNCH = """
#include "csrc/risk/cuda/batch_cuda.hpp"
#include <cstdio>
int main() {
  struct { cbk::device::Batch<float> b; float* out; } a{};
  auto& b = a.b;
  b.net = {784, 20, 10, cbk::Activation::relu, 1.0 / 20, false}, b.loss = cbk::LossKind::cross_entropy;
  float* const there = reinterpret_cast<float*>(1 << 20);
  b.theta = b.x = b.packed = there, b.labels = reinterpret_cast<int*>(there);
  b.sums = b.partial = reinterpret_cast<double*>(there);
  b.particles = 1000, b.size = b.net.size(), b.samples = 1000, b.tasks = 1;
  b.packed_pitch = 392, b.access = 4;
  b.group = 6, b.groups = 167, b.chunk = 256, b.chunks = 4, b.tile = 256, b.pitch = 11;
  b.divisor = 1000, b.stride = 1;
  for (size_t i = 0; i < sizeof a; ++i) std::printf("%02x", reinterpret_cast<unsigned char*>(&a)[i]);
}
"""


def arguments_of_launch(source: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "launch.cu"
        program.write_text(source)
        subprocess.run(["nvcc", "-std=c++17", "-I", ROOT, "-o", program.with_suffix(""), program], check=True)
        return bytes.fromhex(subprocess.check_output([program.with_suffix("")], text=True))


def follow(lines: list[str], constants: dict[int, int], chosen: int) -> tuple[Counts, Counts, int]:
    """Instructions of a warp until it exits: all, those behind the last wait for copies; branches guessed."""
    labels = {line.rstrip(":"): i for i, line in enumerate(lines) if line.startswith(".L")}
    warp = Warp(constants, chosen)
    at, done = np.zeros(LANES, int), np.zeros(LANES, bool)
    every: Counts = collections.Counter()
    behind: Counts = collections.Counter()
    guessed = 0
    while not done.all():
        now = int(at[~done].min())
        warp.active = (at == now) & ~done
        at[warp.active] += 1
        line = lines[now]
        if not line.endswith(";"):
            continue
        match = re.match(r"(?:@(!?)(U?P\w+) )?([A-Z0-9_.]+)\s*(.*?)\s*;", line)
        assert match, line
        negated, guard, code, text = match.groups()
        text = re.sub(r"\(\*.*?\*\)", "", text)
        operands = [o.strip() for o in text.split(",")] if text.strip() else []
        every[code.split(".")[0]] += 1
        behind[code.split(".")[0]] += 1
        if code.startswith("DEPBAR"):
            behind.clear()
            guessed = 0
        taken, sure = warp.active.copy(), True
        if guard:
            value, known = warp.get(guard)
            taken = warp.active & (value.astype(bool) ^ bool(negated))
            sure = bool(known[warp.active].all())
        if code.startswith(("BRA", "CALL", "RET", "EXIT", "BREAK", "YIELD", "WARPSYNC", "BRX", "BRXU")):
            if code.startswith(("BRX", "CALL", "RET")) and taken.any():
                sys.exit(f"executed.py: cannot follow {line}")
            if code == "EXIT":
                done |= taken
            if code.startswith("BRA") and not code.startswith("BRA.DIV"):
                for operand in operands[:-1]:
                    if is_predicate(operand):
                        value, known = warp.read(operand)
                        taken &= value.astype(bool)
                        sure = sure and bool(known[warp.active].all())
                match = re.search(r"`\((\.L\w+)\)", operands[-1])
                assert match, line
                target = labels[match[1]]
                if not sure:
                    guessed += 1
                    calls = any("CALL" in skipped for skipped in lines[now:target])
                    taken = warp.active & calls
                at[taken] = target
            continue
        if sure and not taken.any():
            continue
        whole, warp.active = warp.active, taken if sure else warp.active
        step(warp, code, operands)
        if guard and not sure and operands:  # perhaps done: unknown
            for operand in operands[:2]:
                if re.fullmatch(r"U?[RP]\d+", operand) and not code.startswith("ST"):
                    warp.forget(operand)
        warp.active = whole
    return every, behind, guessed


MEMORY = {
    "generic": ("LD", "ST"),
    "shared": ("LDS", "STS"),
    "global": ("LDG", "STG"),
    "spilled": ("LDL", "STL"),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, default=Path("csrc/risk/cuda/tensor_cuda.cu"))
    parser.add_argument(
        "--kernel", default="tensor_risks.*ELb0E", help="a regular expression of mangled names"
    )
    parser.add_argument("--arch", default="90", choices=PARAMETERS)
    parser.add_argument("--warp", type=int, default=0, help="which of the block's")
    options = parser.parse_args()
    constants = {0: 256, 4: 1, 8: 1, 0xC: 668, 0x10: 1, 0x14: 1}  # block, grid
    for i, (word,) in enumerate(struct.iter_unpack("<I", arguments_of_launch(LAUNCH))):
        constants[PARAMETERS[options.arch] + 4 * i] = word
    for name, lines in instructions.kernels(options.source, options.arch).items():
        if not re.search(options.kernel, name):
            continue
        every, behind, guessed = follow(lines, constants, options.warp)
        print(
            f"{name}: {every.total()} instructions, "
            f"{behind.total()} of them in the epilogue ({guessed} branches guessed)"
        )
        memory = (
            f"{place} {behind[load]} loads, {behind[store]} stores" for place, (load, store) in MEMORY.items()
        )
        print("  " + "; ".join(memory))
        print("  " + ", ".join(f"{number} {code}" for code, number in behind.most_common(16)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
