"""Generated programs in each kind of sandbox: what they try does not escape.

A kind that this machine lacks lets no program pass, which the tests check too.
"""

import dataclasses
import pathlib
import socket

import pytest

from moejax.core.errors import InputError
from moejax.evals import sandbox
from moejax.evals.sandbox import KINDS, Limits, Sandbox

SHORT = Limits(seconds=10, memory_mb=256)
WORKS = {kind: Sandbox(kind, SHORT).run_one('').passed for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
  return request.param


def running(word):
  """The processes of this machine whose command line has a word."""
  commands = []
  for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    try:
      commands.append(path.read_bytes())
    except OSError:
      continue
  return [command for command in commands if word.encode() in command]


def test_programs_that_end_well_pass_in_order(kind):
  programs = ['assert 1 + 1 == 2', 'assert 1 + 1 == 3', 'import math, re, json']
  passed = [WORKS[kind], False, WORKS[kind]]
  assert Sandbox(kind, SHORT)(programs) == passed


def test_a_program_is_text_as_a_model_writes_it(kind):
  # Half of a surrogate pair has no encoding; stdin is empty.
  good = 'import sys\nassert "é" and sys.stdin.read() == "" and "\ud800"'
  sound = Sandbox(kind, SHORT)
  assert sound.run_one(good).passed == WORKS[kind]
  assert not sound.run_one('def broken(:').passed
  assert not sound.run_one('x = "\0"').passed


@pytest.mark.parametrize(
  ('program', 'reason'),
  [
    ('raise SystemExit(0)', 'SystemExit: 0'),
    ('import os; os._exit(0)', 'exit code 0'),
    ('import os; os._exit(3)', 'exit code 3'),
    ('def broken(:', 'SyntaxError'),
    ('assert False, "wrong sum"', 'AssertionError: wrong sum'),
    ('while True: print("x" * 9999)', 'more than 64 KiB'),
    ('x = [0] * 10**9', 'MemoryError'),
    ('x = []\nwhile True: x.append(bytes(10**6))', 'MemoryError'),
    ('import os\nwhile True: os.fork()', 'BlockingIOError'),
    ('import threading as t\nt.Thread(target=print).start()', "can't start"),
    ('import subprocess\nsubprocess.run(["/bin/sh"])', 'BlockingIOError'),
    ('open("/tmp/x", "w")', 'Error'),
    ('import os; os.mkdir("/usr/x")', 'Read-only file system'),
    ('import os; os.close(0)', 'Bad file descriptor'),
  ],
)
def test_a_program_that_does_not_pass_has_a_reason(kind, program, reason):
  outcome = Sandbox(kind, SHORT).run_one(program)
  assert not outcome.passed
  assert reason in outcome.reason or not WORKS[kind]
  assert '\n' not in outcome.reason


@pytest.mark.parametrize(
  'program',
  [
    'while True: pass',
    'import time; time.sleep(99)',
    'import os; os.close(1); os.close(2)\nwhile True: pass',
    'while True:\n  try:\n    while True: pass\n  except BaseException: pass',
    'import signal\nfor s in range(1, 30):\n'
    '  if s not in (9, 19): signal.signal(s, signal.SIG_IGN)\n'
    'while True: pass',
  ],
)
def test_a_program_that_does_not_end_is_stopped(kind, program):
  program += '\n# does_not_end'
  outcome = Sandbox(kind, Limits(seconds=0.5)).run_one(program)
  assert not outcome.passed
  assert 'longer than 0.5 s' in outcome.reason or not WORKS[kind]


def test_no_process_is_left(kind, monkeypatch):
  token = 'token' * 8
  monkeypatch.setattr(sandbox.secrets, 'token_hex', lambda: token)
  program = 'import time; time.sleep(99)'
  Sandbox(kind, Limits(seconds=0.3)).run([program] * 3)
  # A process that was killed is gone a moment later.
  for _ in range(100):
    if not running(token):
      break
    sandbox.time.sleep(0.05)
  assert not running(token)


def test_files_of_the_machine_cannot_be_read_or_written(kind, tmp_path):
  secret = tmp_path / 'secret'
  secret.write_text('abc')
  tmp_path.chmod(0o777)
  secret.chmod(0o666)
  sound = Sandbox(kind, SHORT)
  for program in (
    f'open({str(secret)!r}).read()',
    f'open({str(secret)!r}, "a").write("x")',
    f'open({str(tmp_path / "new")!r}, "w")',
    'open("/etc/passwd").read()',
    'import os; os.listdir("/home")',
    'import os; os.listdir("/proc/1")',
    'import os; f = os.memfd_create("x"); os.write(f, b"x")',
  ):
    assert not sound.run_one(program).passed, program
  assert secret.read_text() == 'abc'
  assert [path.name for path in tmp_path.iterdir()] == ['secret']


def test_a_program_cannot_mount_anything_or_become_root(kind):
  program = """
import ctypes, os
libc = ctypes.CDLL(None)
assert libc.mount(b'none', b'/usr', b'tmpfs', 0, None) == -1
assert libc.mount(b'none', b'/usr', None, 32 | 4096, None) == -1  # writable
assert libc.umount2(b'/usr', 2) == -1
assert libc.chroot(b'/usr') == -1
assert libc.sethostname(b'x', 1) == -1
import resource
for limit in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
  try:
    resource.setrlimit(limit, (2**40, 2**40))
  except (OSError, ValueError):
    continue
  raise AssertionError('limits can be raised')
"""
  assert Sandbox(kind, SHORT).run_one(program).passed == WORKS[kind]


def test_there_is_no_network(kind):
  with socket.create_server(('127.0.0.1', 0)) as server:
    server.settimeout(0.2)
    port = server.getsockname()[1]
    program = f"""
import socket
link = socket.socket()
link.settimeout(1)
link.connect(('127.0.0.1', {port}))
"""
    assert not Sandbox(kind, SHORT).run_one(program).passed
    with pytest.raises(TimeoutError):
      server.accept()


def test_the_environment_is_not_inherited(kind, monkeypatch):
  monkeypatch.setenv('MOEJAX_SECRET', 'abc')
  program = 'import os; assert "MOEJAX_SECRET" not in os.environ'
  assert Sandbox(kind, SHORT).run_one(program).passed == WORKS[kind]


def test_other_processes_cannot_be_signalled(kind):
  program = 'import os\nos.kill(os.getppid() or 10**6, 0)\nos.kill(-1, 9)'
  assert not Sandbox(kind, SHORT).run_one(program).passed


def test_the_first_kind_that_works_is_found():
  working = [kind for kind in KINDS if WORKS[kind]]
  limits = Limits(seconds=3)
  if working:
    assert sandbox.find(limits) == Sandbox(working[0], limits)
  else:
    with pytest.raises(InputError, match='no sandbox works'):
      sandbox.find(limits)


def test_without_bubblewrap_the_next_kind_is_found(monkeypatch):
  which = sandbox.shutil.which
  hidden = lambda name, path: (
    None if name == 'bwrap' else which(name, path=path)
  )
  monkeypatch.setattr(sandbox.shutil, 'which', hidden)
  if WORKS['unshare']:
    assert sandbox.find().kind == 'unshare'
  else:
    with pytest.raises(InputError, match='bwrap is not installed'):
      sandbox.find()


def test_without_any_tool_code_is_refused_with_reasons(monkeypatch):
  monkeypatch.setattr(sandbox.shutil, 'which', lambda name, path: None)
  with pytest.raises(InputError) as error:
    sandbox.find()
  message = str(error.value)
  assert 'bubblewrap: bwrap is not installed' in message
  assert 'unshare: unshare is not installed' in message
  assert '\n' not in message


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    (lambda c: [o for o in c if o != '--unshare-net'], 'there is a network'),
    (
      lambda c: [c[0], *['--perms', '1777', '--tmpfs', '/tmp'], *c[1:]],
      '/tmp is writable',
    ),
    (lambda c: [c[0], '--dir', '/home', *c[1:]], 'files of the machine'),
  ],
)
def test_a_sandbox_with_a_hole_is_not_used(monkeypatch, change, reason):
  bubblewrap = KINDS['bubblewrap']
  holed = dataclasses.replace(
    bubblewrap, command=lambda command: change(bubblewrap.command(command))
  )
  monkeypatch.setattr(sandbox, 'KINDS', {'bubblewrap': holed})
  with pytest.raises(InputError) as error:
    sandbox.find()
  assert reason in str(error.value) or not WORKS['bubblewrap']


@pytest.mark.parametrize(
  'limits', [{'seconds': 0}, {'memory_mb': -1}, {'processes': -1}]
)
def test_limits_out_of_bounds_are_one_line(limits):
  with pytest.raises(InputError, match=next(iter(limits))):
    Limits(**limits)
