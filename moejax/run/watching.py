"""Serves a page that renews itself while its files change, for `cli.watch`.

  GET /              the page, with the script that renews it
  GET /changes.json  size and time of each file that the page is made of
  GET /parts.json    the parts of the page, each with its HTML

The server listens on 127.0.0.1, so that other machines cannot reach it, and
writes no file. It refuses requests whose Host header names another machine. A
web site whose name is made to resolve to 127.0.0.1 (DNS rebinding) could
otherwise read the page through the browser of somebody who visits the site.
"""

import contextlib
import errno
import gzip
import hashlib
import http.server
import json
import os
import pathlib
import re
import socket
import sys
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from http import HTTPStatus

from etils import epath

from moejax.core import errors, files
from moejax.page import document
from moejax.page.document import Page
from moejax.run import page as pages

HOST = '127.0.0.1'
PORT = 6016
LAST_PORT = 65_535
LOCAL_NAMES = (HOST, 'localhost')
# Files of a workdir that a page is made of, checkpoints apart.
PATTERNS = ('*.json', '*.jsonl', '*/*.json', '*/*.jsonl', '*/*.parquet')
# A browser that loads the page sends its requests within this time, seconds.
REQUEST_S = 30
# Everything is in the page itself, and scripts may ask this server alone.
POLICY = (
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
  "img-src data: blob:; font-src data:; connect-src 'self'; "
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HTML, JSON, TEXT = (
  f'{kind}; charset=utf-8'
  for kind in ('text/html', 'application/json', 'text/plain')
)
SCRIPT = pathlib.Path(__file__).with_name('renew.js')
# The status line, what the script knows, and the script.
RENEWING = """
<p id="renewal" role="status"></p>
<style>
#renewal {{ position: fixed; right: 0; bottom: 0; margin: 0; z-index: 9;
  padding: .2em .6em; font-size: .8rem; background: Canvas; color: CanvasText;
  border: 1px solid GrayText; border-radius: .4em 0 0 0 }}
@media print {{ #renewal {{ display: none }} }}
</style>
<script id="renewal-state" type="application/json">{state}</script>
<script>
{script}
</script>
"""


# Parts of a page outside of its sections. No text in them has `<`.
OTHER_PARTS = {
  'header': re.compile(r'<header>.*?</header>', re.DOTALL),
  'nav ul': re.compile(r'<ul>.*?</ul>', re.DOTALL),
}


def changes(workdirs: Sequence[str]) -> dict[str, tuple[int, int]]:
  """(bytes, time of the last change) of each file that a page is made of.

  Args:
    workdirs: the folders. A folder or a file that vanishes meanwhile is left
      out.
  """
  stamps = {}
  for workdir in workdirs:
    folder = epath.Path(workdir)
    for pattern in PATTERNS:
      for path in folder.glob(pattern):
        try:
          stamps[os.fspath(path)] = _stamp(path)
        except FileNotFoundError:
          continue  # a temporary file, or a checkpoint that was replaced
  return dict(sorted(stamps.items()))


def _stamp(path: epath.Path) -> tuple[int, int]:
  if files.is_local(path):
    status = os.stat(path)
    # Milliseconds: JavaScript has no integers as large as nanoseconds.
    return status.st_size, status.st_mtime_ns // 1_000_000
  remote = path.stat()
  return remote.length, int(remote.mtime) * 1000


def parts(page: Page) -> dict[str, str]:
  """The parts of a page that change: HTML by the CSS selector of its element.

  Example: {'header': '<header>...', 'nav ul': '<ul>...', 'section#experts':
  '<section id="experts">...'}
  """
  found = {name: form.search(page.html) for name, form in OTHER_PARTS.items()}
  others = {name: match[0] for name, match in found.items() if match}
  return others | {
    f'section#{name}': html for name, html in page.sections.items()
  }


class LivePage:
  """The page of some workdirs, made anew when one of their files has changed.

  Several threads may ask for it; one makes it, and the others wait.
  """

  def __init__(self, workdirs: Sequence[str], make: Callable[[], Page]):
    """Makes nothing yet.

    Args:
      workdirs: the folders whose files the page is made of.
      make: makes the page from the files as they are.
    """
    self._workdirs = tuple(workdirs)
    self._make = make
    self._lock = threading.Lock()
    self._made: tuple[dict[str, tuple[int, int]], Page] | None = None

  def changes(self) -> str:
    """The files and their times, as JSON."""
    return json.dumps(changes(self._workdirs))

  def html(self) -> str:
    """The whole page, with the script that renews it."""
    seen, page = self._newest()
    digests = {name: _digest(html) for name, html in parts(page).items()}
    state = {'changes': json.dumps(seen), 'parts': digests}
    renewing = RENEWING.format(
      state=json.dumps(state).replace('<', '\\u003c'),
      script=SCRIPT.read_text(encoding='utf-8'),
    )
    before, body, after = page.html.rpartition('</body>')
    return before + renewing + body + after

  def parts(self) -> str:
    """The parts and their digests, as JSON."""
    _, page = self._newest()
    return json.dumps({
      name: {'digest': _digest(html), 'html': html}
      for name, html in parts(page).items()
    })

  def _newest(self) -> tuple[dict[str, tuple[int, int]], Page]:
    """The page, and the files that it was made of, as they were before."""
    with self._lock:
      seen = changes(self._workdirs)
      if self._made is None or self._made[0] != seen:
        self._made = seen, self._make()
      return self._made


def _digest(html: str) -> str:
  return hashlib.sha256(html.encode()).hexdigest()[:16]


class _Handler(http.server.BaseHTTPRequestHandler):
  """Answers the GET requests of this machine's browsers."""

  server: 'Server'
  timeout = REQUEST_S
  server_version, sys_version = 'moejax', ''

  def do_GET(self) -> None:
    host = urllib.parse.urlsplit(f'//{self.headers.get("Host", "")}')
    if host.hostname not in LOCAL_NAMES:
      self._answer(
        HTTPStatus.FORBIDDEN,
        TEXT,
        f'This page is for http://{HOST}:{self.server.server_port}/ alone.\n',
      )
      return
    answer = self.server.answers.get(self.path.partition('?')[0])
    if answer is None:
      self._answer(HTTPStatus.NOT_FOUND, TEXT, 'There is no such page.\n')
      return
    kind, make = answer
    try:
      text = make()
    except OSError as error:
      # The workdir was moved, or its disk does not answer.
      self._answer(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f'{error}\n')
      return
    self._answer(HTTPStatus.OK, kind, text)

  def _refuse(self) -> None:
    self._answer(HTTPStatus.METHOD_NOT_ALLOWED, TEXT, 'Only GET is answered.\n')

  do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse

  def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
    body = text.encode()
    self.send_response(status)
    self.send_header('Content-Type', kind)
    if 'gzip' in self.headers.get('Accept-Encoding', ''):
      # The page is megabytes, and often comes through an SSH tunnel.
      body = gzip.compress(body, compresslevel=1)
      self.send_header('Content-Encoding', 'gzip')
    self.send_header('Content-Length', str(len(body)))
    self.send_header('Cache-Control', 'no-store')
    self.send_header('Content-Security-Policy', POLICY)
    self.send_header('Cross-Origin-Resource-Policy', 'same-origin')
    self.send_header('Referrer-Policy', 'no-referrer')
    self.send_header('X-Content-Type-Options', 'nosniff')
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
      self.send_header('Allow', 'GET')
    self.end_headers()
    if self.command != 'HEAD':
      self.wfile.write(body)

  def log_message(self, format: str, *args: object) -> None:
    """Logs nothing: a browser asks every other second."""


class Server(http.server.ThreadingHTTPServer):
  """Answers each request in a thread, for which the process does not wait."""

  daemon_threads = True
  block_on_close = False
  # With it two servers of one user could share a port.
  allow_reuse_port = False

  def __init__(self, port: int, live: LivePage):
    self.answers = {
      '/': (HTML, live.html),
      '/changes.json': (JSON, live.changes),
      '/parts.json': (JSON, live.parts),
    }
    super().__init__((HOST, port), _Handler)

  def handle_error(self, request, client_address) -> None:
    # A browser that leaves a page drops its requests.
    if not isinstance(sys.exception(), ConnectionError | TimeoutError):
      super().handle_error(request, client_address)


def live_page(workdirs: Sequence[str]) -> LivePage:
  """The page of runs, or of a run that has not begun.

  Args:
    workdirs: their folders.

  Raises:
    InputError: a folder does not exist.
  """
  for workdir in workdirs:
    if not epath.Path(workdir).is_dir():
      raise errors.InputError(
        f'--workdir={errors.shown(workdir)}: there is no such folder; name '
        'that of a run'
      )

  def make() -> Page:
    try:
      return pages.make(workdirs)
    except errors.InputError as error:
      # Nothing is there yet, or a file is being copied.
      return document.document('Nothing to show yet', str(error), (), ())

  return LivePage(workdirs, make)


def open_server(live: LivePage, port: int) -> Server:
  """A server of a page, which listens; `serve_forever` answers.

  Args:
    live: the page.
    port: TCP port; 0 for any that is free.

  Raises:
    InputError: the port is taken, or is not for this user.
  """
  try:
    return Server(port, live)
  except OSError as error:
    raise _not_served(port, error) from error


def serve(server: Server, say: Callable[[str], None]) -> None:
  """Answers requests until Ctrl-C, SIGTERM or SIGHUP, and closes the server.

  Args:
    server: made by `open_server`.
    say: is called with the line that names the address.
  """
  with server, contextlib.suppress(KeyboardInterrupt):
    say(f'http://{HOST}:{server.server_port}/ (Ctrl-C stops)')
    server.serve_forever()


def _not_served(port: int, error: OSError) -> errors.InputError | OSError:
  """The error for a port on which no server can listen."""
  if error.errno not in (errno.EADDRINUSE, errno.EACCES):
    return error
  free = _free_port(port if error.errno == errno.EADDRINUSE else PORT)
  reason = (
    'is taken by another program'
    if error.errno == errno.EADDRINUSE
    else 'is not for this user'
  )
  return errors.InputError(f'--port={port} {reason}; --port={free} is free')


def _free_port(port: int) -> int:
  """The first free port from the one after `port` on; 0 if there is none."""
  for candidate in range(port + 1, LAST_PORT + 1):
    with socket.socket() as probe:
      probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
      try:
        probe.bind((HOST, candidate))
      except OSError:
        continue
      return candidate
  return 0
