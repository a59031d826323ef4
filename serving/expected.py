"""The base of every error that input can cause."""


class ExpectedError(ValueError):
    """Something its sender, or who runs this, can mend; the message says what is wrong and with which file or key.

    Whatever else is raised is a defect.
    """
