"""Training of two-layer networks."""

from .train import train

__all__ = ["train"]
