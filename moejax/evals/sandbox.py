"""Runs programs that a model wrote, where they can do no harm.

Each program is a process of its own, without network, without any directory
that it can write to, and with limits of time, memory, processes and output. It
sees the operating system's libraries and Python's standard library, read-only,
and nothing else of the machine. KINDS are the ways to build such a sandbox:

  bubblewrap   by bwrap, the sandbox of Flatpak
  unshare      by unshare, mount and pivot_root of util-linux

A kind is used only if a program inside has tried what it must not do, and
failed. Without any, generated code is refused.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from moejax.core.errors import InputError

# What a program can see, beside Python's own folder, which is in PYTHON: the
# folders above it, such as a home, may be closed to others.
SYSTEM = ('/usr', '/bin', '/lib', '/lib32', '/lib64', '/etc/ld.so.cache')
PYTHON = '/python'

# Where the tools are; those of administrators are outside of many users' PATH.
PATH = '/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin'

# Tries what a program must not do; the sandbox is sound if it ends well.
PROBE = """
import os, socket
def refused(action, *args):
  try:
    action(*args)
  except OSError:
    return True
for folder in ('/', '/tmp', '/dev/shm', '/usr', os.path.dirname(os.__file__)):
  assert refused(open, folder + '/moejax_probe', 'w'), folder + ' is writable'
assert refused(os.fork), 'processes can start'
link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
assert refused(link.connect, ('192.0.2.1', 9)), 'there is a network'
assert not os.path.exists('/home') and not os.path.exists('/etc/passwd'), (
  'files of the machine are there')
