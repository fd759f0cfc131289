"""The command line: what it prints, its exit status, and no traceback for what is expected."""

from __future__ import annotations

import csv
import functools
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import cbokernels as cbk
from cbokernels import cli
from cbokernels.experiments import EXPERIMENTS, Finding, Options
from cbokernels.experiments._common import OptionError

COMMAND = [sys.executable, "-m", "cbokernels.cli"]


def run(*arguments, env=None, cwd=None):
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=cwd,
        check=False,
    )


@pytest.fixture
def here(capsys):
    """As `run`, in this process."""

    def run(*arguments):
        status = cli.main([*map(str, arguments)])
        told = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=told.out, stderr=told.err)

    return run


def test_info():
    done = run("info")
    assert done.returncode == 0
    assert done.stderr == ""
    lines = dict(line.split(None, 1) for line in done.stdout.replace(" set ", "-set ").splitlines()[:3])
    assert lines["version"] == cbk.__version__
    assert lines["threads"].isdecimal()
    assert lines["instruction-set"].split()[0] == cbk.isa()
    assert all(name in lines["instruction-set"] for name in cbk.isas())
    assert "CUDA devices" in done.stdout


@pytest.mark.parametrize("isa", cbk.isas())
def test_info_names_the_forced_instruction_set(isa):
    done = run("info", env={"CBOKERNELS_ISA": isa})
    assert f"instruction set  {isa} " in done.stdout


