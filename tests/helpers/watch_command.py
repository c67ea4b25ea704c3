"""The watch command as a process, and what it serves."""

import contextlib
import http.client
import re
import subprocess
import sys

from helpers import own_text, processes

ADDRESS = re.compile(r'http://127\.0\.0\.1:(\d+)/ \(.+\)\n')


@contextlib.contextmanager
def started(workdir):
  """`moejax.cli.watch` on any free port; killed on leaving, if it still runs.

  Example:
    with started(workdir) as process:
      port = port_of(process)
      status, page = get(port, '/')
  """
  command = ['-m', 'moejax.cli.watch', f'--workdir={workdir}', '--port=0']
  process = subprocess.Popen(
    [sys.executable, *command],
    cwd=own_text.ROOT,
    env=processes.environment(1),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


def port_of(process):
  """The port that the command has printed, as soon as it has."""
  return int(ADDRESS.fullmatch(process.stdout.readline())[1])


def get(port, path):
  """Status and text of the answer to a request."""
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
  connection.request('GET', path)
  response = connection.getresponse()
  return response.status, response.read().decode()
