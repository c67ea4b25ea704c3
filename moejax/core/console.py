"""Console: rich's console, where a closed pipe does not end the process."""

import rich.console

from moejax.core import terminal


class Console(rich.console.Console):
  """A console of rich for which a closed pipe is an error like any other.

  rich itself ends the process with exit code 1 and without a word when the
  reader of the output has gone, as with `| head`.
  """

  def on_broken_pipe(self) -> None:
    """Called by rich while it handles a BrokenPipeError.

    Progress on stderr is dropped from then on, since the work goes on without
    it.

    Raises:
      BrokenPipeError: stdout has no reader; see `terminal.outlived`.
    """
    if not (self.stderr and terminal.let_go()):
      raise  # the error that rich is handling
