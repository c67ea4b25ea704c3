"""A run traces itself while it trains, and ends with its page."""

import pytest
from helpers import own_text

from moejax.analysis.trace_file import TraceFile
from moejax.cli import trace as trace_command
from moejax.core import errors

# Evaluations are after steps 3 and 6.
STEPS = [3, 6]


@pytest.fixture(scope='module')
def traced(finished, tmp_path_factory):
  """A run that traces about 300 tokens at each evaluation."""
  workdir = tmp_path_factory.mktemp('traced') / 'run'
  flags = (
    *own_text.flags(finished.text, workdir),
    '--config.report.trace_tokens=300',
  )
  ended = own_text.call(*flags)
  assert ended.code == 0, ended
  return workdir, flags, ended.out


def steps(workdir):
  return [int(p.stem) for p in sorted((workdir / 'traces').iterdir())]


def test_a_run_ends_with_its_page_and_names_it(traced):
  workdir, _, out = traced
  assert f'Its page is {workdir}/report.html: open it in a browser.' in out
  text = (workdir / 'report.html').read_text()
  for name in ('summary', 'training', 'stability', 'together', 'coloured'):
    assert f'<section id="{name}"' in text, name


def test_each_evaluation_leaves_a_trace_of_the_same_tokens(traced):
  workdir, *_ = traced
  assert steps(workdir) == STEPS
  first, last = (
    TraceFile(path) for path in sorted((workdir / 'traces').iterdir())
  )
  assert first.header.request == last.header.request
  assert 250 <= first.num_tokens <= 700
  assert (first.read().token_T == last.read().token_T).all()
  # Of 6 batches of 8 rows of 32 tokens, without padding.
  assert 0.9 < last.header.tokens_seen / (6 * 8 * 32) <= 1


def test_traces_change_nothing_in_the_run(traced, finished):
  assert own_text.records(traced[0]) == own_text.records(finished.workdir)


def test_a_trace_that_is_asked_for_takes_the_place_of_the_run_s_own(traced):
  workdir, *_ = traced
  trace_command.main([f'--workdir={workdir}', '--tokens=900'])
  assert steps(workdir) == [6]
  # It is the user's: another text does not remove it.
  with pytest.raises(errors.InputError, match='is a trace of another text'):
    trace_command.main([f'--workdir={workdir}', '--tokens=200'])
  assert steps(workdir) == [6]


def test_a_finished_run_names_its_page_again(traced):
  workdir, flags, _ = traced
  ended = own_text.call(*flags)
  assert (
    f'Its page is {workdir}/report.html: open it in a browser.' in ended.out
  )


def test_a_run_without_traces_has_a_page_all_the_same(finished):
  assert not (finished.workdir / 'traces').exists()
  text = (finished.workdir / 'report.html').read_text()
  assert 'Co-activation: it needs a trace' in text


@pytest.mark.soak
def test_a_run_can_do_without_a_page(finished, tmp_path):
  flags = own_text.flags(finished.text, tmp_path / 'run')
  ended = own_text.call(*flags, '--config.report.page=false')
  assert ended.code == 0
  assert not (tmp_path / 'run' / 'report.html').exists()
  assert 'report.html' not in '\n'.join(ended.out)
