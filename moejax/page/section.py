"""Section: one part of the page, and what it is made of."""

import dataclasses
from collections.abc import Callable, Sequence

from moejax.page.data import PageData
from moejax.page.markup import Html


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the page of one run.

  Attributes:
    title: its heading.
    make: makes its contents; None if the workdir lacks what it needs.
    needs: what the workdir must have, for the line that says why the section
      was left out.
  """

  title: str
  make: Callable[[PageData], Html | None]
  needs: str


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A section of the page of several runs; attributes as those of Section."""

  title: str
  make: Callable[[Sequence[PageData]], Html | None]
  needs: str
