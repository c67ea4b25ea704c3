"""Library: the images that the conversations of a text name."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable

from moejax.core import errors
from moejax.data import sums as sums_lib
from moejax.data.images import store as stores
from moejax.data.images.config import Images


@dataclasses.dataclass(frozen=True, eq=False)
class Library:
  """The images of a text; they are read when the first is asked for.

  Attributes:
    images: the config.
    names: gives the names of all images, some more than once.
    folder: the folder of all caches.
    sums: checksums of files.
    stops: whether a bad image stops the run.
    place: the config key that says so, for errors.
    note: called with lines for the user.
  """

  images: Images
  names: Callable[[], Iterable[str]]
  folder: pathlib.Path
  sums: sums_lib.Sums
  stops: bool
  place: str
  note: Callable[[str], None]

  @functools.cached_property
  def store(self) -> stores.Store:
    """The images.

    Raises:
      InputError: an image is bad and `stops` is set.
    """
    made = stores.make(
      [*self.names()], self.images, self.folder, self.sums, self.note
    )
    if made.problems and self.stops:
      count, total = len(made.problems), len(made.problems) + len(made.numbers)
      first = next(iter(made.problems.values()))
      raise errors.InputError(
        f'{count:,} of {total:,} images cannot be used, the first: {first}; '
        'mend them, or leave out their conversations with '
        f'{self.place}.bad_lines=skip'
      )
    return made
