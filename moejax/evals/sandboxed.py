"""The first code inside a sandbox: gives up privileges, then runs a program.

It runs by `python -I -S -c` with the text of this file, so it imports the
standard library alone. The program comes by stdin, as the file descriptor of
argument 1 gets the token of argument 2 once the program has ended without an
exception. A program that ends the process itself, for example with os._exit(0),
has not passed.
"""

import ctypes
import io
import json
import os
import resource
import sys
import traceback

# Of linux/prctl.h and linux/capability.h.
PR_SET_NO_NEW_PRIVS = 38
CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534


def give_up_privileges() -> None:
  """Leaves root for a user without rights, and drops all capabilities."""
  libc = ctypes.CDLL(None, use_errno=True)
  if os.geteuid() == 0:
    try:
      os.setgroups([])
      os.setresgid(NOBODY, NOBODY, NOBODY)
      os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError:
      # Root of a user namespace that has no other user: it is the user who
      # started the sandbox, and capabilities are all that it has more.
      pass
  header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
  none = (ctypes.c_uint32 * 6)()
  failed = libc.capset(header, none)
  if failed or libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
    raise OSError(ctypes.get_errno(), 'privileges cannot be given up')


def limit(seconds: int, memory_bytes: int) -> None:
  """Sets the limits of this process, which it cannot raise again.

  No further process or thread starts, so one process's address space bounds the
  memory. No byte is written to a file, whatever the file.
  """
  limits = {
    resource.RLIMIT_AS: memory_bytes,
    resource.RLIMIT_CORE: 0,
    resource.RLIMIT_CPU: seconds,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_NOFILE: 64,
    resource.RLIMIT_NPROC: 0,
  }
  for name, value in limits.items():
    resource.setrlimit(name, (value, value))


def main() -> None:
  """Runs the program of stdin; see the module's docstring."""
  descriptor, token, limits = int(sys.argv[1]), sys.argv[2], sys.argv[3]
  program = sys.stdin.buffer.read().decode()
  os.close(0)
  sys.stdin = io.StringIO()
  sys.argv[:] = ['program']
  give_up_privileges()
  limit(**json.loads(limits))
  try:
    exec(compile(program, 'program', 'exec'), {'__name__': '__main__'})  # noqa: S102
    sys.stdout.flush()
  except BaseException:  # noqa: BLE001 (SystemExit is a failure as well)
    traceback.print_exc(limit=-1)
    sys.stderr.flush()
    os._exit(1)
  os.write(descriptor, token.encode())
  os._exit(0)


if __name__ == '__main__':
  main()
