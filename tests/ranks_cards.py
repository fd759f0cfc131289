"""What test_distributed_cards.py has ranks of MPI do, as in ranks.py."""

import importlib
import json
import os
import sys
import warnings
from types import SimpleNamespace

import numpy as np
from ranks import METHODS, NET, WEIGHT, WORLD, X, Y, apart, one, same_everywhere

import cbokernels as cbk
from cbokernels import _mpi
from cbokernels.distributed import Communicator


def emulated():
    """Let the emulation that CBOKERNELS_CUDA_EMULATION names be the CUDA build, if it names one."""
    if folder := os.environ.get("CBOKERNELS_CUDA_EMULATION"):
        sys.path.insert(0, folder)
        module = importlib.import_module("_cuda_emulated")
        cbk.cuda._module = lambda: module


ON_CARDS = (
    "cbo",
    "best",
    "ess",
    "flying",
    "batch moves",
    "pairs",
    "hybrid",
    "hopping",
    "atoms",
    "tasks",
    "transport",
    "adam",
    "rates",
    "heavy ball",
    "gradient flow",
)
STAYING = [name for name in ON_CARDS if name not in ("hopping", "atoms", "transport")]


def cuda_aware():
    """Let MPI be one that takes addresses on a card. Those of the emulation are the host's."""
    _mpi._takes_device_memory = lambda: True


def cards(out, mpi="plain"):
    """A card for each rank: how far runs are from those of one process on the CPU."""
    emulated()
    if mpi == "aware":
        cuda_aware()
    told = {}
    for name in ON_CARDS if mpi == "plain" else STAYING:
        for options in ({}, {"batch_size": 37, "sample_weight": WEIGHT, "weight_decay": 0.1}):
            options = {**options, "epochs": 2, "dtype": "float64"}
            options["validation"] = (X[:40], METHODS[name][2][..., :40])
            expected = one(name, None, **options) if WORLD.rank == 0 else None
            found = one(name, device="cuda", **options)
            same_everywhere(found)
            if WORLD.rank == 0:
                assert found["particles"].shape == expected["particles"].shape
                told.setdefault(name, []).append(apart(found, expected))
                told[name].append(apart(*({"": run["particles"]} for run in (found, expected))))
    caught, far = [], np.full((50, NET.size), 3e38, np.float32)
    for name, options in (
        ("cbo", {"deterministic": True}),
        ("cbo", {"data": "split"}),
        ("low rank, free", {}),
        ("cbo", {"theta": far, "dtype": "float32"}),
    ):
        try:
            one(name, device="cuda", **options)
        except (ValueError, cbk.ConsensusError) as error:
            caught.append(str(error))
    if WORLD.rank == 0:
        with open(out, "w") as file:
            json.dump([told, caught], file)


def worthless(out):
    """Particles whose risks are not finite, all of the last rank's: what a run says of them."""
    emulated()
    theta = np.random.default_rng(6).uniform(-1, 1, (50, NET.size)).astype(np.float32)
    theta[25 if WORLD.size == 2 else 33 :] = 3e38
    told = []
    for comm, device in ((WORLD, "cuda"), (None, "cpu")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            method = cbk.CBO(alpha=30.0, noise="none")
            result = cbk.train(
                NET, X, Y, method, epochs=3, batch_size=99, theta=theta, comm=comm, device=device
            )
        told.append([result.message, result.parameters.tolist()])
    if WORLD.rank == 0:
        with open(out, "w") as file:
            json.dump(told, file)


def card_steps(out):
    """Of a step on cards: collectives, and bytes copied to the card and from it, by the number of particles.

    From runs that differ by steps alone.
    """
    emulated()
    told = {}
    for aware in (False, True):
        if aware:
            cuda_aware()
        for name in STAYING:
            net, x, y, method, _ = METHODS[name]
            x, y = x[:60], y[..., :60]
            for particles in (50, 100):
                if not isinstance(getattr(method, "lr", 0.0), float):
                    continue  # as many rates as networks
                counted = []
                for batch_size in (len(x) // 2, len(x) // 5):  # 2 and 5 steps an epoch
                    ranks, before = Communicator(WORLD), np.array(cbk.cuda._module().copied_bytes())
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        cbk.train(
                            net, x, y, method.set_params(particles=particles), epochs=2,
                            batch_size=batch_size, comm=ranks, device="cuda",
                        )  # fmt: skip
                    copied = np.array(cbk.cuda._module().copied_bytes()) - before
                    counted.append((dict(ranks.calls), copied))
                (few, bytes_few), (many, bytes_many) = counted
                calls = {n: (many.get(n, 0) - few.get(n, 0)) / 6 for n in many}
                each = [{n: count for n, count in calls.items() if count}, *(bytes_many - bytes_few) / 6]
                told.setdefault(f"{name}{', aware' if aware else ''}", []).append(each)
    if WORLD.rank == 0:
        with open(out, "w") as file:
            json.dump(told, file)


def card_checkpoints(out):
    """Runs on cards that one process goes on with, and runs of one process that all ranks go on with."""
    emulated()
    told = {}
    for name in ("flying", "hybrid", "rates", "heavy ball"):
        expected = one(name, None, epochs=6, dtype="float64") if WORLD.rank == 0 else None
        for first, then in ((WORLD, None), (None, WORLD)):
            options = {"dtype": "float64", "checkpoint": f"{out}.{name}.{first is None}", "resume": True}
            options["device"] = "cuda"
            if WORLD.rank == 0 or first is WORLD:
                one(name, first, epochs=3, **options)
            WORLD.Barrier()
            found = one(name, then, epochs=6, **options) if WORLD.rank == 0 or then is WORLD else None
            WORLD.Barrier()
            if WORLD.rank == 0:
                del found["points"]
                told.setdefault(name, []).append(apart(found, {n: expected[n] for n in found}))
    if WORLD.rank == 0:
        with open(out, "w") as file:
            json.dump(told, file)


def addressed():
    """Numbers that MPI adds up where they are."""
    ranks, numbers = Communicator(WORLD), np.arange(5.0) + WORLD.rank
    ranks.add_on_card(numbers.ctypes.data, len(numbers))
    expected = WORLD.size * np.arange(5.0) + WORLD.size * (WORLD.size - 1) / 2
    np.testing.assert_array_equal(numbers, expected)
    assert ranks.calls == {"Allreduce": 1}
    for answer, unless, expected in ((1, "", True), (0, "", False), (None, "", False), (1, "0", False)):
        os.environ["CBOKERNELS_CUDA_AWARE_MPI"] = unless
        library = {} if answer is None else {"MPIX_Query_cuda_support": lambda answer=answer: answer}
        _mpi.ctypes = SimpleNamespace(CDLL=lambda path, library=library: SimpleNamespace(**library))
        assert Communicator(WORLD).cuda_aware is expected
    _mpi._takes_device_memory = lambda: WORLD.rank > 0  # what one rank's does not take, none is given
    assert not Communicator(WORLD).cuda_aware


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
