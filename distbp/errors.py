"""Errors that a user can cause and fix.

The message says what was expected, what was found, and what to do. The command line prints
it without a traceback and exits with the error's `status`. Any other exception is a defect
of distbp and ends with a traceback.
"""


class DistbpError(Exception):
    """Something that the user has to fix in the options, the files or the machine.

    Attributes
    ----------
    status : int
        The exit status of the command line.
    """

    status = 1


class DistbpWarning(UserWarning):
    """Something that a caller should know, such as a damaged checkpoint that was skipped."""


class ConfigError(DistbpError):
    """An option is not allowed, or does not fit other options, the model or the data."""

    status = 2


class DivergedError(DistbpError):
    """A cost, a gradient or a parameter is not finite."""


class DataError(DistbpError):
    """A data set, or a source to import from, cannot be read or is not valid."""


class CheckpointError(DistbpError):
    """A checkpoint cannot be written, found, read or used."""


class FencedError(CheckpointError):
    """Another run has taken over this run's directory."""


class LaunchError(DistbpError):
    """The ranks were not started correctly, or do not find each other."""


class StoppedError(DistbpError):
    """The run was asked to stop; it has saved a checkpoint and can be resumed."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again


# By name: an error is sent from one rank to another as the name of its class and its text.
ERRORS_BY_NAME: dict[str, type[DistbpError]] = {
    kind.__name__: kind
    for kind in (
        DistbpError,
        ConfigError,
        DivergedError,
        DataError,
        CheckpointError,
        FencedError,
        LaunchError,
        StoppedError,
    )
}
