"""The tables of benchmarks: sorted, whole, and tested entry by entry."""

import pathlib

import pytest

from moejax.evals.benchmarks import BENCHMARKS, SUITES

ENTRIES = [(suite, name) for suite, known in SUITES.items() for name in known]
TESTS = '\n'.join(
  path.read_text()
  for path in sorted(pathlib.Path(__file__).parent.glob('*'))
  if path.suffix == '.py' and path != pathlib.Path(__file__)
)


def is_tested(suite, name, tests):
  """Whether tests name an entry, as a case or by subscripts."""
  squeezed = ''.join(tests.split())
  return any(
    form in squeezed
    for form in (
      f"Case('{suite}','{name}',",
      f"SUITES['{suite}']['{name}']",
      *([f"BENCHMARKS['{name}']"] if suite == 'lm_eval' else []),
    )
  )


@pytest.mark.parametrize(('suite', 'name'), ENTRIES)
def test_each_entry_has_a_test(suite, name):
  assert is_tested(suite, name, TESTS)


def test_an_entry_without_test_is_seen():
  assert is_tested('libmoe', 'cbt', "Case(\n    'libmoe', 'cbt', ROWS)")
  assert not is_tested('libmoe', 'cbt', "Case('lm_eval', 'cbt', ROWS)")


def test_the_suite_lm_eval_is_the_table():
  assert SUITES['lm_eval'] is BENCHMARKS


@pytest.mark.parametrize('suite', SUITES)
def test_entries_are_sorted(suite):
  assert [*SUITES[suite]] == sorted(SUITES[suite])


@pytest.mark.parametrize(('suite', 'name'), ENTRIES)
def test_an_entry_is_whole(suite, name):
  benchmark = SUITES[suite][name]
  dataset = benchmark.dataset
  assert dataset.columns
  assert dataset.hub or benchmark.note
  assert not (dataset.config and dataset.configs)
  if benchmark.shots:
    assert benchmark.show is not None
