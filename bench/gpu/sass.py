"""What SASS does to a warp's integers, addresses and predicates; executed.py follows kernels by it.

Numbers that are read from memory are zeros, and what is made in floating point is unknown, but for what
divides integers.
"""

from __future__ import annotations

import re

import numpy as np
from warp import LANES, WORD, Warp, compare, following, is_predicate, signed

ONE, FULL, HALF = np.uint64(1), np.uint64(WORD), np.uint64(32)


def read_special(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Numbers of threads, and zeros."""
    value = warp.special.get(operands[1], np.zeros(LANES)).astype(np.uint64)
    warp.put(operands[0], value, np.ones(LANES, bool))
    if name == "CS2R" and "32" not in flags:
        warp.put(following(operands[0]), value, np.ones(LANES, bool))


def words(flags: list[str], register: str) -> list[str]:
    """The registers of a load or store."""
    names = [register]
    for _ in range(3 if "128" in flags else 1 if "64" in flags else 0):
        names.append(register if register == "RZ" else following(names[-1]))
    return names


def place(operand: str) -> int:
    """Of a spilled register."""
    match = re.search(r"\[R1(?:\+(0x[0-9a-f]+))?\]", operand)
    assert match, operand
    return int(match[1] or "0", 16)


def store_local(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Spilled registers, by their place."""
    for i, register in enumerate(words(flags, operands[1])):
        warp.local[place(operands[0]) + 4 * i] = warp.get(register)


def load_local(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """These again."""
    for i, register in enumerate(words(flags, operands[0])):
        warp.put(register, *warp.local[place(operands[1]) + 4 * i])


def load(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Zeros are read, so that labels are in range."""
    for register in words(flags, operands[0]):
        warp.put(register, np.zeros(LANES, np.uint64), np.ones(LANES, bool))


def move(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Registers and constants; to uniform registers, those of the first lane."""
    wide = "64" in flags
    value, known = warp.read(next(o for o in operands[1:] if not is_predicate(o)), wide)
    if operands[0].startswith("U"):
        first = int(np.argmax(warp.active))
        value, known = np.full(LANES, value[first]), np.full(LANES, known[first])
    if "U8" in flags:
        value = value & np.uint64(0xFF)
    warp.put(operands[0], value, known)
    if wide:
        warp.put(following(operands[0]), value >> HALF, known)


def add(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Sums with carries, and shifted sums."""
    outs = [operands[0]]
    rest = operands[1:]
    carries = []
    while is_predicate(rest[0]):
        carries.append(rest.pop(0))
    ins = []
    while is_predicate(rest[-1]):
        ins.insert(0, rest.pop())
    known = np.ones(LANES, bool)
    total = np.zeros(LANES, np.uint64)
    if name == "IADD3":
        for operand in rest:
            value, there = warp.read(operand)
            if operand.startswith("-"):  # a + ~b + 1, whose carry counts
                value = (warp.read(operand[1:])[0] ^ FULL) + ONE
            total, known = total + value, known & there
    else:
        a, there = warp.read(rest[0])
        b, too = warp.read(rest[1])
        if "HI" in flags:
            shift = np.uint64(int(rest[-1], 16))
            c, also = warp.read(rest[2])
            if "SX32" in flags:
                c, also = (signed(a) >> 31).astype(np.uint64) & FULL, there
            total = (((c << HALF | a) << shift) >> HALF) & FULL
            known = there & too & also
        else:
            total, known = a << np.uint64(int(rest[2], 16)) & FULL, there & too
        total = total + b
    if "X" in flags:
        for predicate in ins:
            value, there = warp.read(predicate)
            total, known = total + value, known & there
    warp.put(outs[0], total, known)
    for i, carry in enumerate(carries):
        warp.put(carry, (total >> (HALF + np.uint64(i))) & ONE if i == 0 else total >> np.uint64(33), known)


def multiply(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Products, wide and high ones."""
    rest = operands[1:]
    carry_in = [o for o in rest if is_predicate(o)] if "X" in flags else []
    rest = [o for o in rest if not is_predicate(o)]
    wide = "WIDE" in flags
    (a, ka), (b, kb) = (warp.read(o) for o in rest[:2])
    c, kc = warp.read(rest[2], wide or "HI" in flags)
    if "U32" not in flags and (wide or "HI" in flags):
        a, b = signed(a).astype(np.uint64), signed(b).astype(np.uint64)
    known = ka & kb & kc
    if name == "IMAD" and rest[0] == "RZ" and rest[1] == "RZ":
        known = kc
    with np.errstate(over="ignore"):
        total = a * b + c
    for predicate in carry_in:
        value, there = warp.read(predicate)
        total, known = total + value, known & there
    if "HI" in flags:
        total = total >> HALF
    warp.put(operands[0], total, known)
    if wide:
        warp.put(following(operands[0]), total >> HALF, known)


def compare_integers(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Of 32 bits, or the upper half of 64 (EX)."""
    unsigned, kind = "U32" in flags, flags[0]
    (a, ka), (b, kb) = (warp.read(o) for o in operands[2:4])
    if not unsigned:
        a, b = signed(a), signed(b)
    result, known = compare(kind, a, b), ka & kb
    if "EX" in flags:
        lower, kl = warp.read(operands[5])
        equal = a == b
        strict = kind[0] + "T" if kind in ("LE", "GE", "LT", "GT") else kind
        lower = lower.astype(bool)
        result = {"EQ": equal & lower, "NE": ~equal | lower}.get(
            kind, compare(strict if strict in ("LT", "GT") else "NE", a, b) | (equal & lower)
        )
        known = known & kl
    with_, kw = warp.read(operands[4])
    with_ = with_.astype(bool)
    join = np.bitwise_or if "OR" in flags else np.bitwise_xor if "XOR" in flags else np.bitwise_and
    decided = kw & (with_ if "OR" in flags else ~with_)
    warp.put(operands[0], join(result, with_), known & kw | decided)
    warp.put(operands[1], join(~result, with_), known & kw | decided)


def combine_predicates(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """By a table of three."""
    inputs = [warp.read(o) for o in operands[2:5]]
    table = int(operands[5], 16)
    index = sum(value << np.uint64(2 - i) for i, (value, _) in enumerate(inputs))
    known = np.logical_and.reduce([k for _, k in inputs])
    result = np.uint64(table) >> index & ONE
    warp.put(operands[0], result, known)
    if not is_predicate(operands[1]) or operands[1] in ("PT", "UPT"):
        return
    warp.forget(operands[1])


def combine_bits(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """By a table of three."""
    predicate = operands.pop(0) if is_predicate(operands[0]) else ""
    rest = operands[1:]
    inputs = [warp.read(o) for o in rest[:3]]
    table, result = int(rest[3], 16), np.zeros(LANES, np.uint64)
    for i in range(8):
        if table >> i & 1:
            term = np.full(LANES, WORD, np.uint64)
            for bit, (value, _) in zip((4, 2, 1), inputs, strict=True):
                term &= value if i & bit else value ^ FULL
            result |= term
    known = np.logical_and.reduce([k for _, k in inputs])
    warp.put(operands[0], result, known)
    if predicate:
        warp.put(predicate, (result != 0).astype(np.uint64), known)


def shift(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Of one register or two."""
    (a, ka), (s, ks), (c, kc) = (warp.read(o) for o in operands[1:4])
    whole, s = c << HALF | a, s & np.uint64(63)
    if "L" in flags:
        result = whole << s >> HALF if "HI" in flags else a << s
    elif "S32" in flags:
        result = (signed(c) >> np.minimum(s, np.uint64(31)).astype(np.int64)).astype(np.uint64)
    elif "S64" in flags:
        result = (whole.view(np.int64) >> s.astype(np.int64)).view(np.uint64)
    else:
        result = c >> s if "HI" in flags else whole >> s
    if "S64" in flags and "HI" in flags:
        result = result >> HALF
    warp.put(operands[0], result, ka & ks & kc)


def select(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """By a predicate."""
    (a, ka), (b, kb), (p, kp) = (warp.read(o) for o in operands[1:4])
    warp.put(operands[0], np.where(p.astype(bool), a, b), kp & np.where(p.astype(bool), ka, kb))


def extreme(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """The smaller or the larger."""
    ins = [warp.read(o) for o in operands[1 : 4 if name == "VIADDMNMX" else 3]]
    values = [value if "U32" in flags else signed(value) for value, _ in ins]
    if name == "VIADDMNMX":
        values = [(values[0] + values[1]), values[2]]
    p, kp = warp.read(operands[-1])
    value = np.where(p.astype(bool), np.minimum(*values), np.maximum(*values))
    warp.put(operands[0], value, kp & np.logical_and.reduce([k for _, k in ins]))


def permute(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Bytes of two registers."""
    (a, ka), (s, ks), (c, kc) = (warp.read(o) for o in operands[1:4])
    whole, result = a | c << HALF, np.zeros(LANES, np.uint64)
    for i in range(4):
        pick = s >> np.uint64(4 * i) & np.uint64(15)
        byte = whole >> (pick & np.uint64(7)) * np.uint64(8) & np.uint64(255)
        sign = np.where(byte > 127, np.uint64(255), np.uint64(0))
        result |= np.where(pick > 7, sign, byte) << np.uint64(8 * i)
    warp.put(operands[0], result, ka & ks & kc)


def pack_predicates(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Predicates to bits."""
    mask = int(operands[3], 16)
    value, known = warp.read(operands[2])
    shift = 8 * int(next((f[1] for f in flags if re.fullmatch(r"B\d", f)), "0"))
    packed = np.zeros(LANES, np.uint64)
    for i in range(7):
        p, _ = warp.get(f"P{i}")
        if mask >> i & 1:
            packed |= p << np.uint64(i)  # an unknown one counts as 0
    keep = np.uint64(WORD ^ (mask << shift))
    warp.put(operands[0], value & keep | packed << np.uint64(shift), known)


def unpack_predicates(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Bits to predicates."""
    value, known = warp.read(operands[1])
    for i in range(7):
        if int(operands[2], 16) >> i & 1:
            warp.put(f"P{i}", value >> np.uint64(i) & ONE, known)


def to_float(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Rounded up, as divisions want it."""
    value, known = warp.read(operands[1])
    exact = value.astype(np.float64)
    near = exact.astype(np.float32)
    near = np.where(near.astype(np.float64) < exact, np.nextafter(near, np.float32(np.inf)), near)
    warp.put(operands[0], near.astype(np.float32).view(np.uint32), known)


def reciprocal(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """In float."""
    value, known = warp.read(operands[1])
    with np.errstate(all="ignore"):
        result = np.float32(1) / value.astype(np.uint32).view(np.float32)
    warp.put(operands[0], result.astype(np.float32).view(np.uint32), known)


def to_integer(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Cut."""
    value, known = warp.read(operands[1])
    with np.errstate(all="ignore"):
        number = np.nan_to_num(value.astype(np.uint32).view(np.float32).astype(np.float64))
    warp.put(operands[0], np.clip(number, 0, WORD).astype(np.uint64), known)
    return


def nothing(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """Of memory, barriers and branches' bookkeeping no register sees anything."""


def forget(warp: Warp, name: str, flags: list[str], operands: list[str]) -> None:
    """What any other instruction writes is unknown."""
    for operand in operands[:2]:
        if is_predicate(operand):
            warp.forget(operand)
    if operands and re.fullmatch(r"U?R\d+", operands[0]):
        register = operands[0]
        wide = "64" in flags or name[0] == "D" or flags[:1] == ["F64"]
        for _ in range(4 if name in ("HMMA", "LDSM") else 2 if wide else 1):
            warp.forget(register)
            register = following(register)


OPERATIONS = {
    name: operation
    for operation, names in (
        (read_special, "S2R CS2R S2UR"),
        (store_local, "STL"),
        (load_local, "LDL"),
        (load, "LD LDG LDS"),
        (move, "MOV LDC R2UR"),
        (nothing, "ST STG STS LDGSTS BAR DEPBAR LDGDEPBAR NOP WARPSYNC BSSY BSYNC BMOV"),
        (add, "IADD3 LEA"),
        (multiply, "IMAD"),
        (compare_integers, "ISETP"),
        (combine_predicates, "PLOP3"),
        (combine_bits, "LOP3"),
        (shift, "SHF SHL"),
        (select, "SEL FSEL"),
        (extreme, "VIMNMX IMNMX VIADDMNMX"),
        (permute, "PRMT"),
        (pack_predicates, "P2R"),
        (unpack_predicates, "R2P"),
        (to_float, "I2F.U32.RP"),
        (reciprocal, "MUFU.RCP"),
        (to_integer, "F2I.FTZ.U32.TRUNC.NTZ"),
    )
    for name in names.split()
}


def step(warp: Warp, code: str, operands: list[str]) -> None:
    """One instruction that does not branch. Those of uniform registers do the same as the others."""
    name, *flags = code.split(".")
    plain = name[1:] if name.startswith("U") else name
    operation = OPERATIONS.get(code) or OPERATIONS.get(name) or OPERATIONS.get(plain, forget)
    operation(warp, plain, flags, operands)
