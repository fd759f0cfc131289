"""Consensus-based optimization of two-layer neural networks on hand-written kernels.

Kernels (`forward`, `risk`, `consensus`, `cbo_update`, ...) are plain functions of arrays; `train` and
`minimize` run whole methods on them; `reference` specifies them in plain NumPy; `cuda` says what the GPU side
can do.
"""

from . import _interpreter as _interpreter  # before anything that cannot be loaded twice

# isort: split
import importlib
from typing import TYPE_CHECKING, Any

from . import _openmp as _openmp  # before anything that needs the compiled modules
from . import _version, cuda
from ._cpu import isa, isas
from .consensus import Consensus, consensus
from .errors import CboError, CboWarning, ConsensusError, CudaUnavailableError
from .estimate import Estimate, estimate
from .hopping import atom_risks
from .langevin import langevin_step
from .losses import Huber, Pinball
from .methods import CBO, Adam, ConsensusHopping, GradientFlow, HeavyBall, Hybrid, MultiTaskCBO, TransportCBO
from .minimize import minimize
from .network import TwoLayer
from .random import philox4x32, standard_normal
from .result import Result, State
from .risk import Plan, forward, plan, risk, risk_gradient, task_risks
from .schedules import Constant, Exponential, Geometric, TargetEss, Tenfold
from .sinkhorn import Sinkhorn, SinkhornBarycenter, sinkhorn, sinkhorn_barycenter
from .training import train
from .transport import (
    Assignment,
    Barycenter,
    CertifiedAssignment,
    assign,
    barycenter,
    transport_update,
    wasserstein2,
    wasserstein_over_wasserstein,
)
from .update import adam_update, cbo_update, hybrid_update

if TYPE_CHECKING:
    from . import reference

    __version__: str

__all__ = [
    "CBO",
    "Adam",
    "Assignment",
    "Barycenter",
    "CboError",
    "CboWarning",
    "CertifiedAssignment",
    "Consensus",
    "ConsensusError",
    "ConsensusHopping",
    "Constant",
    "CudaUnavailableError",
    "Estimate",
    "Exponential",
    "Geometric",
    "GradientFlow",
    "HeavyBall",
    "Huber",
    "Hybrid",
    "MultiTaskCBO",
    "Pinball",
    "Plan",
    "Result",
    "Sinkhorn",
    "SinkhornBarycenter",
    "State",
    "TargetEss",
    "Tenfold",
    "TransportCBO",
    "TwoLayer",
    "adam_update",
    "assign",
    "atom_risks",
    "barycenter",
    "cbo_update",
    "consensus",
    "cuda",
    "estimate",
    "forward",
    "hybrid_update",
    "isa",
    "isas",
    "langevin_step",
    "minimize",
    "philox4x32",
    "plan",
    "reference",
    "risk",
    "risk_gradient",
    "sinkhorn",
    "sinkhorn_barycenter",
    "standard_normal",
    "task_risks",
    "train",
    "transport_update",
    "wasserstein2",
    "wasserstein_over_wasserstein",
]


def __getattr__(name: str) -> Any:
    """Names that are rarely used are imported when they are asked for."""
    if name == "reference":
        return importlib.import_module(".reference", __name__)
    if name == "__version__":
        return _version.number()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
