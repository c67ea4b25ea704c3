"""What a router needs of the experts that stay when others are removed."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ExpertNeeds:
  """The choices that must stay in a layer.

  Attributes:
    at_least: choices in a layer.
    num_groups: groups of consecutive choices; 1 for routers without groups.
    per_group: choices in each group.
    least_groups: groups that must stay; the others may lose all their experts,
      see `Router.with_groups`.
  """

  at_least: int = 1
  num_groups: int = 1
  per_group: int = 0
  least_groups: int = 1
