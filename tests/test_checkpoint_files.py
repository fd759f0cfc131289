"""Checkpoints as files: what a run writes, and what it makes of files that nobody honest wrote."""

from __future__ import annotations

import fcntl
import io
import os
import random
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import faults
import numpy as np
import pytest
from faults import assert_same

import cbokernels as cbk
from cbokernels import _files, _records

SEED = int(os.environ.get("CBOKERNELS_SEED", "17"))
NOT_OURS = r"must be a file written by cbokernels: "


def run(path, name="transport", epochs=3, **arguments):
    return faults.run(name, epochs, checkpoint=path, resume=True, num_threads=1, **arguments)


def rewrite(path, change):
    """Replace a checkpoint by its last record's header and arrays after a change to them."""
    *_, (header, arrays) = _records.records(path)
    change(header, arrays)
    with open(path, "wb") as file:
        _records.write_record(file, header, arrays)


def npz(shape="(3,)", size=24, compression=zipfile.ZIP_STORED, name="cbokernels.npy"):
    """An npz file of one member, whose header is free to lie."""
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(size)
    with zipfile.ZipFile(file := io.BytesIO(), "w", compression) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def overlapping(count=1000, size=500_000):
    """Members that share their bytes: 0.5 MB are 500 MB."""
    data = bytearray(npz(f"({size // 8},)", size))
    end = data.rindex(b"PK\x05\x06")
    start = data.index(b"PK\x01\x02")
    entry = bytes(data[start:end])
    tail = bytearray(data[end:])
    tail[8:12] = count.to_bytes(2, "little") * 2
    tail[12:16] = (count * len(entry)).to_bytes(4, "little")
    return bytes(data[:start]) + entry * count + bytes(tail)


def set_to(name, index, value):
    def change(header, arrays):
        arrays[name][index] = value

    return change


def put(name, array):
    return lambda header, arrays: arrays.update({name: array})


def drop(name):
    return lambda header, arrays: arrays.pop(name)


def clear(header, arrays):
    arrays.update({name: a[:0] for name, a in arrays.items() if name.startswith(("history.", "values."))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("state.prices", (0, 1, 2), np.nan), "its prices must be finite"),
        (set_to("state.support", 0, np.nan), "its support must be finite"),
        (set_to("state.match", (0, 0, 0), 3), "its match must be permutations"),
        (set_to("state.match", (0, 0), -1), "its match must be permutations"),
        (set_to("state.match", (0, 0, 0), 2**40), "its match must be permutations"),
        (
            put("state.prices", np.zeros((1, 5, 7))),
            r"its prices must be float64 \[1, 5, 8\], got float64 \[1, 5, 7\]",
        ),
        (put("state.particles", np.zeros((5, 32))), r"its particles must be float32 \[5, 32\], got float64"),
        (put("state.point", np.zeros((), np.float32)), r"its point must be float32 \[32\], got float32 \[\]"),
        (put("state.more", np.zeros(3)), "its state must be particles, .* got .*more"),
        (drop("state.support"), "its state must be particles"),
        (drop("state.particles"), "its state must be particles"),
        (drop("history.epoch"), "KeyError: 'epoch'"),
        (drop("history.seconds"), "KeyError: 'seconds'"),
        (set_to("history.epoch", 1, 7), "its epochs are not 1, 2, 3"),
        (clear, "its epochs are not 1, 2, 3"),
        (put("values.dt", np.full((3, 2), 0.1)), r"its dt has shape \[3, 2\]"),
        (set_to("history.seconds", 1, np.nan), "its seconds are not finite"),
        (put("history.risk", np.zeros(2)), r"its risk has shape \[2\] for 3 epochs"),
        (put("values.dt", np.array(0.1)), "zero-dimensional"),
        (lambda header, arrays: header.pop("configuration"), "KeyError: 'configuration'"),
        (lambda header, arrays: header.update(configuration=["seed"]), "its header must hold texts"),
        (lambda header, arrays: header.update({"made by": 3}), "its header must hold texts"),
    ],
)
def test_crafted_checkpoints_are_refused(tmp_path, change, message):
    path = tmp_path / "run"
    run(path)
    rewrite(path, change)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"{path}.*{NOT_OURS}.*{message}"):
        run(path, epochs=5)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        drop("history.objective"),
        put("history.risk", np.zeros((3, 2))),
        drop("values.dt"),
        put("values.x", np.ones(3)),
    ],
)
def test_rows_of_another_kind_are_refused(tmp_path, change):
    path = tmp_path / "run"
    run(path)
    rewrite(path, change)
    with pytest.raises(ValueError, match=rf"checkpoint .*{path}.* must "):
        run(path, epochs=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npz("(549755813888,)"), "it announces an array of float64 .549755813888. and holds another"),
        (npz("(-1, -3)"), "announces an array"),
        (npz("'x'"), ""),
        (npz(compression=zipfile.ZIP_DEFLATED, shape="(67108864,)", size=2**24), "its arrays are compressed"),
        (overlapping(), "its arrays announce more than it holds"),
        (npz("(" * 2000 + ")" * 2000, 0), ""),
        (npz(name="other.npy"), r"it must have a member 'cbokernels', got \['other.npy'\]"),
        (b"", ""),
        (b"PK", r"whole npz archive, got 2 bytes that begin with b'PK'"),
        (
            b"Dear diary, today",
            r"checkpoint or .* npz archive, got 17 bytes that begin with b'Dear diary, toda'",
        ),
    ],
    ids=[
        "4 TB",
        "negative",
        "no shape",
        "compressed",
        "overlapping",
        "nested",
        "no header",
        "empty",
        "short",
        "text",
    ],
)
@pytest.mark.parametrize("framed", [True, False])
def test_files_that_announce_more_than_they_hold(tmp_path, content, message, framed):
    path = tmp_path / "run"
    frame = _records._FRAME.pack(_records._MARK, len(content))
    path.write_bytes(frame + content if framed else content)
    for read in (lambda: run(path, "cbo"), lambda: cbk.Result.load(path)):
        with pytest.raises(ValueError, match=f"{path}.*{NOT_OURS}.*{message}"):
            read()


