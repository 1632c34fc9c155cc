"""The errors that a user can cause and mend.

Each is one message: what was expected, what was found, what to do. The command
line prints it without a traceback and ends with the error's `status`. Anything
else that is raised is a defect of distbp, and ends with a traceback.
"""


class DistbpError(Exception):
    """Something that the user, a file or the machine has to mend."""

    status = 1


class DistbpWarning(UserWarning):
    """What a caller may have overlooked, such as a damaged checkpoint that was passed over."""


class ConfigError(DistbpError):
    """The options, or what they say about the model and the data, do not fit."""

    status = 2


class DivergedError(DistbpError):
    """A cost or a parameter is not a finite number any more."""


class DataError(DistbpError):
    """A data set, or a source to import from, is not what it should be."""


class CheckpointError(DistbpError):
    """A checkpoint cannot be written, found, read or used."""


class FencedError(CheckpointError):
    """Another run has taken over the directory of this one."""


class LaunchError(DistbpError):
    """The ranks were not started as one run."""


class StoppedError(DistbpError):
    """The run was asked to stop: it is saved, and can go on."""

    status = 75  # EX_TEMPFAIL of sysexits.h: try again


# An error crosses from one rank to another by its name and its text.
KINDS: dict[str, type[DistbpError]] = {
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
