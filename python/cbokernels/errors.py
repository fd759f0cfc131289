"""Run-time failures and warnings. Bad arguments are plain TypeError and ValueError."""


class CboError(RuntimeError):
    """Base of every run-time failure of the library."""


class ConsensusError(CboError):
    """No particle has a finite risk (in some task), so there is no consensus point."""


class CudaUnavailableError(CboError):
    """CUDA was asked for and cannot be had; the message says whether the build or the driver lacks it."""


class CboWarning(UserWarning):
    """The result stands, but something the caller should know of happened on the way."""