def test_a_header_that_is_nested_too_deeply(tmp_path):
    path = tmp_path / "run"
    text = np.frombuffer(b"[" * 100_000, np.uint8)
    with open(path, "wb") as file:
        np.savez(file, cbokernels=text)
    with pytest.raises(ValueError, match=f"{NOT_OURS}RecursionError"):
        cbk.Result.load(path)


def test_a_file_that_is_there_twice_is_refused_by_load_too(tmp_path):
    path = tmp_path / "twice"
    run(path)
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(ValueError, match="its epochs are not 1, 2, 3"):
        cbk.Result.load(path)


def test_the_format_before_this_one(tmp_path):
    path = tmp_path / "run"
    with open(path, "wb") as file:
        np.savez(file, cbokernels=np.array('{"version": 1, "kind": "checkpoint"}'), particles=np.ones((3, 4)))
    with pytest.raises(ValueError, match=f"{path}.*{NOT_OURS}"):
        run(path, "cbo")


@pytest.mark.parametrize("kind", ["checkpoint", "result"])
def test_damaged_files_are_an_earlier_epoch_or_refused(tmp_path, kind):
    """Cut at any length, or with some bytes changed, never another exception nor other numbers."""
    print(f"CBOKERNELS_SEED={SEED}")
    rng = random.Random(SEED)
    path, copy = tmp_path / "run", tmp_path / "copy"
    whole = run(path, "minimize by hopping", epochs=410, every=1)  # some records after the last new file
    assert len(list(_records.records(path))) > 2
    if kind == "result":
        whole.save(path)
    content = path.read_bytes()
    read = refused = 0
    for trial in range(600):
        damaged = bytearray(content)
        if trial % 2 == 0:
            del damaged[rng.randrange(len(content)) :]
        else:
            for _ in range(rng.choice([1, 1, 8])):
                damaged[rng.randrange(len(content))] = rng.randrange(256)
        copy.write_bytes(damaged)
        try:
            loaded = cbk.Result.load(copy)
        except ValueError as error:
            refused += str(copy) in str(error)
            continue
        read += 1
        done = len(loaded.history["epoch"])
        for name, column in loaded.history.items():
            np.testing.assert_array_equal(column, whole.history[name][:done])
    assert read + refused == 600
    assert refused > 50
    assert read > 50 or kind == "result"


def test_a_torn_record_costs_what_it_holds_alone(tmp_path):
    path = tmp_path / "run"
    run(path, "minimize by hopping", epochs=400, every=1)
    saved = len(cbk.Result.load(path).history["epoch"])
    with open(path, "ab") as file:
        file.write(_records._FRAME.pack(_records._MARK, 10**6) + b"half")
    assert len(cbk.Result.load(path).history["epoch"]) == saved
    whole = faults.run("minimize by hopping", 410)
    assert_same(run(path, "minimize by hopping", epochs=410), whole)


def test_what_a_save_writes_does_not_grow_with_the_run(tmp_path):
    def written():
        return int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])

    marks = {}

    def callback(state):
        if state.epoch % 125 == 0:
            marks[state.epoch] = written()

    run(tmp_path / "run", "minimize", epochs=500, every=1, callback=callback)
    first, last = (marks[e] - marks[e - 125] for e in (250, 500))
    assert last < 1.5 * first  # the files' length is about twice, and so it would be if they were rewritten
    history = sum(a.nbytes for a in cbk.Result.load(tmp_path / "run").history.values())
    assert (tmp_path / "run").stat().st_size < 8 * history


@pytest.mark.parametrize("foreign", [False, True])
def test_a_file_that_is_moved_away_is_written_anew(tmp_path, foreign):
    path = tmp_path / "run"

    def callback(state):
        if state.epoch == 30:
            path.rename(tmp_path / "moved")
            if foreign:
                path.write_bytes(b"another's")
        return state.epoch == 30

    result = run(path, "minimize", epochs=60, every=1, callback=callback)
    assert_same(cbk.Result.load(path), result)
    assert len(cbk.Result.load(tmp_path / "moved").history["epoch"]) == 29


