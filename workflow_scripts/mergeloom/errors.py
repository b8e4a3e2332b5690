"""The one exception that is written for the user."""


class MergeloomError(Exception):
    """Something the user can put right.

    Its message names the file, the key, the value seen and the value expected, and says what to do.
    Programming errors stay what they are (ValueError, TypeError, ...) and keep their traceback.
    """
