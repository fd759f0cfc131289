"""The methods of `train` and `minimize`, a file each: parameters, steps, and what a card needs."""

from .adam import Adam
from .cbo import CBO
from .gradient_flow import GradientFlow
from .heavy_ball import HeavyBall
from .hopping import ConsensusHopping
from .hybrid import Hybrid
from .multitask import MultiTaskCBO
from .transport import TransportCBO

__all__ = [
    "CBO",
    "Adam",
    "ConsensusHopping",
    "GradientFlow",
    "HeavyBall",
    "Hybrid",
    "MultiTaskCBO",
    "TransportCBO",
]
