"""A short run of fuzz.py, and faults that are planted for it to find."""

from __future__ import annotations

import dataclasses
import os

import fuzz
import numpy as np
import pytest

import cbokernels as cbk

SEED = int(os.environ.get("CBOKERNELS_SEED", "17"))
risk, cbo_update, adam_update, forward = cbk.risk, cbk.cbo_update, cbk.adam_update, cbk.forward


def test_a_short_run():
    counts = fuzz.fuzz(SEED, range(800))
    assert sum(counts.values()) == 800
    assert set(counts) == {*fuzz.CASES, *fuzz.RUNS}


def inexact(net, theta, x, y, **options):
    return risk(net, theta, x, y, **options) * 1.001


def wrong_of_strides(net, theta, x, y, **options):
    return risk(net, theta, x, y, **options) + (0.0 if x.flags.c_contiguous else 1e-15)


def wrong_of_threads(net, theta, x, **options):
    values = forward(net, theta, x, **options)
    return values if options["num_threads"] == 1 else np.nextafter(values, np.inf)


def writes_to_its_input(net, theta, x, y, **options):
    values = risk(net, theta, x, y, **options)
    if x.flags.writeable:
        x[0, 0] += 1
    return values


def takes_anything(net, theta, x, y, **options):
    return risk(net, np.asarray(theta, float), np.asarray(x, float), np.asarray(y, float), **options)


def returns_a_copy(theta, point, out=None, **options):
    values = cbo_update(theta, point, **options)
    if out is not None:
        out[...] = values
    return values


def overlaps_by_chance(theta, gradient, first, second, out=None, **options):
    values = adam_update(theta.copy(), gradient, first, second, **options)
    if out is None:
        return values
    out[...] = 0
    out += theta - theta + values
    return out


def lets_nan_spread(net, theta, x, **options):
    values = forward(net, theta, x, **options)
    return values if np.isfinite(theta).all() else values * np.nan


def raises_what_it_should_not(net, theta, x, y, **options):
    if np.shape(x)[-1:] == (0,):
        raise IndexError("no columns")
    return risk(net, theta, x, y, **options)


@pytest.mark.parametrize(
    "fault",
    [
        inexact, wrong_of_strides, wrong_of_threads, writes_to_its_input, takes_anything, returns_a_copy,
        overlaps_by_chance, lets_nan_spread, raises_what_it_should_not,
    ],
)  # fmt: skip
def test_planted_faults_are_found(monkeypatch, fault):
    faulty = {
        returns_a_copy: "cbo_update", overlaps_by_chance: "adam_update", wrong_of_threads: "forward",
        lets_nan_spread: "forward",
    }.get(fault, "risk")  # fmt: skip
    monkeypatch.setattr(cbk, faulty, fault)
    monkeypatch.setattr(fuzz, "CASES", {faulty: fuzz.CASES[faulty]})
    with pytest.raises(fuzz.Disagreement, match=rf"--seed {SEED} --only \d+\n{faulty}\("):
        fuzz.fuzz(SEED, range(1500))


train, minimize = cbk.train, cbk.minimize


def run_of_threads(*arguments, **options):
    result = train(*arguments, **options)
    return dataclasses.replace(result, parameters=result.parameters + (options["num_threads"] != 1))


def run_off_the_reference(*arguments, **options):
    result = train(*arguments, **options)
    return dataclasses.replace(result, particles=result.particles * (1 + 1e-8))


def run_that_writes(net, x, y, **options):
    result = train(net, x, y, **options)
    if x.flags.writeable:
        x[0, 0] += 1
    return result


def run_that_resumes_elsewhere(*arguments, **options):
    if options.get("resume"):
        options.pop("checkpoint")
        options["seed"] += 1
    return minimize(*arguments, **options)


def run_without_a_word(*arguments, **options):
    result = minimize(*arguments, **options)
    history = {**result.history, "variance": result.history["variance"] * np.nan}
    return dataclasses.replace(result, history=history)


def run_that_takes_anything(fun, theta, **options):
    return minimize(fun, theta, **{**options, "steps": 3, "seed": 1, "num_threads": 1, "tolerance": 0.0})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (run_of_threads, "other bits in parameters"),
        (run_off_the_reference, "off the reference"),
        (run_that_writes, "changed"),
        (run_that_resumes_elsewhere, "resumed after"),
        (run_without_a_word, "without a word"),
        (run_that_takes_anything, "taken"),
    ],
)
def test_planted_faults_of_runs_are_found(monkeypatch, fault, words):
    name = "train" if fault in (run_of_threads, run_off_the_reference, run_that_writes) else "minimize"
    monkeypatch.setattr(cbk, name, fault)
    monkeypatch.setattr(fuzz, "RUNS", {name: fuzz.RUNS[name]})
    numbers = range(fuzz.RUN_EVERY - 1, 2000 * fuzz.RUN_EVERY, fuzz.RUN_EVERY)
    with pytest.raises(fuzz.Disagreement, match=rf"(?s)--seed {SEED} --only \d+\n{name}\(.*{words}"):
        fuzz.fuzz(SEED, numbers)


def test_a_crash_is_told_with_its_case(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "crashes.py"))
    (tmp_path / "crashes.py").write_text(
        "import os, struct, sys\n"
        "with open(sys.argv[sys.argv.index('--place') + 1], 'wb') as file:\n"
        "    file.write(struct.pack('q', 41))\n"
        "os.abort()\n"
    )
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--jobs", "1", "--seed", "5"])
    assert fuzz.main() == 1
    assert "crashed: python tests/fuzz.py --seed 5 --only 41" in capfd.readouterr().err
