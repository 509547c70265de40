"""A run that S-CFG could not begin."""

from torch import Tensor

from ...run.fingerprint import Fingerprint
from ...run.notes import Note
from ...run.record import Run
from .status import status_line


class FailedRun:
    """Plain CFG after an error of ours, with a record that says so; in place of a `run.SamplingRun`."""

    def __init__(self, error: Exception, follows: bool) -> None:
        """follows: whether a conditioning would have followed words."""
        self.record = Run()
        self.record.note(Note.INTERNAL_ERROR, error=error)
        if follows:
            self.record.note(Note.NOT_FOLLOWED)

    def end(self) -> None:
        """Nothing was begun."""

    def finished(self, output: Tensor) -> Run:
        """The record of a run that returned the latent `output`."""
        self.record.fingerprint = Fingerprint.of(output)
        return self.record

    def status(self) -> str:
        """One line for the user."""
        return status_line(self.record, guided=False)
