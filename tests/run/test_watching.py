"""The server of the live page: what it answers, and to whom."""

import contextlib
import gzip
import http.client
import json
import os
import socket
import threading

import pytest

from moejax.core import errors
from moejax.page import document
from moejax.run import watching

HOSTS = {'127.0.0.1', 'localhost', 'LOCALHOST', '127.0.0.1:9', 'localhost:9'}
OTHERS = {'evil.example', 'evil.example:6016', '127.0.0.1.evil.example', ''}
SECTION = '<section id="loss" aria-labelledby="x"><h2>Loss</h2>1</section>'
PAGE = document.Page(
  html=(
    '<!DOCTYPE html>\n<html><head><style>ul {}</style></head><body><nav><ul>'
    '<li>Loss</li></ul></nav><header><h1>tiny</h1></header><main>'
    f'{SECTION}<section id="time-of-day"><ul></ul></section></main>'
    '</body></html>'
  ),
  sections={
    'loss': SECTION,
    'time-of-day': '<section id="time-of-day"><ul></ul></section>',
  },
)
PARTS = {
  'header': '<header><h1>tiny</h1></header>',
  'nav ul': '<ul><li>Loss</li></ul>',
  'section#loss': SECTION,
  'section#time-of-day': '<section id="time-of-day"><ul></ul></section>',
}


@contextlib.contextmanager
def answering(live):
  """A server of a page; yields its port."""
  server = watching.open_server(live, 0)
  thread = threading.Thread(target=server.serve_forever, args=(0.01,))
  with server:
    thread.start()
    try:
      yield server.server_port
    finally:
      server.shutdown()
      thread.join()


def ask(port, path='/', method='GET', **headers):
  """Status, headers and text of an answer; HTTP's own headers by `headers`."""
  connection = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
  connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
  for name, value in {'Host': 'localhost', **headers}.items():
    if value is not None:
      connection.putheader(name.replace('_', '-'), value)
  connection.endheaders()
  response = connection.getresponse()
  body = response.read()
  connection.close()
  if response.getheader('Content-Encoding') == 'gzip':
    body = gzip.decompress(body)
  return response.status, response.headers, body.decode()


class Made:
  """A page that counts how often it is made."""

  def __init__(self, page=PAGE):
    self.count = 0
    self.page = page

  def __call__(self):
    self.count += 1
    return self.page