@pytest.mark.skipif(cbk.cuda.is_available(), reason="there is a CUDA device")
def test_info_says_why_there_is_no_cuda(capsys):
    assert cli.main(["info"]) == 0
    assert cbk.cuda.unavailable_reason() in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["reproduce"],
        ["reproduce", "no-such-experiment"],
        ["reproduce", "sine", "--epochs", "0"],
        ["reproduce", "sine", "--epochs", "-3"],
        ["reproduce", "sine", "--epochs", "1.5"],
        ["reproduce", "sine", "--seeds", "many"],
        ["reproduce", "sine", "--device", "tpu"],
        ["reproduce", "sine", "--set", "dt"],
        ["reproduce", "sine", "--set", "=1"],
        ["info", "--no-such-option"],
    ],
)
def test_wrong_usage(arguments, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: cbokernels" in shown.err


def test_help(capsys):
    assert cli.main(["reproduce", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("sine", "mnist", "--epochs", "--seeds", "--device", "--data", "--out")
    )
    about = " ".join(text.split())
    for name in EXPERIMENTS:
        assert f" {name}: " in about
    assert "1000 epochs with 10 seeds (--quick: 300 with 1)" in about


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"cbokernels {cbk.__version__}\n"


def test_the_package_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "cbokernels", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"cbokernels {cbk.__version__}\n"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_of_an_experiment_says_what_it_shows(name, capsys):
    assert cli.main(["reproduce", name, "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    what = sys.modules[EXPERIMENTS[name].__module__].__doc__
    assert " ".join(what.split()) in shown
    assert "--quick: " in shown or "`quick`" not in EXPERIMENTS[name].__doc__
    assert "--set NAME=VALUE" in shown


def test_options_before_the_name_hold_too():
    before = cli._parser().parse_args(["reproduce", "--quick", "--seeds", "3", "sine", "--epochs", "7"])
    behind = cli._parser().parse_args(["reproduce", "sine", "--epochs", "7", "--quick", "--seeds", "3"])
    assert before == behind
    assert (before.quick, before.seeds, before.epochs, before.device) == (True, 3, 7, "cpu")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dt=0.5", 0.5),
        ("particles=7", 7),
        ("alpha=inf", float("inf")),
        ("mirrored=False", False),
        ("noise=none", "none"),
    ],
)
def test_set_reads_a_value(text, value):
    arguments = cli._parser().parse_args(["reproduce", "sine", "--set", text])
    assert arguments.changes == [(text.partition("=")[0], value)]
    assert type(arguments.changes[0][1]) is type(value)


def test_an_unknown_option_is_told_of_with_the_experiment(capsys):
    assert cli.main(["reproduce", "sine", "--nope"]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("usage: cbokernels reproduce sine")
    assert shown.endswith("error: unrecognized arguments: --nope\n")


def test_set_takes_words_in_any_case_for_what_is_no_name():
    methods = {
        "hopping": cbk.ConsensusHopping(rank=2),
        "full": cbk.ConsensusHopping(mirrored=True),
        "cbo": cbk.CBO(noise="isotropic"),
    }
    changed = Options(changes={"rank": "none", "mirrored": "FALSE", "noise": "none"}).changed(methods)
    assert changed["hopping"].rank is None
    assert changed["full"].mirrored is False
    assert changed["cbo"].noise == "none"


def test_set_is_for_the_methods_that_take_such_a_value():
    """drift is a number of CBO, and a word of hopping."""
    methods = {"cbo": cbk.CBO(), "hopping": cbk.ConsensusHopping()}
    changed = Options(changes={"drift": 0.5}).changed(methods)
    assert (changed["cbo"].drift, changed["hopping"].drift) == (0.5, "auto")
    changed = Options(changes={"drift": "mean"}).changed(methods)
    assert (changed["cbo"].drift, changed["hopping"].drift) == (cbk.CBO().drift, "mean")
    with pytest.raises(OptionError, match="drift must be"):
        Options(changes={"drift": [1]}).changed(methods)


def test_set_changes_the_methods(here, tmp_path):
    done = here("reproduce", "sine", "--epochs", 2, "--seeds", 1, "--set", "particles=6", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-3:-1] for line in done.stdout.splitlines()[2:8]] == [["other", "parameters"]] * 6
    assert "a plain implementation of its parameters" not in done.stdout
    with (tmp_path / "sine.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["passes"] for row in rows if row["epoch"] == "1"] == ["6", "6", "18", "6"]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("sine", "no_such=1", ("no_such", "there is no such parameter", "diffusion")),
        ("sine", "dt=-1", ("dt must lie in [0, inf), got -1",)),
        ("square", "noise=none", ("noise", "there is no such parameter")),
        ("mean-field", "dt=0.1", ("mean-field",)),
        ("sine", "lr=None", ("lr must be a real number, got None",)),
    ],
)
def test_set_of_what_is_not_there(here, tmp_path, name, change, words):
    assert_one_line(here("reproduce", name, "--set", change, "--out", tmp_path), "--set", *words)


def test_set_of_what_only_a_run_refuses(tmp_path, monkeypatch, capsys):
    def refuse(options):
        raise ValueError("rank must be None")

    monkeypatch.setitem(EXPERIMENTS, "sine", refuse)
    assert cli.main(["reproduce", "sine", "--set", "rank=1", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "cbokernels: --set: rank must be None\n"
    with pytest.raises(ValueError, match="rank"):  # a fault of the experiment's own keeps its traceback
        cli.main(["reproduce", "sine", "--out", str(tmp_path)])


def test_what_is_expected_has_its_source_in_the_last_lines(tmp_path, monkeypatch, capsys):
    sources = {}
    for name, reproduce in list(EXPERIMENTS.items()):
        module = sys.modules[reproduce.__module__]
        made = functools.wraps(reproduce)(lambda options: [Finding("this", "that", True, 1.0)])
        monkeypatch.setitem(EXPERIMENTS, name, made)
        assert cli.main(["reproduce", name, "--out", str(tmp_path)]) == 0
        said = capsys.readouterr().out.splitlines()[-2]
        assert said == f"expected: {module.EXPECTED}"
        sources[name] = said
    papers = [name for name, said in sources.items() if "the paper's figure" in said]
    assert papers == ["sine", "mnist", "multitask", "square"]
    assert "straight-through estimator" in sources["binary"]


def assert_one_line(done, *words):
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("cbokernels: ")
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_missing_data(tmp_path):
    done = run("reproduce", "mnist", "--data", tmp_path / "none", "--out", tmp_path)
    assert_one_line(done, "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "10,000-image", "--data")


@pytest.mark.skipif(cbk.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(here, tmp_path):
    assert_one_line(here("reproduce", "sine", "--device", "cuda", "--out", tmp_path), "device='cuda'")


@pytest.mark.parametrize("module", ["matplotlib", "tqdm"])
def test_missing_package(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run("reproduce", "sine", "--epochs", 1, "--out", tmp_path / "out", env={"PYTHONPATH": path})
    assert_one_line(done, module, "cbokernels[plots]")


def test_out_that_is_a_file(here, tmp_path):
    (tmp_path / "out").write_text("")
    for out in (tmp_path / "out", tmp_path / "out" / "folder"):
        assert_one_line(
            here("reproduce", "sine", "--out", out), "--out must be a folder, got the file", str(out)
        )


@pytest.mark.parametrize("ending", [".csv", ".png"])
def test_out_that_cannot_hold_the_results_is_told_before_the_runs(here, tmp_path, ending):
    (tmp_path / f"sine{ending}").mkdir()
    done = here("reproduce", "sine", "--out", tmp_path)
    assert_one_line(done, "what --out is to hold must be a file, got the directory", f"sine{ending}")


def test_quick_sine(tmp_path):
    done = run("reproduce", "sine", "--quick", "--epochs", 100, "--out", tmp_path / "new" / "folder")
    assert done.returncode == 0
    first, *lines = done.stderr.splitlines()
    assert first.startswith("4 curves of 1 seed, 400 epochs in all, about ")
    assert "100% 400/400" in lines[-1]
    assert "\r" not in done.stderr
    assert len(lines) < 20
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["expected", "measured", "agrees", "seconds"]
    # one run is too few to compare its risk, 100 epochs for most; that the ensemble freezes is a theorem
    verdicts = [line.split()[-2] for line in lines[2:8]]
    assert verdicts == ["tell", "yes", "tell", "tell", "tell", "tell"], done.stdout
    assert (tmp_path / "new" / "folder" / "sine.csv").is_file()
    assert (tmp_path / "new" / "folder" / "sine.png").is_file()


def test_interrupt(tmp_path):
    process = subprocess.Popen(
        [*COMMAND, "reproduce", "sine", "--epochs", "1000000", "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # The bar's first line means that the run is under way.
    shown = ""
    while "risk" not in shown:
        character = process.stderr.read(1)
        assert character, f"ended before it was interrupted: {shown}"
        shown += character
    process.send_signal(signal.SIGINT)
    try:
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert output == ""
    assert "cbokernels: interrupted" in errors
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []
