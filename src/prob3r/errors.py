"""The one exception that prob3r raises on purpose."""


class Prob3rError(ValueError):
    """Something the caller gave cannot be used.

    The message is one sentence that names the file or the argument, says what was wrong with
    it and what would be right. The command line prints that sentence and exits with 1.
    """
