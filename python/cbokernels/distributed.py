"""Ensembles on several processes, by MPI: `train` and `minimize` with a communicator of mpi4py.

    from mpi4py import MPI
    result = cbk.train(net, x, y, cbk.CBO(particles=100_000), comm=MPI.COMM_WORLD)

docs/MPI.md has what is exchanged, what the ranks' results are, and how a job ends.
"""

from ._mpi import Communicator, gather
from .minimize import minimize
from .training import train

__all__ = ["Communicator", "gather", "minimize", "train"]
