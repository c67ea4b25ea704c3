"""Huge pages of memory for a process on Linux, by starting it anew.

XLA for CPU allocates the intermediate arrays of a program each time it runs. A
training step has hundreds of megabytes of them, which Linux hands out in pages
of 4 KB, each with a fault at its first use. Where it allows huge pages to
programs that ask for them, a step is up to 1.3 times as fast with pages of 2 MB
(docs/benchmarks.md). glibc asks for them if an environment variable says so,
and reads that variable only when a process starts.
"""

import os
import pathlib
import platform
import sys
from collections.abc import Mapping

TUNABLES = 'GLIBC_TUNABLES'
NAME = 'glibc.malloc.hugetlb'
# What Linux does: always, madvise (for programs that ask) or never; the one in
# brackets holds.
MODE = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def restart() -> None:
  """Replaces this process by the same command with huge pages, if that helps.

  It keeps the process id, and is to be called before anything is imported that
  takes long. Nothing happens where the user has set the variable, elsewhere
  than on Linux with glibc, and where Linux gives huge pages always or never.
  """
  libc = platform.libc_ver()[0] if sys.platform == 'linux' else ''
  mode = MODE.read_text() if MODE.exists() else ''
  environment = with_huge_pages(os.environ, libc, mode)
  if environment is not None:
    words = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, words, environment)


def with_huge_pages(
  environment: Mapping[str, str], libc: str, mode: str
) -> dict[str, str] | None:
  """The environment of a process with huge pages; None if it stays as it is.

  Args:
    environment: of this process.
    libc: name of its C library.
    mode: text of MODE; '' if there is none.

  Example:
    GLIBC_TUNABLES=a=1 becomes GLIBC_TUNABLES=a=1:glibc.malloc.hugetlb=1
  """
  tunables = environment.get(TUNABLES, '')
  if libc != 'glibc' or '[madvise]' not in mode or NAME in tunables:
    return None
  both = [text for text in (tunables, f'{NAME}=1') if text]
  return {**environment, TUNABLES: ':'.join(both)}
