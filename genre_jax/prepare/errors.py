"""The error of a file that cannot be decoded."""


class AudioError(Exception):
    """The file cannot be decoded; the text of the error is the reason."""
