"""A reader of a page, who types its commands in a folder of their own."""

import os
import re
import select
import signal
import subprocess
import sys

from helpers import pages

PROGRAMS = ('moejax', ' -m moejax'), ('python', '')
ENVIRONMENT = re.compile(r'(?:[A-Z_]+=\S+ +)*')


def commands(block, programs):
  """The commands of a block of a page; none of a block of output.

  Args:
    block: that of pages.blocks.
    programs: what a command may begin with, behind variables of its own.
  """
  if block.kind:
    return []
  lines = block.text.replace('\\\n', ' ').splitlines()
  begins = [line[ENVIRONMENT.match(line).end() :] for line in lines]
  if not begins[0].startswith(programs):
    return []
  assert all(line.startswith(programs) for line in begins), block
  return lines


def replaced(text, changes):
  """The text with each key of `changes` replaced by its value, in order."""
  for large, small in changes.items():
    text = text.replace(large, small)
  return text


class Reader:
  """A reader in an empty folder, with moejax on the path.

  Attributes:
    folder: the current one.
    output: what all commands have printed.
  """

  def __init__(self, folder):
    self.folder, self.output = folder / 'lab', ''
    self.folder.mkdir()
    programs = folder / 'bin'
    programs.mkdir()
    for name, words in PROGRAMS:
      (programs / name).write_text(
        f'#!/bin/sh\nexec {sys.executable}{words} "$@"\n'
      )
      (programs / name).chmod(0o755)
    self.env = {
      **os.environ,
      'PATH': f'{programs}{os.pathsep}{os.environ["PATH"]}',
      'PYTHONPATH': str(pages.ROOT),
      'XLA_FLAGS': '',  # one device, as on a laptop
    }

  def write(self, name, text):
    """Writes a file of the page."""
    (self.folder / name).write_text(text)

  def run(self, command):
    """Runs a command, which must end well, and keeps what it prints."""
    if command.startswith('moejax watch'):
      self.output += self._watch(command)
      return
    done = subprocess.run(
      command, shell=True, cwd=self.folder, env=self.env,
      capture_output=True, text=True, check=False,
    )  # fmt: skip
    self.output += done.stdout + done.stderr
    assert done.returncode == 0, (command, self.output)

  def _watch(self, command):
    """The first line of a server, which Ctrl-C then ends."""
    with subprocess.Popen(
      f'exec {command} --port=0', shell=True, cwd=self.folder, env=self.env,
      stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
      ready, _, _ = select.select([server.stdout], [], [], 120)
      line = server.stdout.readline() if ready else ''
      server.send_signal(signal.SIGINT)
    assert server.returncode == 0
    return line
