"""The command `cbokernels`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__, _cpu, cuda
from ._files import checked_path, try_writing
from .errors import CboError
from .experiments import EXPERIMENTS, Options
from .experiments._common import OptionError, job, table

_EXPECTED = (CboError, ImportError, OSError)  # told in one line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (None: those of the process) and return its exit status.

    0: done. 1: failed, with one line on stderr. 2: wrong usage. 130: interrupted.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed its message
        return stop.code if isinstance(stop.code, int) else 2
    try:
        if arguments.command == "info":
            print(information())
        else:
            try:
                _reproduce(arguments)
            except BaseException as error:
                # Of several processes of MPI the others would wait for this one.
                job().end(error, "", trace=not isinstance(error, (*_EXPECTED, KeyboardInterrupt)))
                raise
    except _EXPECTED as error:
        print(f"cbokernels: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cbokernels: interrupted", file=sys.stderr)
        return 130
    return 0


def information() -> str:
    """Version, instruction sets, threads and CUDA devices, one per line."""
    reason = cuda.unavailable_reason()
    rows = {
        "version": __version__,
        "instruction set": f"{_cpu.isa()} (usable here: {', '.join(_cpu.isas())})",
        "threads": str(_cpu.max_threads()),
        "CUDA devices": f"0: {reason}" if reason else f"{cuda.device_count()}: {', '.join(cuda.devices())}",
    }
    return "\n".join(f"{name:<16} {value}" for name, value in rows.items())


def _reproduce(arguments: argparse.Namespace) -> None:
    options = Options(
        arguments.epochs,
        arguments.seeds,
        arguments.device,
        arguments.data,
        arguments.out,
        arguments.quick,
        dict(arguments.changes or ()),
    )
    stem = options.out / arguments.name
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(f"--out must be a folder, got the file {error.filename!r}") from error
    if job().rank == 0:
        for ending in (".csv", ".png"):
            try_writing(checked_path(f"{stem}{ending}", "what --out is to hold"))
    try:
        findings = EXPERIMENTS[arguments.name](options)
    except (TypeError, ValueError) as error:
        if not options.changes:
            raise
        raise OptionError(
            f"--set: {error}"
        ) from error  # values that a method refuses for the experiment's network
    if job().rank:
        return
    if options.changes:  # what is expected holds for the experiment's own parameters
        findings = [dataclasses.replace(finding, agrees=None) for finding in findings]
    print(table(findings, "other parameters" if options.changes else "too little to tell"))
    if not options.changes:
        print(f"\nexpected: {sys.modules[EXPERIMENTS[arguments.name].__module__].EXPECTED}")
    print(f"wrote {stem}.csv and {stem}.png")


class _Experiment(argparse.ArgumentParser):
    """Reads what follows an experiment's name. An unknown option is reported with that experiment's usage."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cbokernels", description="Consensus-based training of two-layer networks on compiled kernels."
    )
    parser.add_argument("--version", action="version", version=f"cbokernels {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="version, instruction sets, threads and CUDA devices")
    shape: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    reproduce = commands.add_parser(
        "reproduce", help="run one of the papers' experiments", epilog=_experiments(), **shape
    )
    _add_options(reproduce)
    names = reproduce.add_subparsers(
        dest="name", required=True, metavar="NAME", title="experiments", parser_class=_Experiment
    )
    for name, run in EXPERIMENTS.items():
        what = sys.modules[run.__module__].__doc__ or ""
        length = (inspect.getdoc(run) or "").partition("\n\n")[2].replace("`quick`", "--quick")
        own = names.add_parser(name, help=what.partition("\n")[0], description=f"{what}\n{length}", **shape)
        _add_options(own, default=argparse.SUPPRESS)  # an option before the name holds too
    return parser


def _add_options(parser: argparse.ArgumentParser, **default: Any) -> None:
    """The options of an experiment, which may stand before or behind its name."""

    def add(*names: str, start: Any = None, **more: Any) -> None:
        parser.add_argument(*names, **{"default": start, **default, **more})

    add("--epochs", type=_count, metavar="N", help="length of each run (default: the experiment's)")
    add("--seeds", type=_count, metavar="K", help="number of runs (default: the experiment's)")
    add(
        "--set", dest="changes", action="append", type=_change, metavar="NAME=VALUE",
        help="another value of a parameter of the methods, as diffusion=1.5; may be repeated",
    )  # fmt: skip
    add("--device", start="cpu", choices=("cpu", "cuda"))
    add("--data", start=Options.data, type=Path, metavar="DIR", help=f"MNIST files (default: {Options.data})")
    add("--out", start=Options.out, type=Path, metavar="DIR", help=f"CSV and PNG (default: {Options.out})")
    add("--quick", start=False, action="store_true", help="a smaller experiment, under half a minute")


def _experiments() -> str:
    """What each experiment is and how long it runs by default, as its module says."""
    lines = []
    for name, run in EXPERIMENTS.items():
        what = (sys.modules[run.__module__].__doc__ or "").partition("\n")[0]
        length = (inspect.getdoc(run) or "").partition("\n\n")[2].replace("`quick`", "--quick")
        lines.append(textwrap.fill(f"{name}: {what} {length}", 100, subsequent_indent="  "))
    return "\n".join([*lines, "", "cbokernels reproduce NAME --help says more of one of them."])


def _change(text: str) -> tuple[str, Any]:
    """NAME=VALUE: a number where the value is one, True, False or None, else text."""
    name, equals, value = text.partition("=")
    if not name.isidentifier() or not equals or not value:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    words = {"True": True, "False": False, "None": None}
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, words.get(value, value)


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
