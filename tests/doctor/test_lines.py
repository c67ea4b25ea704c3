"""Processes that say what they examine, and how they end."""

import os
import sys

import pytest

from moejax.doctor import examine, lines
from moejax.doctor.finding import BROKEN, OK, Finding

# What a process does with each word that it gets.
SCRIPT = r"""
import os, signal, sys, time
from moejax.doctor import lines

print('not of ours'); print('[1]')
for word in sys.argv[1:]:
  lines.begin(word)
  if word == 'killed':
    os.kill(os.getpid(), signal.SIGKILL)
  if word == 'exits':
    sys.stderr.write('first\nwhy it ends\n')
    sys.exit(7)
  if word == 'naps':
    lines.end('NAPS')
    time.sleep(5)
  if word == 'hangs':
    lines.end('HANGS')
    time.sleep(600)
  lines.end(word.upper())
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
  (tmp_path / 'examines.py').write_text(SCRIPT)
  monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
  return 'examines'


def test_each_result_is_given_with_what_was_examined(module):
  assert [*lines.of(module, ['a', 'b'], 60)] == [('a', 'A'), ('b', 'B')]


@pytest.mark.parametrize(
  ('word', 'message'),
  [
    ('killed', 'ends the process by SIGKILL'),
    ('exits', 'ends the process with exit code 7: why it ends'),
  ],
)
def test_an_end_names_what_was_examined_and_how_it_ended(word, message, module):
  with pytest.raises(lines.EndedError) as ended:
    assert [*lines.of(module, ['a', word, 'b'], 60)] == []
  assert ended.value.name == word
  assert str(ended.value) == message


def test_a_process_that_takes_too_long_is_killed(module, monkeypatch):
  timers = []

  class Timer:
    """A clock that strikes when the test says so."""

    def __init__(self, limit_s, kill):
      timers.append(self)
      self.limit_s, self.strike, self.cancelled = limit_s, kill, False

    def start(self):
      pass

    def cancel(self):
      self.cancelled = True

  monkeypatch.setattr(lines.threading, 'Timer', Timer)
  results = lines.of(module, ['hangs', 'b'], 60)
  assert next(results) == ('hangs', 'HANGS')
  (timer,) = timers
  assert timer.limit_s == 60
  timer.strike()
  with pytest.raises(lines.EndedError, match='^takes so long that it was end'):
    next(results)
  assert timer.cancelled


def test_what_comes_behind_an_end_is_examined_by_another_process(module):
  found = [*examine._one_by_one(module, ['a', 'exits', 'b', 'killed'], 60)]
  assert [name for name, _ in found] == ['a', 'exits', 'b', 'killed']
  assert [value for _, value in found][::2] == ['A', 'B']
  assert all(isinstance(found[n][1], lines.EndedError) for n in (1, 3))


def test_a_process_whose_results_nobody_wants_is_killed(module, monkeypatch):
  killed, kill = [], lines.subprocess.Popen.kill

  def watched(process):
    killed.append(process)
    kill(process)

  monkeypatch.setattr(lines.subprocess.Popen, 'kill', watched)
  results = lines.of(module, ['naps', 'b'], 60)
  assert next(results) == ('naps', 'NAPS')
  results.close()
  assert len(killed) == 1


# Modules that are broken in several ways, as those of a broken install.
MODULES = {
  'works': 'x = 1\n',
  'raises': 'raise RuntimeError("jaxlib is\\nnewer than jax")\n',
  'lacks': 'import not_there_at_all\n',
  'exits': 'import sys; sys.exit(3)\n',
  'aborts': 'import os; os.abort()\n',
}
WRONG = {
  'works': '',
  'raises': 'RuntimeError: jaxlib is newer than jax',
  'lacks': "ModuleNotFoundError: No module named 'not_there_at_all'",
  'exits': 'SystemExit: 3',
  'aborts': 'ends the process by SIGABRT',
}


@pytest.fixture
def broken(tmp_path, monkeypatch):
  for name, text in MODULES.items():
    (tmp_path / f'planted_{name}.py').write_text(text)
  monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
  return [f'planted_{name}' for name in MODULES]


def test_every_broken_module_is_named_and_the_others_are_tried(broken):
  order = [*broken, broken[0]]
  found = [*examine.import_errors(order)]
  assert found == [
    (f'planted_{name}', WRONG[name]) for name in (*MODULES, 'works')
  ]


def test_a_module_is_found_where_this_process_finds_it(tmp_path, monkeypatch):
  """Also in the working folder, which '' on the path of this process names."""
  (tmp_path / 'planted_here.py').write_text('')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  missing = [*examine.import_errors(['planted_here'])]
  assert missing[0][1].startswith('ModuleNotFoundError')
  monkeypatch.setattr(sys, 'path', ['', *sys.path])
  assert [*examine.import_errors(['planted_here'])] == [('planted_here', '')]


def test_a_broken_package_leaves_out_the_machine(monkeypatch):
  monkeypatch.setitem(
    examine._BEFORE,
    'packages',
    lambda: iter([Finding('packages', 'jax', 'no', BROKEN)]),
  )
  monkeypatch.setattr(examine, '_machine', None)
  found = [*examine.findings(['packages', 'devices', 'experts'], '.')]
  assert [(one.part, one.state) for one in found] == [
    ('packages', BROKEN),
    ('devices', BROKEN),
    ('experts', BROKEN),
  ]
  assert found[1].text == 'not examined: jax cannot be used'


def test_a_part_of_the_machine_that_ends_the_process_is_broken(monkeypatch):
  def ends(module, names, limit_s):
    yield 'devices', Finding('devices', 'cpu', '1').to_json()
    yield 'matmul', lines.EndedError('matmul', 'ends the process by SIGILL')

  monkeypatch.setattr(examine, '_one_by_one', ends)
  cpu, matmul = examine.findings(['devices', 'matmul'], '.')
  assert (cpu.state, matmul.state) == (OK, BROKEN)
  assert matmul.line().split(maxsplit=1)[1] == (
    'BROKEN: ends the process by SIGILL'
  )


def test_memory_is_that_of_the_kernel():
  text = 'MemTotal:  2097152 kB\nMemFree: 1 kB\nMemAvailable:  524288 kB\n'
  one = examine.memory(text)
  assert one.text == '2.0 GiB, of which 0.5 GiB are free'
  assert one.value == 2 * 2**30


def test_variables_that_choose_devices_are_shown(monkeypatch):
  monkeypatch.setenv('JAX_PLATFORMS', 'tpu')
  monkeypatch.delenv('XLA_FLAGS', raising=False)
  found = {one.name: one.text for one in examine.findings(['python'], '.')}
  assert found['JAX_PLATFORMS'] == 'tpu'
  assert 'XLA_FLAGS' not in found
  assert found['cores'] == str(os.cpu_count())
