"""SIGTERM and SIGINT: finish the step, checkpoint, exit with 143 or 130. A second Ctrl-C stops at once."""

import signal
import sys


class Interrupts:
    """Notes the first signal; the loop asks `requested` after each step."""

    def __init__(self):
        self.requested: int | None = None
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, _frame) -> None:
        if self.requested is not None:
            raise KeyboardInterrupt
        self.requested = number
        print("\nstopping as soon as what is done is kept; once more to stop at once", file=sys.stderr)

    def leave_if_requested(self) -> None:
        """End the process with the signal's exit code, 143 or 130, once the work so far is on disk."""
        if self.requested is not None:
            print("stopped; --resume goes on from here", file=sys.stderr)
            sys.exit(128 + self.requested)
