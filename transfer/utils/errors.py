"""The one exception that users see as a single line."""


class UserError(Exception):
    """Wrong input: "<what is wrong> (<where>); <do this>", in one line.

    The command line prints it on stderr and exits with ``exit_code``; a traceback appears only under ``--debug``.
    ``details``, such as a table, are printed on stdout before it.
    """

    exit_code = 1

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details