@pytest.mark.parametrize("path", ["", "a\0b", Path("a\0b")])
def test_no_path(path):
    for name, act in (("checkpoint", lambda: run(path, "cbo")), ("path", lambda: cbk.Result.load(path))):
        with pytest.raises(ValueError, match=re.escape(f"{name} must be the path of a file, got {path!r}")):
            act()


def test_no_regular_file(tmp_path):
    path = tmp_path / "run"
    os.mkfifo(path)
    for act in (
        lambda: run(path, "cbo"),
        lambda: cbk.Result.load(path),
        lambda: run("/dev/null", "cbo"),
    ):
        with pytest.raises(ValueError, match=r"must be a regular file, got the (FIFO|device)"):
            act()


def test_links_stay_and_their_target_is_written(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "run"
    link.symlink_to(target)
    result = run(link, "cbo", every=1)
    assert link.is_symlink()
    assert_same(cbk.Result.load(target), result)
    result.save(link)
    assert link.is_symlink()
    assert os.listdir(tmp_path / "elsewhere") == ["run"]


def test_relative_paths_stay_where_they_were(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    run("run", "cbo", every=1, callback=lambda state: os.chdir(tmp_path / "other"))
    assert os.listdir(tmp_path / "other") == []
    assert len(cbk.Result.load(tmp_path / "run").history["epoch"]) == 3


def test_leftovers_are_removed_but_no_living_processs(tmp_path):
    for name in (
        ".run.01234567.tmp",
        ".run.89abcdef.tmp",
        ".run2.01234567.tmp",
        ".run.tmp",
        "run.01234567.tmp",
    ):
        (tmp_path / name).write_bytes(b"half")
    with open(tmp_path / ".run.89abcdef.tmp") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        run(tmp_path / "run", "cbo")
    left = {".run.89abcdef.tmp", ".run2.01234567.tmp", ".run.tmp", "run.01234567.tmp", "run"}
    assert set(os.listdir(tmp_path)) == left


def test_what_is_being_written_is_locked(tmp_path):
    def write(file):
        _files.sweep(tmp_path / "run")
        file.write(b"whole")

    _files.write_whole(tmp_path / "run", write)
    assert (tmp_path / "run").read_bytes() == b"whole"


def test_another_instruction_set_is_told_of(tmp_path):
    others = [isa for isa in cbk.isas() if isa != cbk.isa()]
    if not others:
        pytest.skip("needs a machine with two of the compiled instruction sets")
    path = tmp_path / "run"
    code = f"import sys; sys.path.insert(0, {str(Path(faults.__file__).parent)!r}); import faults; "
    subprocess.run(
        [sys.executable, "-c", code + "faults.run('cbo', 2, checkpoint=sys.argv[1])", str(path)],
        env={**os.environ, "CBOKERNELS_ISA": others[0]},
        check=True,
    )
    message = rf"{path}.* instruction set {others[0]} and is continued by .* instruction set {cbk.isa()}: "
    with pytest.warns(cbk.CboWarning, match=message) as caught:
        run(path, "cbo")
    assert caught[0].filename == faults.__file__
    run(path, "cbo", epochs=4)  # of this one now


def test_another_version_is_told_of(tmp_path, monkeypatch):
    run(tmp_path / "run", "cbo")
    monkeypatch.setattr("cbokernels._version.number", lambda: "99.0")
    with pytest.warns(cbk.CboWarning, match=r"continued by cbokernels 99.0"):
        run(tmp_path / "run", "cbo", epochs=4)


@pytest.mark.parametrize("resume", [False, True])
def test_other_files_are_not_written_over(tmp_path, resume):
    path, result = tmp_path / "notes", tmp_path / "result"
    path.write_text("years of work")
    cbk.minimize(lambda t: t[:, 0] ** 2, np.arange(3.0)[:, None], steps=2).save(result)
    net, x = cbk.TwoLayer(1, 3), np.ones((4, 1))
    for file in (path, result):
        before = file.read_bytes()
        for call in (
            lambda at: cbk.train(net, x, x, cbk.CBO(particles=4), epochs=1, checkpoint=at, resume=resume),
            lambda at: cbk.minimize(
                lambda t: t[:, 0] ** 2, np.arange(3.0)[:, None], steps=1, checkpoint=at, resume=resume
            ),
        ):
            with pytest.raises(ValueError, match=re.escape(str(file))):
                call(file)
        assert file.read_bytes() == before
    (tmp_path / "empty").touch()
    cbk.minimize(lambda t: t[:, 0] ** 2, np.arange(3.0)[:, None], steps=1, checkpoint=tmp_path / "empty")
    cbk.minimize(lambda t: t[:, 0] ** 2, np.arange(3.0)[:, None], steps=1, checkpoint=tmp_path / "empty")