assert os.getpid() < 10, 'processes of the machine are there'
"""


@dataclasses.dataclass(frozen=True)
class Limits:
  """What a program may use.

  Attributes:
    seconds: longest duration, by the clock.
    memory_mb: largest address space, in MiB.
    output_kb: most output, in KiB; a program that writes more is stopped.
    processes: programs that run at a time; 0: one for each CPU.
  """

  seconds: float = 10.0
  memory_mb: int = 1024
  output_kb: int = 64
  processes: int = 0

  def __post_init__(self) -> None:
    for field in ('seconds', 'memory_mb', 'output_kb'):
      if getattr(self, field) <= 0:
        raise InputError(
          f'{field}={getattr(self, field)} of generated programs must be > 0'
        )
    if self.processes < 0:
      raise InputError(f'processes={self.processes} must be >= 0')


@dataclasses.dataclass(frozen=True)
class Outcome:
  """How a program ended.

  Attributes:
    passed: whether it came to its end without an exception.
    reason: why it did not, in a line; '' if it passed.
  """

  passed: bool
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Sandbox:
  """A kind of sandbox that works on this machine, with limits.

  Attributes:
    kind: a key of KINDS.
    limits: of each program.
  """

  kind: str
  limits: Limits

  def __call__(self, programs: Sequence[str]) -> list[bool]:
    """Whether each program passes; as `moejax.evals.judges.Run`."""
    return [outcome.passed for outcome in self.run(programs)]

  def run(self, programs: Sequence[str]) -> list[Outcome]:
    """The outcome of each program; they run in parallel."""
    workers = self.limits.processes or os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
      return list(pool.map(self.run_one, programs))

  def run_one(self, program: str) -> Outcome:
    """The outcome of a program; none passes where the sandbox is missing."""
    missing = KINDS[self.kind].missing()
    if missing:
      return Outcome(passed=False, reason=f'{missing} is not installed')
    token = secrets.token_hex()
    reading, writing = os.pipe()
    try:
      with tempfile.TemporaryFile() as stdin:
        # A model may write half of a surrogate pair, which has no encoding.
        stdin.write(program.encode(errors='replace'))
        stdin.seek(0)
        started = time.monotonic()
        process = subprocess.Popen(
          KINDS[self.kind].command(_python(self.limits, writing, token)),
          stdin=stdin,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
          env={
            'PATH': PATH,
            'LC_ALL': 'C.UTF-8',
            'LD_LIBRARY_PATH': f'{PYTHON}/lib',
          },
          cwd='/',
          pass_fds=(writing,),
          start_new_session=True,
        )
      with process:
        try:
          output, reason = _follow(process, started, self.limits)
        finally:
          # The kernel ends all processes of a namespace with its first one.
          with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
      os.close(writing)
      writing = -1
      if not reason and os.read(reading, len(token)) == token.encode():
        return Outcome(passed=True)
      return Outcome(passed=False, reason=reason or _why(process, output))
    finally:
      os.close(reading)
      if writing >= 0:
        os.close(writing)


def find(limits: Limits | None = None) -> Sandbox:
  """The first kind of sandbox that works here.

  Raises:
    InputError: none does; the message has the reason of each.
  """
  reasons = []
  for kind in KINDS:
    outcome = Sandbox(kind, Limits()).run_one(PROBE)
    if outcome.passed:
      return Sandbox(kind, limits or Limits())
    reasons.append(f'{kind}: {outcome.reason}')
  raise InputError(
    'generated code does not run on this machine, because no sandbox works '
    f'({"; ".join(reasons)}): install bubblewrap on a Linux machine that '
    'allows namespaces, or leave out the benchmarks of code'
  )


@dataclasses.dataclass(frozen=True)
class _Kind:
  """A way to build a sandbox.

  Attributes:
    needs: commands that must be installed.
    command: the command that runs another one inside.
  """

  needs: tuple[str, ...]
  command: Callable[[Sequence[str]], list[str]]

  def missing(self) -> str:
    """A command that is not installed; '' if all are."""
    found = (name for name in self.needs if not shutil.which(name, path=PATH))
    return next(found, '')


def _python(limits: Limits, descriptor: int, token: str) -> list[str]:
  """The command inside: this Python, without packages, and `sandboxed.py`."""
  source = pathlib.Path(__file__).with_name('sandboxed.py').read_text()
  process = {
    'seconds': int(limits.seconds) + 1,
    'memory_bytes': limits.memory_mb << 20,
  }
  version = f'python{sys.version_info.major}.{sys.version_info.minor}'
  folder = _visible()[os.path.realpath(sys.base_prefix)]
  options = ['-I', '-S', '-B', '-c', source]
  arguments = [str(descriptor), token, json.dumps(process)]
  return [f'{folder}/bin/{version}', *options, *arguments]


def _visible() -> dict[str, str]:
  """The path inside of each path that a program sees."""
  paths = {path: path for path in SYSTEM if os.path.exists(path)}
  prefix = os.path.realpath(sys.base_prefix)
  if f'{prefix}/'.startswith('/usr/'):
    return {prefix: prefix} | paths
  return paths | {prefix: PYTHON}


def _bubblewrap(command: Sequence[str]) -> list[str]:
  """The command in bwrap.

  Root needs no user namespace, and without one `sandboxed.py` can leave root,
  whose processes the kernel does not count.
  """
  spaces = ['ipc', 'pid', 'net', 'uts', 'cgroup-try']
  rights = ['--cap-drop', 'ALL']
  if os.geteuid() == 0:
    rights += ['--cap-add', 'CAP_SETUID', '--cap-add', 'CAP_SETGID']
  else:
    spaces.append('user')
  options = [f'--unshare-{space}' for space in spaces]
  for path, inside in _visible().items():
    if os.path.islink(path):
      options += ['--symlink', os.readlink(path), inside]
    else:
      options += ['--ro-bind', path, inside]
  options += ['--remount-ro', '/', '--die-with-parent', '--chdir', '/']
  return ['bwrap', *options, *rights, *command]


def _unshare(command: Sequence[str]) -> list[str]:
  """The command in namespaces, with a root of its own built in memory.

  The new root is mounted over /sys, a folder that each Linux has and that no
  program needs, then takes the place of the old root, which is unmounted.
  """
  lines = ['set -e', 'mount -t tmpfs -o size=1m,mode=755 none /sys', 'cd /sys']
  for path, inside in _visible().items():
    source, target = shlex.quote(path), '.' + shlex.quote(inside)
    lines.append(f'mkdir -p .{shlex.quote(os.path.dirname(inside))}')
    if os.path.islink(path):
      lines.append(f'cp -P {source} {target}')
      continue
    lines += [
      f'{"mkdir -p" if os.path.isdir(path) else "touch"} {target}',
      f'mount --rbind {source} {target}',
      f'mount -o remount,bind,ro,nosuid,nodev {target}',
    ]
  # mount and umount read /proc; programs have no need of it.
  lines += [
    'mkdir old proc',
    'mount -t proc none proc',
    'pivot_root . old',
    'cd /',
    'umount -l /old',
    'rmdir /old',
    'mount -o remount,bind,ro /',
    'umount -l /proc',
    'exec "$@"',
  ]
  spaces = ['--mount', '--pid', '--net', '--ipc', '--uts', '--fork']
  if os.geteuid() != 0:
    spaces += ['--user', '--map-root-user']
  script = ['sh', '-c', '\n'.join(lines), 'sh']
  return ['unshare', *spaces, '--kill-child', *script, *command]


KINDS: dict[str, _Kind] = {
  'bubblewrap': _Kind(('bwrap',), _bubblewrap),
  'unshare': _Kind(('unshare', 'mount', 'umount', 'pivot_root'), _unshare),
}


def _follow(
  process: subprocess.Popen[bytes], started: float, limits: Limits
) -> tuple[bytes, str]:
  """The output of a process until it ends, and why it must be stopped, if so.

  Only the first `output_kb` are read, so a flood fills no memory.
  """
  assert process.stdout
  descriptor, most = process.stdout.fileno(), limits.output_kb << 10
  output = b''
  while True:
    left = started + limits.seconds - time.monotonic()
    if left <= 0:
      return output, f'it took longer than {limits.seconds:g} s'
    if not select.select([descriptor], [], [], left)[0]:
      continue
    read = os.read(descriptor, most + 1 - len(output))
    output += read
    if len(output) > most:
      return output, f'it wrote more than {limits.output_kb} KiB'
    if not read:
      break
  # Output may be closed before the end.
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(max(started + limits.seconds - time.monotonic(), 0))
    return output, ''
  return output, f'it took longer than {limits.seconds:g} s'


def _why(process: subprocess.Popen[bytes], output: bytes) -> str:
  """Why a process that was not stopped did not pass, in a line."""
  lines = [line for line in output.decode(errors='replace').split('\n') if line]
  if process.returncode and lines:
    return lines[-1][:200]
  return f'it ended with exit code {process.returncode}'
