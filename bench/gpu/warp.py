"""The registers of a warp's 32 lanes, as far as they are known; executed.py follows kernels by them."""

from __future__ import annotations

import re

import numpy as np

LANES, WORD = 32, 0xFFFFFFFF


class Warp:
    """Registers of 32 lanes, each with whether it is known."""

    def __init__(self, constants: dict[int, int], warp: int):
        self.constants = constants
        self.values: dict[str, np.ndarray] = {}
        self.known: dict[str, np.ndarray] = {}
        self.special = {
            "SR_TID.X": np.arange(LANES) + LANES * warp,
            "SR_LANEID": np.arange(LANES),
            "SRZ": np.zeros(LANES),
        }
        self.local: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.active = np.ones(LANES, bool)

    def get(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        zero = np.zeros(LANES, np.uint64)
        if name in ("RZ", "URZ"):
            return zero, np.ones(LANES, bool)
        if name in ("PT", "UPT"):
            return zero + np.uint64(1), np.ones(LANES, bool)
        return self.values.get(name, zero), self.known.get(name, np.ones(LANES, bool))

    def put(self, name: str, value: np.ndarray, known: np.ndarray) -> None:
        if name in ("RZ", "URZ", "PT", "UPT"):
            return
        uniform = name.startswith("U")
        active = np.ones(LANES, bool) if uniform else self.active
        old, was = self.get(name)
        bits = np.uint64(1 if "P" in name else WORD)
        self.values[name] = np.where(active, value.astype(np.uint64) & bits, old)
        self.known[name] = np.where(active, known, was)

    def forget(self, name: str) -> None:
        self.put(name, np.zeros(LANES, np.uint64), np.zeros(LANES, bool))

    def read(self, operand: str, wide: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Of a register, a constant or a number: 32 bits, or 64."""
        text = operand.replace(".reuse", "")
        if text.startswith(("-", "~", "!")):
            value, known = self.read(text[1:], wide)
            bits = np.uint64(2**64 - 1 if wide else WORD)
            if text[0] == "!":
                return value ^ np.uint64(1), known
            return ((value ^ bits) + np.uint64(text[0] == "-")) & bits, known
        if re.fullmatch(r"U?[RP](\d+|Z|T)(\.H0_H0|\.64)?", text):
            name = text.split(".")[0]
            value, known = self.get(name)
            if wide and name not in ("RZ", "URZ"):
                high, too = self.get(following(name))
                return value | high << np.uint64(32), known & too
            return value, known
        constant = re.fullmatch(r"c\[0x0\]\[(0x[0-9a-f]+)\]", text)
        if constant:
            at = int(constant[1], 16)
            words = [self.constants.get(at + 4 * i) for i in range(2 if wide else 1)]
            whole = sum((word or 0) << 32 * i for i, word in enumerate(words))
            return np.full(LANES, whole, np.uint64), np.full(LANES, None not in words)
        if re.fullmatch(r"-?0x[0-9a-f]+", text):
            number = int(text, 16) & (2**64 - 1 if wide else WORD)
            return np.full(LANES, number, np.uint64), np.ones(LANES, bool)
        return np.zeros(LANES, np.uint64), np.zeros(LANES, bool)


def following(name: str) -> str:
    prefix, number = re.fullmatch(r"(U?R)(\d+)", name).groups()  # type: ignore[union-attr]
    return f"{prefix}{int(number) + 1}"


def signed(value: np.ndarray) -> np.ndarray:
    return value.astype(np.uint32).view(np.int32).astype(np.int64)


def is_predicate(operand: str) -> bool:
    return bool(re.fullmatch(r"!?U?P(\d|T)", operand))


def compare(kind: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return {"LT": a < b, "LE": a <= b, "GT": a > b, "GE": a >= b, "EQ": a == b, "NE": a != b}[kind]
