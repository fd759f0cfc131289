"""Philox words, normals and permutations: known answers, bits that depend on nothing else, statistics."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import cbokernels as cbk
from cbokernels import _cpu, reference

# Random123's kat_vectors for philox4x32-10: counter, key, answer.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
NORMALS = [0.99113768, -0.92466259, -0.61760896, -0.48206859]  # seed 0, all counters 0
WORD = st.integers(0, 2**32 - 1)


def words(text):
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize("philox", [cbk.philox4x32, reference.philox4x32])
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_random123_known_answers(philox, counter, key, answer):
    assert philox(words(counter), words(key)).tolist() == words(answer).tolist()


@given(st.lists(st.tuples(WORD, WORD, WORD, WORD, WORD, WORD), min_size=1, max_size=40))
def test_philox_is_the_reference(rows):
    both = np.array(rows, np.uint32)
    expected = reference.philox4x32(both[:, :4], both[:, 4:])
    np.testing.assert_array_equal(cbk.philox4x32(both[:, :4], both[:, 4:]), expected)


def test_philox_broadcasts_leading_axes():
    counter = np.arange(2 * 3 * 4, dtype=np.uint32).reshape(2, 3, 4)
    key = np.array([7, 8], np.uint32)
    result = cbk.philox4x32(counter, key)
    assert result.shape == (2, 3, 4)
    assert result.dtype == np.uint32
    np.testing.assert_array_equal(result[1, 2], cbk.philox4x32(counter[1, 2], key))
    assert cbk.philox4x32(counter[0, 0], np.zeros((5, 2), np.uint32)).shape == (5, 4)


def test_known_normals(dtype):
    result = cbk.standard_normal(1, 4, seed=0, dtype=dtype)
    assert result.shape == (1, 4)
    assert result.dtype == dtype
    np.testing.assert_allclose(result[0], NORMALS, rtol=0, atol=5e-9 if dtype == "float64" else 5e-7)
    np.testing.assert_allclose(reference.standard_normal(1, 4, seed=0)[0], NORMALS, rtol=0, atol=5e-9)


def test_the_bits_are_those_of_every_machine():
    # the same on x86-64 (SSE2, AVX2, AVX-512) and on 64-bit Arm (NEON)
    both = [cbk.standard_normal(7, 1001, seed=3, dtype=dtype).tobytes() for dtype in ("float32", "float64")]
    assert hashlib.sha256(b"".join(both)).hexdigest()[:16] == "f20ab3cf9cb328f0"


def test_default_dtype_is_float32():
    assert cbk.standard_normal(2, 3, seed=1).dtype == np.float32


@given(
    seed=st.integers(0, 2**64 - 1),
    step=WORD,
    stream=WORD,
    first=st.integers(0, 2**32 - 5),
    size=st.integers(1, 70),
)
def test_float64_normals_are_the_reference(seed, step, stream, first, size):
    arguments = {"seed": seed, "step": step, "stream": stream, "first_particle": first}
    result = cbk.standard_normal(5, size, dtype="float64", **arguments)
    np.testing.assert_allclose(result, reference.standard_normal(5, size, **arguments), rtol=0, atol=4e-14)


@pytest.mark.parametrize("seed", [0, 12345678901234567890])
def test_float32_normals_are_those_of_float64(seed):
    # Covers u near 1, where sqrt(-2 ln u) magnifies a rounded u.
    narrow = cbk.standard_normal(1000, 4001, seed=seed)
    wide = cbk.standard_normal(1000, 4001, seed=seed, dtype="float64")
    assert np.abs(narrow - wide).max() < 3e-6


@pytest.mark.parametrize("size", [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 129, 257])
def test_values_do_not_depend_on_size(size, dtype):
    whole = cbk.standard_normal(5, 300, seed=3, step=2, dtype=dtype)
    np.testing.assert_array_equal(cbk.standard_normal(5, size, seed=3, step=2, dtype=dtype), whole[:, :size])


@pytest.mark.parametrize("split", [1, 2, 3, 7, 16, 20])
def test_values_do_not_depend_on_how_particles_are_split(split, dtype):
    whole = cbk.standard_normal(21, 37, seed=9, first_particle=5, dtype=dtype)
    parts = [
        cbk.standard_normal(n, 37, seed=9, first_particle=5 + start, dtype=dtype)
        for start, n in ((0, split), (split, 21 - split))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("shape", [(1, 100_003), (300, 301), (100_003, 1)])
def test_values_do_not_depend_on_threads(shape, dtype):
    one = cbk.standard_normal(*shape, seed=4, dtype=dtype, num_threads=1)
    for num_threads in (None, 2, 3, 5):
        again = cbk.standard_normal(*shape, seed=4, dtype=dtype, num_threads=num_threads)
        np.testing.assert_array_equal(again, one)


def test_every_argument_matters():
    base = {"seed": 1, "step": 1, "stream": 1, "first_particle": 1}
    draws = [cbk.standard_normal(1, 8, **base)]
    draws += [cbk.standard_normal(1, 8, **{**base, name: 2}) for name in base]
    draws.append(cbk.standard_normal(1, 8, **{**base, "seed": 1 + 2**32}))
    values = np.concatenate(draws)
    assert len(np.unique(values)) == values.size


def test_last_counters_are_used_as_they_are():
    last = 2**32 - 1
    arguments = {"seed": 2**64 - 1, "step": last, "stream": last, "first_particle": last}
    result = cbk.standard_normal(1, 9, dtype="float64", **arguments)
    np.testing.assert_allclose(result, reference.standard_normal(1, 9, **arguments), rtol=0, atol=4e-14)


@pytest.fixture(scope="module", params=["float32", "float64"])
def sample(request):
    """Four million normals of 2000 particles."""
    return cbk.standard_normal(2000, 2000, seed=20, dtype=request.param).astype(float)


def test_distribution(sample):
    # Fixed seed: one draw, whose p-values were not chosen.
    assert scipy.stats.kstest(sample[:250].ravel(), "norm").pvalue > 1e-3
    for coordinate in range(8):
        assert scipy.stats.kstest(sample[:, coordinate], "norm").pvalue > 1e-4


@pytest.mark.parametrize(("power", "moment", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)])
def test_moments(sample, power, moment, variance):
    z = (sample**power).mean() - moment
    assert abs(z) < 4 * np.sqrt(variance / sample.size)


@pytest.mark.parametrize("bound", [2, 3, 4, 5])
@pytest.mark.parametrize("sign", [-1, 1])
def test_tails(sample, bound, sign):
    expected = sample.size * scipy.stats.norm.sf(bound)
    assert abs((sign * sample > bound).sum() - expected) < 4 * np.sqrt(expected) + 1


def test_independence(sample):
    def correlation(a, b):
        """Of the numbers, and of their squares less 1, whose means are 0 and variances 1 and 2."""
        sums = np.einsum("ij,ij", a, b), np.einsum("ij,ij", a**2 - 1, b**2 - 1) / 2
        return np.abs(sums).max() / a.size

    rows, columns = sample.shape
    limit = 4.5 / np.sqrt(sample.size / 2)
    assert correlation(sample[:-1], sample[1:]) < limit
    for lag in (1, 2, 3, 4, 8):
        assert correlation(sample[:, :-lag], sample[:, lag:]) < limit
    for other in ({"step": 1}, {"stream": 1}, {"seed": 21}, {"seed": 20 + 2**32}, {"first_particle": 2000}):
        apart = cbk.standard_normal(rows, columns, **{"seed": 20, **other})
        assert correlation(sample, apart.astype(float)) < limit


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1001])
@pytest.mark.parametrize("step", [0, 7])
def test_permutation_is_the_reference(n, step):
    out = np.empty(n, np.int64)
    _cpu.permutation(out, n, 5, step, 2)
    assert sorted(out) == list(range(n))
    np.testing.assert_array_equal(out, reference.permutation(n, seed=5, step=step))
    first = np.empty(n // 2, np.int64)
    _cpu.permutation(first, n, 5, step, 2)
    np.testing.assert_array_equal(first, out[: n // 2])


def test_permutations_are_uniform():
    counts = np.zeros((5, 5))
    for step in range(2000):
        out = np.empty(5, np.int64)
        _cpu.permutation(out, 5, 1, step, 2)
        counts[np.arange(5), out] += 1
    assert np.abs(counts - 400).max() < 4.5 * np.sqrt(400 * 0.8)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"particles": 0}, ValueError, ["particles", "[1, ", "got 0"]),
        ({"particles": 2.0}, TypeError, ["particles", "integer", "2.0"]),
        ({"particles": True}, TypeError, ["particles", "integer", "True"]),
        ({"size": 0}, ValueError, ["size", "[1, ", "got 0"]),
        ({"size": "3"}, TypeError, ["size", "integer", "'3'"]),
        ({"seed": -1}, ValueError, ["seed", "[0, 2^64)", "-1"]),
        ({"seed": 2**64}, ValueError, ["seed", "[0, 2^64)", str(2**64)]),
        ({"seed": None}, TypeError, ["seed", "integer", "None"]),
        ({"step": 2**32}, ValueError, ["step", "[0, 2^32)", str(2**32)]),
        ({"stream": -1}, ValueError, ["stream", "[0, 2^32)", "-1"]),
        ({"first_particle": 2**32}, ValueError, ["first_particle", "2^32", str(2**32)]),
        ({"first_particle": 2**32 - 1}, ValueError, ["first_particle", "2^32 - 2", str(2**32 - 1)]),
        ({"dtype": "float16"}, TypeError, ["dtype", "float32", "'float16'"]),
        ({"dtype": None}, TypeError, ["dtype", "float32", "None"]),
        ({"num_threads": 0}, ValueError, ["num_threads", "[1, ", "got 0"]),
        ({"num_threads": 1.0}, TypeError, ["num_threads", "integer", "1.0"]),
    ],
)
def test_wrong_arguments_are_named(arguments, error, words):
    with pytest.raises(error) as caught:
        cbk.standard_normal(**{"particles": 2, "size": 3, "seed": 0, **arguments})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("counter", "key", "error", "words"),
    [
        (np.zeros(4, np.int64), np.zeros(2, np.uint32), TypeError, ["counter", "uint32", "int64"]),
        (np.zeros(4, np.uint32), [0, 0], TypeError, ["key", "array", "list"]),
        (np.zeros(3, np.uint32), np.zeros(2, np.uint32), ValueError, ["counter", "[..., 4]", "[3]"]),
        (np.zeros(4, np.uint32), np.zeros((2, 1), np.uint32), ValueError, ["key", "[..., 2]", "[2, 1]"]),
        (np.zeros((3, 4), np.uint32), np.zeros((2, 2), np.uint32), ValueError, ["key", "[3]", "[2]"]),
    ],
)
def test_wrong_philox_arrays_are_named(counter, key, error, words):
    with pytest.raises(error) as caught:
        cbk.philox4x32(counter, key)
    assert all(word in str(caught.value) for word in words), caught.value


def test_seed_is_required():
    with pytest.raises(TypeError, match="seed"):
        cbk.standard_normal(1, 1)
