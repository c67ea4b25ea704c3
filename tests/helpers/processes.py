"""Real processes of one run over loopback, each with its own fake devices."""

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

from helpers import own_text

TIMEOUT = 240
# Gloo writes a line in these pieces, from several threads at once. So a piece
# may stand in the line of another thread, and a number on a line of its own.
GLOO = re.compile(
  r'\[Gloo\] Rank | is connected to | peer ranks\. '
  r'|Expected number of connected peer ranks is : '
)
# Lines with the rest of Gloo's output, log lines of JAX's libraries, and XLA's
# frame around a program that takes over two minutes to compile.
NOISE = re.compile(r'^[\d ]*$|^[EWF]\d{4} |^\*+$|^\[Compiling module ')


def _hears_hangups():
  """Resets SIGHUP, which processes would ignore if nohup started the tests."""
  signal.signal(signal.SIGHUP, signal.SIG_DFL)


@dataclasses.dataclass(frozen=True)
class Ended:
  """How a process ended, what it wrote, and when.

  `out` and `err` are the lines without those of libraries; `written` is all.
  """

  code: int
  out: list[str]
  err: list[str]
  at: float
  written: str


def free_port():
  with socket.create_server(('127.0.0.1', 0)) as s:
    return s.getsockname()[1]


def environment(devices):
  flags = re.sub(
    r'--xla_force_host_platform_device_count=\d+', '', os.environ['XLA_FLAGS']
  )
  return {
    **os.environ,
    'PYTHONPATH': str(own_text.ROOT),
    'XLA_FLAGS': f'{flags} --xla_force_host_platform_device_count={devices}',
  }


def own_lines(text):
  """The lines that are not the libraries'."""
  lines = GLOO.sub('', text).splitlines()
  return [line for line in lines if not NOISE.search(line)]


class Processes:
  """Started at once; killed on leaving, whatever happens.

  Args:
    count: how many are started.
    devices: of each.
    flags: of all.
    of: how many the run has, if not all are started.
    first: the number of the first that is started.
    where: the folder that each is started in, if not the repository's.
    program: what each runs.
  """

  def __init__(
    self,
    count,
    devices,
    flags,
    *,
    of=None,
    first=0,
    where=None,
    program=('-m', 'moejax.main'),
  ):
    port = free_port()
    self.all = [
      subprocess.Popen(
        [
          *(sys.executable, *program, *own_text.merged(flags)),
          f'--coordinator=127.0.0.1:{port}',
          f'--num-processes={of or count}',
          f'--process-id={index}',
        ],
        cwd=where[index] if where else own_text.ROOT,
        env=environment(devices),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=_hears_hangups,
      )
      for index in range(first, first + count)
    ]

  def __enter__(self):
    return self

  def __exit__(self, *_):
    for process in self.all:
      process.kill()  # without effect on a process that has ended
      with contextlib.suppress(ValueError):
        process.communicate()

  def wait(self):
    """Waits for all processes; returns how each ended."""
    ended = []
    for process in self.all:
      out, err = process.communicate(timeout=TIMEOUT)
      lines = own_lines(out), own_lines(err)
      at = time.monotonic()
      ended.append(Ended(process.returncode, *lines, at, out + err))
    return ended

  def wait_for_step(self, workdir, step):
    """Waits until metrics.jsonl has a step."""
    deadline = time.monotonic() + TIMEOUT
    path = workdir / 'metrics.jsonl'
    while not (path.exists() and f'"step": {step},' in path.read_text()):
      codes = [process.poll() for process in self.all]
      assert codes == [None] * len(codes), self.wait()
      assert time.monotonic() < deadline
      time.sleep(0.02)

  def wait_for_line(self, index, line):
    """Waits until a process has printed a line."""
    while line not in own_lines(read := self.all[index].stdout.readline()):
      assert read, self.wait()


def steps(count, *flags, **options):
  """Processes without a model, which start quickly; see steps.py."""
  program = (str(pathlib.Path(__file__).with_name('steps.py')),)
  flags = ('--host-timeout=3', *flags)
  return Processes(count, 1, flags, program=program, **options)
