"""Rows that a terminal has wrapped when it became narrower, to be erased."""

import os
from collections.abc import Callable, Mapping

import rich.console
import rich.control
import rich.live
import rich.segment

# Variables that terminals set which cut rows in place of wrapping them again:
# xterm and GNU screen. tmux wraps, and keeps what the terminal around it set.
CUTTING, WRAPPING = ('XTERM_VERSION', 'STY'), 'TMUX'


class Reflow(rich.console.RenderHook):
  """Erases what is left of a region of rich after its terminal was narrowed.

  rich moves up by as many rows as it has drawn. A terminal that became narrower
  has wrapped the longer ones, so that the region has more rows, and the upper
  ones would stay. This hook moves up over those too.

  Example, rows of 60 and 20 cells drawn at a width of 80, then a width of 40:
    the region has 2 + 1 rows, of which rich erases 2, and the hook 1 more
  """

  def __init__(
    self,
    console: rich.console.Console,
    region: Callable[[], rich.console.RenderableType],
    environ: Mapping[str, str] = os.environ,
  ):
    """Knows of no rows yet; to be pushed before the region's own hook.

    Args:
      console: where the region is.
      region: returns what the region shows.
      environ: variables that tell which terminal it is.
    """
    self._console = console
    self._region = region
    self._widths: list[int] = []  # of the rows as last drawn, in cells
    self._wraps = WRAPPING in environ or not any(n in environ for n in CUTTING)

  def process_renderables(
    self, renderables: list[rich.console.ConsoleRenderable]
  ) -> list[rich.console.ConsoleRenderable]:
    """What is printed, behind what erases the rows that the terminal added."""
    width = max(1, self._console.width)
    added = sum(max(0, cells - 1) // width for cells in self._widths)
    rows = self._console.render_lines(self._region(), pad=False)
    self._widths = [rich.segment.Segment.get_line_length(row) for row in rows]
    if not (added and self._wraps):
      return renderables
    kinds = rich.segment.ControlType
    up = (kinds.CURSOR_UP, 1), (kinds.ERASE_IN_LINE, 2)
    return [rich.control.Control(*up * added), *renderables]


class Region:
  """A region of rich that is redrawn in place, in a terminal of any width."""

  def __init__(self, console: rich.console.Console, *, transient: bool = False):
    """Begins the region, without any row.

    Args:
      console: where it is.
      transient: whether it is erased at its end.
    """
    self._console = console
    self._live = rich.live.Live(
      console=console, auto_refresh=False, transient=transient
    )
    console.push_render_hook(Reflow(console, lambda: self._live.renderable))
    self._live.start()

  def update(self, renderable: rich.console.RenderableType) -> None:
    """Draws the region anew."""
    self._live.update(renderable, refresh=True)

  def stop(self) -> None:
    """Ends the region, whose rows stay unless it is transient."""
    self._live.stop()
    self._console.pop_render_hook()
