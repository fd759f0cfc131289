"""The first run on a card: nothing is lost, no stage stops the next, every goal has a verdict."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

GPU = Path(__file__).parents[1] / "bench" / "gpu"
pytestmark = pytest.mark.skipif(not GPU.is_dir(), reason="a source distribution has no benchmarks")

STEPS = {  # the bodies of stages' steps; each module has `found`, a step that writes a row, first and last
    "slow": "child = subprocess.Popen(['sleep', '60']); yield Row('child', 'pid', child.pid); time.sleep(60)",
    "raises": "yield Row('early', 'row', 1.0); raise ValueError('a reason')",
    "dies": "yield Row('early', 'row', 1.0); os._exit(5)",
    "hangs": "yield Row('early', 'row', 1.0); time.sleep(60)",
    "skips": "raise Skip('no such tool'); yield",
}
HEAD = "import os, subprocess, time\nfrom record import Row, Skip\n"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of bench/gpu, afresh: some have the names of other programs'."""
    monkeypatch.syspath_prepend(str(GPU))
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(GPU) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def stages(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs stages of these modules, each with a limit and a step's, into a folder; its rows."""
    for name, body in STEPS.items():
        source = (
            f"{HEAD}def {name}():\n    {body}\ndef found():\n    yield Row('found', 'row', 2.0, ok=True)\n"
        )
        table = f"{{'first': found, '{name}': {name}, 'last': found}}"
        (tmp_path / f"stage_{name}.py").write_text(f"{source}def steps(context):\n    return {table}\n")
    (tmp_path / "stage_broken.py").write_text("import no_such_module\n")
    (tmp_path / "stage_absent.py").write_text(f"{HEAD}def steps(context): raise Skip('needs a card')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    first_run = module("first_run")

    def run(*chosen: tuple[str, float, float], out: str = "out", minutes: float = 5.0) -> dict[Any, Any]:
        options = {"rehearse": True, "work": str(tmp_path), "module": None, "architectures": None}
        work = first_run.Run(tmp_path / out, minutes, options)
        work.stages([first_run.Stage(name, f"stage_{name}", *limits) for name, *limits in chosen])
        found = module("record").rows(tmp_path / out / "rows.jsonl")
        return {(row.stage, row.item, row.what): row for row in found}

    return run


def ends(pid: float) -> bool:
    """Whether a process is gone within some seconds, or waits for its end to be noticed."""
    status = Path(f"/proc/{pid:.0f}/stat")
    for _ in range(300):
        try:
            if status.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_stage_that_is_cut_off_keeps_its_rows(stages: Any, tmp_path: Path) -> None:
    rows = stages(("slow", 8, 60), ("raises", 30, 60))  # seconds for a busy machine to start Python
    assert rows["slow", "found", "row"].value == 2
    ended = rows["stages", "slow", "ended"]
    assert (ended.ok, ended.note) == (False, "cut off after 8 s, in slow")
    assert rows["stages", "raises", "ended"].value is not None
    assert ends(rows["slow", "child", "pid"].value)  # what it had started has ended with it
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| slow | 8" in summary
    assert "cut off after 8 s" in summary


@pytest.mark.slow
def test_steps_do_not_stop_the_next(stages: Any, tmp_path: Path) -> None:
    names = "raises", "dies", "hangs", "skips", "broken", "absent"
    # seconds of a step: a busy machine takes some to start Python
    rows = stages(*((name, 60, 6 if name == "hangs" else 30) for name in names))
    for name in names[:3]:
        assert rows[name, "early", "row"].value == 1
    assert rows["raises", "raises", "raised"].note == "ValueError: a reason"
    assert "exit status 5" in rows["dies", "dies", "died"].note
    assert "limit 6 s" in rows["hangs", "hangs", "died"].note
    assert "Timeout" in (tmp_path / "out" / "hangs.log").read_text()
    assert rows["skips", "skips", "skipped"].ok is None
    assert rows["broken", "whole stage", "raised"].note.startswith("ModuleNotFoundError")
    told = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    for name in names[:4]:  # the steps before and behind ran once each
        assert len([1 for row in told if (row["stage"], row["item"]) == (name, "found")]) == 2
    notes = [(rows["stages", name, "ended"].ok, rows["stages", name, "ended"].note) for name in names]
    assert notes == [
        (True, ""), (False, "1 steps died"), (False, "1 steps died"), (True, ""),
        (False, "could not begin, exit status 1: see broken.log"), (None, "needs a card"),
    ]  # fmt: skip


@pytest.mark.slow
def test_time_that_is_over_is_noted(stages: Any, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module("first_run"), "LEAST", 0.5)
    rows = stages(("slow", 20, 20), ("skips", 20, 20), minutes=3 / 60)
    assert rows["stages", "slow", "ended"].note.startswith("cut off after ")
    assert rows["stages", "skips", "ended"].note == "not run: out of time"


@pytest.mark.slow
def test_a_later_run_adds_to_the_folder(stages: Any, tmp_path: Path) -> None:
    stages(("raises", 20, 20))
    mended = (tmp_path / "stage_raises.py").read_text().replace("raise ValueError('a reason')", "")
    (tmp_path / "stage_raises.py").write_text(mended.replace("1.0", "3.0"))
    rows = stages(("skips", 20, 20))
    assert ("raises", "raises", "raised") in rows
    rows = stages(("raises", 20, 20))
    assert rows["raises", "early", "row"].value == 3
    assert ("raises", "raises", "raised") not in rows
    assert ("skips", "found", "row") in rows
    assert "a reason" not in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.slow
def test_an_end_by_a_signal_keeps_all(stages: Any, tmp_path: Path) -> None:
    stages(("skips", 20, 20))
    code = (
        f"import sys; sys.path.insert(0, {str(GPU)!r}); import first_run\n"
        "first_run.STAGES = [first_run.Stage('slow', 'stage_slow', 50, 50)]\n"
        f"first_run.main(['--rehearse', '--work', {str(tmp_path)!r}, '--out', {str(tmp_path / 'out')!r}])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    rows = tmp_path / "out" / "rows.jsonl"
    for _ in range(1200):
        if '"child"' in rows.read_text():
            break
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 143
    pids = [row["value"] for row in map(json.loads, rows.read_text().splitlines()) if row["item"] == "child"]
    assert ends(pids[0])
    assert "| child | pid |" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.slow
def test_the_rehearsal_has_a_row_for_every_goal_and_judges_none(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CBOKERNELS_CUDA_EMULATION", raising=False)  # which takes long: .ci/cuda has it
    first_run = module("first_run")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    names = "facts,calls,targets,times,tests,profiles,sanitizers"
    assert first_run.main(["--rehearse", "--out", str(tmp_path / "out"), "--stages", names]) == 0
    with tarfile.open(tmp_path / "out.tar.gz") as packed:
        assert "out/summary.md" in packed.getnames()
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "reached**" not in summary  # of figures that mean nothing
    verdicts = [line for line in summary.splitlines() if line.endswith(("| not judged |", "| not run |"))]
    assert [line.split(" |")[0][2:] for line in verdicts] == [goal.name for goal in module("goals").GOALS]
    not_run = [line for line in verdicts if line.endswith("not run |")]
    assert len(not_run) == 6  # those of the stage that was left out
    rows = module("record").rows(tmp_path / "out" / "rows.jsonl")
    assert [row for row in rows if row.ok is False] == []
    for stage in ("calls", "tests", "profiles", "sanitizers"):
        assert [row.what for row in rows if row.stage == stage] == ["skipped"]


def test_verdicts(module: Any) -> None:
    goals, record = module("goals"), module("record")
    rows = [
        record.Row("A whole step", "cbk.train, float32", 12.0, "µs"),
        record.Row("B risk tf32", "cbokernels", 160.0, "µs"),
        record.Row("B risk tf32", "cbokernels, wgmma", 140.0, "µs"),
        record.Row("B risk tf32", "PyTorch eager", 1.0, "µs"),
        record.Row("B risk bf16", "cbokernels", note="a reason"),
        record.Row("B update", "cbokernels", 30.0, share=80.0, of="copy"),
        record.Row("B consensus, full read", "cbokernels", 30.0, share=79.9, of="read"),
        record.Row("NaN", "all", ok=False),
        record.Row("noise", "all", 0, ok=True),
    ]
    told = {name: (measured, verdict) for name, measured, verdict in goals.verdicts(rows, record.shown)}
    verdicts = [verdict.strip("*") for _, verdict in told.values()]
    no = "not reached"
    assert verdicts == [no, "not run", "reached", "not run", "reached", no, *["not run"] * 4, "reached",
                        *["not run"] * 4, no]  # fmt: skip
    assert told["B, risk in tf32, at most 0.15 ms"][0] == "cbokernels, wgmma: 140 µs"
    assert told["B, risk in bf16, at most 0.10 ms"][0] == "a reason"


class Queue:
    """A card whose stream is busy for as long as it was told, and whose host needs a millisecond a call."""

    def __init__(self, slow: float = 1.0) -> None:
        self.host, self.free, self._slow = 0.0, 0.0, slow  # milliseconds

    def synchronize(self) -> None:
        self.host = self.free = max(self.host, self.free)

    def busy(self, milliseconds: float) -> None:
        self.free = max(self.host, self.free) + milliseconds * self._slow

    def call(self, _: int) -> None:
        """Takes the card a tenth of a millisecond."""
        self.host += 1.0
        time.sleep(0.001)
        self.free = max(self.host, self.free) + 0.1

    def event(self) -> float:
        return max(self.host, self.free)

    def passed(self, event: float) -> bool:
        return event <= self.host

    def between(self, start: float, end: float) -> float:
        self.synchronize()
        return (end - start) * 1e3

    def graph(self, call: Any, copies: int) -> Any:
        def replay() -> None:
            self.host += 1.0
            time.sleep(0.001)
            self.free = max(self.host, self.free) + 0.1 * copies

        return replay


@pytest.mark.parametrize("slow", [1.0, 0.2])
def test_times_are_the_cards(module: Any, slow: float) -> None:
    """Not the host's, which takes ten times as long to enqueue the calls."""
    queue = Queue(slow)
    row = module("measure").Clock(queue, 3).row("item", "ours", queue.call)
    assert row.value == pytest.approx(100)
    assert row.note == ""
    row = module("measure").Clock(queue, 3).graph("item", "ours", queue.call)
    assert [row.value, row.low, row.high] == pytest.approx([100] * 3)


def test_a_queue_that_runs_dry_is_told(module: Any) -> None:
    queue = Queue(0.0)
    row = module("measure").Clock(queue, 3).row("item", "ours", queue.call)
    assert row.value > 900
    assert row.note == "the queue ran dry: Python's speed counts"


def tool(folder: Path, name: str, text: str) -> None:
    """A program that prints something."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    (folder / name).chmod(0o755)


def test_what_the_tools_say(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of programs that are not here."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    race = "========= Error: Race reported between Write access at a_kernel\n"
    facts = module("facts")
    answers = [*map(str, range(1, len(facts.ASKED.split(",")))), "CUDA Version: 13.0"]
    tool(tmp_path / "bin", "nvidia-smi", ", ".join(answers))
    assert [row.note for row in facts.smi()] == ["13.0", *answers]
    sanitizers = module("sanitizers")
    for text, result in (
        ("========= ERROR SUMMARY: 0 errors", (0, True)),
        (f"{race}========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)", (1, False)),
        ("========= Error: Target application terminated", (None, False)),
    ):
        tool(tmp_path / "bin", "compute-sanitizer", text)
        (row,) = sanitizers.judged("racecheck", "racecheck", (), "true", tmp_path / "log")
        assert (row.value, row.ok) == result
    (row,) = sanitizers.judged("racecheck", "racecheck", sanitizers.ALONE, "true", tmp_path / "log")
    assert "application terminated" in row.note

    stall = "smsp__average_warps_issue_stalled_{}_per_issue_active.ratio"
    names = ["Kernel Name", "gpu__time_duration.sum", "launch__grid_size", stall.format("wait")]
    lines = [
        names,
        ["", "us", "", "inst"],
        ["void cbk::device::(anonymous namespace)::sums<1>(int)", "12.5", "1,024", "3"],
    ]
    text = "==PROF== Connected\n" + "\n".join(",".join(f'"{word}"' for word in line) for line in lines)
    tool(tmp_path / "bin", "ncu", text)
    context = module("stage").Context({"rehearse": False, "out": str(tmp_path), "work": str(tmp_path)})
    (row,) = module("profiles").profiled("B risk", context)
    assert (row.what, row.value, row.unit) == ("1. sums<1>", 12.5, "us")
    assert row.note == "1,024 blocks; stalled by wait 3"
    tool(tmp_path / "bin", "ncu", "==ERROR== ERR_NVGPUCTRPERM")
    with pytest.raises(module("record").Skip, match="ERR_NVGPUCTRPERM"):
        list(module("profiles").profiled("B risk", context))


def test_modules_built_before_are_taken(module: Any, tmp_path: Path) -> None:
    build, built = module("build"), tmp_path / "built"
    built.mkdir()
    with pytest.raises(FileNotFoundError, match=r"no _cuda\*\.so in .*built"):
        build.link(tmp_path / "work", built)
    for name in ("_cuda.abi3.so", "_cpu.abi3.so", "kernels", "roots"):
        (built / name).write_text(name)
    for given in (built, built / "_cuda.abi3.so"):
        build.link(tmp_path / "work", given)
        package = tmp_path / "work" / "package" / "cbokernels"
        assert (package / "_cuda.abi3.so").read_text() == "_cuda.abi3.so"
        assert (package / "__init__.py").resolve() == GPU.parents[1] / "python" / "cbokernels" / "__init__.py"
        assert (tmp_path / "work" / "kernels").read_text() == "kernels"
        assert (tmp_path / "work" / "roots").read_text() == "roots"
    (cpu,) = package.glob("_cpu*.so")  # the file alone was given: the CPU's is the installed one
    assert cpu.resolve().parent != built
