"""Fits the polynomials of polynomials.hpp; needs mpmath.  `python fit_polynomials.py > polynomials.hpp`

Each is the Chebyshev interpolant (within a small factor of minimax) of the remainder after the leading terms,
so that the leading terms stay exact and the relative error near zero is that of one rounding.
"""

import mpmath as mp

mp.mp.dps = 60


def chebyshev(f, low, high, degree):
    """Monomial coefficients, lowest first, of the interpolant of f at Chebyshev nodes on [low, high]."""
    n = degree + 1
    nodes = [mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    xs = [(low + high) / 2 + (high - low) / 2 * t for t in nodes]
    return list(mp.lu_solve(mp.matrix([[x**k for k in range(n)] for x in xs]), mp.matrix([f(x) for x in xs])))


def report(f, coefficients, low, high):
    xs = [low + (high - low) * mp.mpf(i) / 997 for i in range(1, 997)]
    return max(abs(mp.polyval(coefficients[::-1], x) - f(x)) for x in xs)


def series(f, terms):
    """Taylor coefficients at 0, for remainders that are 0/0 there."""
    return mp.taylor(f, 0, terms)


def remainder(f, drop, squared=False):
    """(f - its first `drop` Taylor terms) / x^drop, as a function of x, or of x^2 for a function of x^2."""
    coefficients = series(f, 80)[drop:]
    if squared:
        coefficients = coefficients[::2]
    return lambda x: mp.polyval(coefficients[::-1], x)


LN2 = mp.log(2)
QUARTER = mp.pi / 4
K_ERFC = {"float": mp.mpf("3.75"), "double": mp.mpf("3.75")}


def erfcx_scaled(k):
    """(1 + 2z) exp(z^2) erfc(z) of t = (z - k)/(z + k) in [-1, 1) [Shepherd, Laframboise 1981]."""

    def f(t):
        if t >= 1 - mp.mpf(10) ** -20:
            return 2 / mp.sqrt(mp.pi)
        z = k * (1 + t) / (1 - t)
        return (1 + 2 * z) * mp.exp(z * z) * mp.erfc(z) if z < 100 else _erfcx_large(z)

    return f


def normal_tail_scaled():
    """(1 + 0.75 b) exp(b^2/2) Phi(-b) of t = (b - 4.25)/(b + 4.25) in [-1, 1)."""

    def f(t):
        if t >= 1 - mp.mpf(10) ** -20:
            return mp.mpf("0.75") / mp.sqrt(2 * mp.pi)
        b = mp.mpf("4.25") * (1 + t) / (1 - t)
        z = b / mp.sqrt(2)
        erfcx = mp.exp(z * z) * mp.erfc(z) if z < 100 else _erfcx_large(z) / (1 + 2 * z)
        return (1 + mp.mpf("0.75") * b) * erfcx / 2

    return f


def _erfcx_large(z):
    total, term = mp.mpf(1), mp.mpf(1)
    for n in range(1, 20):
        term *= -(2 * n - 1) / (2 * z * z)
        total += term
    return (1 + 2 * z) * total / (z * mp.sqrt(mp.pi))


def atanh_log(t):  # log((1+s)/(1-s)) = 2s + s R(s^2); R(t)/t below
    return mp.nsum(lambda k: 2 * t ** (k - 1) / (2 * k + 1), [1, mp.inf]) if t else mp.mpf(2) / 3


TABLE = [
    # name, function, interval, degree for float, degree for double, meaning
    (
        "LOG",
        remainder(mp.log1p, 3),
        (mp.mpf("-0.25"), mp.mpf("0.5")),
        8,
        None,
        "log(1+f) = f - f^2/2 + f^3 p(f), f in [-1/4, 1/2]",
    ),
    (
        "LOG",
        atanh_log,
        (mp.mpf(0), mp.mpf("0.0401")),
        None,
        7,
        "log(1+f) = 2s + s t p(t), s = f/(2+f), t = s^2",
    ),
    ("SIN", remainder(mp.sin, 3, True), (mp.mpf(0), QUARTER**2), 2, 6, "sin x = x + x^3 p(x^2), |x| <= pi/4"),
    (
        "COS",
        remainder(mp.cos, 4, True),
        (mp.mpf(0), QUARTER**2),
        2,
        6,
        "cos x = 1 - x^2/2 + x^4 p(x^2), |x| <= pi/4",
    ),
    (
        "TANH",
        remainder(mp.tanh, 3, True),
        (mp.mpf(0), (3 * LN2 / 8) ** 2),
        2,
        6,
        "tanh x = x + x^3 p(x^2), |x| <= 3 ln(2)/8",
    ),
    (
        "HALF_EXPM1",
        remainder(lambda r: mp.expm1(2 * r) / 2, 2),
        (-LN2 / 4, LN2 / 4),
        4,
        10,
        "(e^2r - 1) / 2 = r + r^2 p(r), |r| <= ln(2)/4",
    ),
    ("EXP", remainder(mp.exp, 2), (-LN2 / 2, LN2 / 2), 4, 10, "e^r = 1 + r + r^2 p(r), |r| <= ln(2)/2"),
    (
        "ERFC",
        erfcx_scaled(mp.mpf("3.75")),
        (mp.mpf(-1), mp.mpf(1)),
        11,
        25,
        "(1+2z) exp(z^2) erfc(z) = p(t), t = (z - 3.75)/(z + 3.75), z >= 0",
    ),
    (
        "NORMAL_TAIL",
        normal_tail_scaled(),
        (mp.mpf(-1), mp.mpf(1)),
        11,
        25,
        "(1 + 0.75 b) exp(b^2/2) Phi(-b) = p(t), t = (b - 4.25)/(b + 4.25), b >= 0",
    ),
    (
        "ERF",
        remainder(lambda x: mp.erf(x) - x, 1, True),
        (mp.mpf(0), mp.mpf(1)),
        6,
        13,
        "erf x = x + x p(x^2), |x| <= 1",
    ),
]


def show(kind, declaration, row):
    """One constant, four numbers a line."""
    digits, suffix = (9, "f") if kind == "float" else (17, "")
    values = [mp.nstr(x, digits, strip_zeros=False) + suffix for x in row]
    lines = ",\n      ".join(", ".join(values[i : i + 4]) for i in range(0, len(values), 4))
    print(f"  static constexpr {kind} {declaration} = {{\n      {lines}}};")


print("// Polynomial coefficients, highest power first.  Written by fit_polynomials.py; do not edit.")
print("#pragma once\n\nnamespace cbk::CBK_ISA::tables {\n\ntemplate <class T>\nstruct Table;\n")
for kind, index in (("float", 3), ("double", 4)):
    print(f"template <>\nstruct Table<{kind}> {{")
    for name, f, (low, high), *degrees, meaning in TABLE:
        degree = degrees[index - 3]
        if degree is None:
            continue
        c = chebyshev(f, low, high, degree)
        print(f"  // {meaning}; error of p {mp.nstr(report(f, c, low, high), 2)}")
        show(kind, f"{name}[{len(c)}]", reversed(c))
    print("};\n")
print("}  // namespace cbk::CBK_ISA::tables")
