"""DISPATCHERS: every dispatcher by its name in a config."""

from moejax.moe.dispatchers import capacity, dropless, reference

DISPATCHERS = {
  'capacity': capacity.Capacity,
  'dropless': dropless.Dropless,
  'reference': reference.Reference,
}
