"""Lines of JSON between the processes of a run: each has a link to process 0.

  process 1 ──┐
  process 2 ──┼── process 0        {"at": "data"} up, {"open": "data"} down
  process 3 ──┘

The links are made before JAX's own service starts, on the port that it will
take, so that a run needs one open port and a process that never comes is known
by its number. They stay open: a process that is killed closes its end at once,
and one whose machine has stopped is silent. Like JAX's service, this asks for
no password: the port must be reachable from the run's own machines only.
"""

import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

Message = dict[str, Any]
LONGEST = 1 << 20  # bytes of a line; nothing that we say is so long
SEND_S = 10.0
RETRY_S = 0.2


class Link:
  """One end of a connection; messages are dictionaries."""

  def __init__(self, sock: socket.socket):
    self._socket = sock
    self._lock = threading.Lock()
    self._rest = b''
    self.heard = time.monotonic()
    sock.settimeout(SEND_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

  def fileno(self) -> int:
    return self._socket.fileno()

  def send(self, message: Message) -> None:
    """Sends, or does nothing if the other end is gone: reading tells."""
    data = json.dumps(message).encode() + b'\n'
    with self._lock, contextlib.suppress(OSError):
      self._socket.sendall(data)

  def receive(self) -> list[Message] | None:
    """What has come, to be called where there is something; None at the end."""
    try:
      data = self._socket.recv(1 << 16)
    except TimeoutError:
      return []
    except OSError:
      return None
    if not data or len(self._rest) > LONGEST:
      return None
    self.heard = time.monotonic()
    *lines, self._rest = (self._rest + data).split(b'\n')
    try:
      found = [json.loads(line) for line in lines]
    except ValueError:
      return None  # not one of us
    return found if all(isinstance(m, dict) for m in found) else None

  def finish(self, seconds: float) -> None:
    """Says no more, and waits until the other end has read it all."""
    with self._lock, contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_WR)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
      if ready([self], left) and self.receive() is None:
        return

  def close(self) -> None:
    """The other end sees it at once, whoever else waits on this one."""
    with contextlib.suppress(OSError):
      self._socket.shutdown(socket.SHUT_RDWR)
    self._socket.close()


def ready(links: list[Any], seconds: float) -> list[Any]:
  """Those that have something to read, after so many seconds at most."""
  poll = select.poll()
  by_number = {link.fileno(): link for link in links}
  by_number.pop(-1, None)  # closed in the meantime
  for number in by_number:
    poll.register(number, select.POLLIN)
  found = poll.poll(max(0.0, seconds) * 1000)
  return [by_number[number] for number, _ in found]


@contextlib.contextmanager
def listening(port: int) -> Iterator[socket.socket]:
  """A socket that takes connections, on all addresses of this machine.

  Raises:
    OSError: another program has the port.
  """
  both = socket.has_dualstack_ipv6()
  sock = socket.socket(socket.AF_INET6 if both else socket.AF_INET)
  with contextlib.closing(sock):
    # So that JAX's service can have the port while our links are still open.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if both:
      sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(('', port))
    sock.listen(1024)
    yield sock


def connect(
  host: str, port: int, until: float, hello: Callable[[], Message]
) -> Link | None:
  """A link to process 0, tried until a time is past; None if it never was.

  Args:
    host: where process 0 is.
    port: where it listens.
    until: as `time.monotonic` counts.
    hello: the first message.
  """
  while (left := until - time.monotonic()) > 0:
    try:
      sock = socket.create_connection((host, port), min(left, SEND_S))
    except OSError:  # not yet there, or its name not yet known
      time.sleep(min(RETRY_S, left))
      continue
    if sock.getsockname() == sock.getpeername():
      sock.close()  # TCP may connect a free port of this machine to itself
      continue
    link = Link(sock)
    link.send(hello())
    return link
  return None
