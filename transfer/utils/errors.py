"""The one exception that users see as a single line."""


class UserError(Exception):
    """What is wrong with the input, and what to do, in one line.

    The command line prints it on stderr and ends with ``exit_code``; a traceback appears only under ``--debug``.
    ``details`` may be longer, such as a table: they are printed on stdout before it.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
