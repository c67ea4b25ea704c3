"""Compressed sizes of a text and of its beginning, by a process of their own.

`python -I -S -c` with the text of this file reads from stdin the arguments as a
line of JSON, [bytes of the beginning, size of the dictionary], and then the
text. It prints the two sizes as JSON, the beginning's first. It imports the
standard library alone, and has one thread.

The compressor reads the beginning once: the process is copied behind it. The
copy ends the text there, and the process itself goes on. The sizes are those of
two texts that are compressed one after the other.
"""

import json
import lzma
import os
import signal
import sys

PRESET = 9


def filters(dictionary: int) -> list[dict[str, int]]:
  """The filters of `xz -9` with a dictionary of so many bytes."""
  return [{'id': lzma.FILTER_LZMA2, 'preset': PRESET, 'dict_size': dictionary}]


def sizes(before: bytes, after: bytes, dictionary: int) -> tuple[int, int]:
  """Bytes of `before` and of `before + after` when compressed.

  It copies the process, so the process must have no other thread.
  """
  compressor = lzma.LZMACompressor(filters=filters(dictionary))
  written = len(compressor.compress(before))
  reading, writing = os.pipe()
  child = os.fork()
  if not child:
    try:
      os.write(writing, b'%d' % (written + len(compressor.flush())))
    finally:
      os._exit(0)
  os.close(writing)  # so that no copy that failed is waited for below
  written += len(compressor.compress(after)) + len(compressor.flush())
  os.waitpid(child, 0)
  return int(os.read(reading, 20)), written


def main() -> None:
  """Compresses the text that stdin has."""
  # Ctrl-C is for the process that waits for the sizes.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  length, dictionary = json.loads(sys.stdin.buffer.readline())
  before = sys.stdin.buffer.read(length)
  both = sizes(before, sys.stdin.buffer.read(), dictionary)
  sys.stdout.write(json.dumps(both))


if __name__ == '__main__':
  main()