def test_the_page_comes_with_the_script_that_renews_it(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n')
  with answering(watching.LivePage([str(tmp_path)], Made())) as port:
    status, headers, text = ask(port)
    assert status == 200
    assert headers['Content-Type'] == 'text/html; charset=utf-8'
    assert headers['Cache-Control'] == 'no-store'
    assert SECTION in text
    assert text.index('id="renewal"') < text.index('</body>')
    _, headers, text = ask(port, '/parts.json')
    assert headers['Content-Type'] == 'application/json; charset=utf-8'
    got = json.loads(text)
    assert {name: part['html'] for name, part in got.items()} == PARTS
    assert len({part['digest'] for part in got.values()}) == 4
    _, _, text = ask(port, '/changes.json?x=1')
    (path,) = json.loads(text)
    assert path == str(tmp_path / 'metrics.jsonl')
    assert ask(port, '/etc/passwd')[0] == 404
    assert ask(port, '/../metrics.jsonl')[0] == 404


def test_a_page_knows_its_own_parts(tmp_path):
  # The path of a file must not end the script that it is in.
  folder = tmp_path / 'a<'
  folder.mkdir()
  (folder / 'script>.json').write_text('{}')
  live = watching.LivePage([str(folder)], Made())
  _, _, rest = live.html().partition('application/json">')
  state = json.loads(rest.partition('</script>')[0])
  assert state['changes'] == live.changes()
  parts = json.loads(live.parts())
  assert state['parts'] == {n: part['digest'] for n, part in parts.items()}


def test_compressed_where_the_browser_takes_it(tmp_path):
  with answering(watching.LivePage([str(tmp_path)], Made())) as port:
    _, plain, text = ask(port)
    _, packed, same = ask(port, Accept_Encoding='gzip')
  assert plain['Content-Encoding'] is None
  assert packed['Content-Encoding'] == 'gzip'
  assert same == text


@pytest.mark.parametrize('host', sorted(HOSTS))
def test_this_machine_s_names_are_answered(tmp_path, host):
  with answering(watching.LivePage([str(tmp_path)], Made())) as port:
    assert ask(port, Host=host)[0] == 200


@pytest.mark.parametrize('host', [*sorted(OTHERS), None])
@pytest.mark.parametrize('path', ['/', '/changes.json', '/parts.json'])
def test_a_web_site_whose_name_resolves_here_reads_nothing(
  tmp_path, host, path
):
  made = Made()
  with answering(watching.LivePage([str(tmp_path)], made)) as port:
    status, _, text = ask(port, path, Host=host)
  assert status == 403
  assert 'loss' not in text
  assert made.count == 0


@pytest.mark.parametrize('method', ['POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS'])
def test_only_get_is_answered(tmp_path, method):
  with answering(watching.LivePage([str(tmp_path)], Made())) as port:
    status, headers, _ = ask(port, method=method)
  assert (status, headers['Allow']) == (405, 'GET')


def test_no_other_site_may_embed_or_read_the_page(tmp_path):
  with answering(watching.LivePage([str(tmp_path)], Made())) as port:
    _, headers, _ = ask(port, Origin='http://evil.example')
  assert headers['Access-Control-Allow-Origin'] is None
  assert headers['Cross-Origin-Resource-Policy'] == 'same-origin'
  assert "frame-ancestors 'none'" in headers['Content-Security-Policy']


def test_it_listens_on_this_machine_alone(tmp_path):
  with watching.open_server(watching.LivePage([], Made()), 0) as server:
    assert server.server_address[0] == '127.0.0.1'


def test_a_page_is_made_anew_when_a_file_has_changed(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n')
  made = Made()
  with answering(watching.LivePage([str(tmp_path)], made)) as port:
    first = ask(port, '/changes.json')[2]
    for _ in range(3):
      ask(port)
      ask(port, '/parts.json')
    assert made.count == 1
    assert ask(port, '/changes.json')[2] == first
    with path.open('a') as f:
      f.write('{"step": 2}\n')
    assert ask(port, '/changes.json')[2] != first
    ask(port)
    assert made.count == 2
    # The same size, a later time.
    time_ns = path.stat().st_mtime_ns + 5_000_000
    os.utime(path, ns=(time_ns, time_ns))
    ask(port)
    assert made.count == 3
    (tmp_path / 'interventions').mkdir()
    (tmp_path / 'interventions' / 'mask_top.json').write_text('{}')
    ask(port)
    assert made.count == 4
    # The page does not show checkpoints or TensorBoard's files.
    (tmp_path / 'tensorboard').mkdir()
    (tmp_path / 'tensorboard' / 'events.out').write_text('x')
    ask(port)
    assert made.count == 4


def test_two_readers_share_one_page(tmp_path):
  inside, go = threading.Semaphore(0), threading.Event()
  made = Made()

  def slow():
    inside.release()
    go.wait(10)
    return made()

  with answering(watching.LivePage([str(tmp_path)], slow)) as port:
    readers = [threading.Thread(target=ask, args=(port,)) for _ in range(2)]
    for reader in readers:
      reader.start()
    assert inside.acquire(timeout=10)
    # While one makes the page, no other does.
    assert not inside.acquire(timeout=0.5)
    go.set()
    for reader in readers:
      reader.join(10)
  assert made.count == 1


def test_a_file_that_vanishes_is_no_error(tmp_path, monkeypatch):
  for name in ('a.json', 'b.json'):
    (tmp_path / name).write_text('{}')
  stamp = watching._stamp

  def vanished(path):
    if path.name == 'a.json':
      raise FileNotFoundError(path)
    return stamp(path)

  monkeypatch.setattr(watching, '_stamp', vanished)
  assert [*watching.changes([str(tmp_path)])] == [str(tmp_path / 'b.json')]
  assert watching.changes([str(tmp_path / 'gone')]) == {}


def test_a_disk_that_fails_is_an_answer_and_the_server_goes_on(tmp_path):
  def fail():
    raise OSError(5, 'Input/output error')

  with answering(watching.LivePage([str(tmp_path)], fail)) as port:
    status, _, text = ask(port)
    assert status == 503
    assert 'Input/output error' in text
    assert ask(port, '/changes.json')[0] == 200


def test_a_port_that_is_taken_names_the_next_free_one():
  live = watching.LivePage([], Made())
  with watching.open_server(live, 0) as first, socket.socket() as second:
    port = first.server_port
    with contextlib.suppress(OSError):  # some other program has it
      second.bind(('127.0.0.1', port + 1))
      second.listen()
    with pytest.raises(errors.InputError) as raised:
      watching.open_server(live, port)
  words = str(raised.value)
  assert words.startswith(f'--port={port} is taken by another program; --port=')
  free = int(words.rpartition('--port=')[2].removesuffix(' is free'))
  assert free > port + 1
  watching.open_server(live, free).server_close()
