"""What can go wrong with a virtual cluster."""


class ClusterError(Exception):
    """The cluster did not do what was asked; the message is one line.

    `log` holds the last lines of the log that explains it, where there is one.
    """

    exit_code = 1

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class BadRequest(ClusterError):
    """The request cannot be met on this machine or contradicts itself; nothing was started."""

    exit_code = 2
