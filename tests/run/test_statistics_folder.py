"""Statistics of several domains in a folder, and what is refused."""

import pytest
from helpers import expert_statistics

from moejax.core import errors
from moejax.run import statistics_folder

# A domain may be the path of a file.
DOMAINS = {
  'code': expert_statistics.random(seed=1, checkpoint='a@3', tokenizer='bytes'),
  '/my/texts/code': expert_statistics.random(
    seed=2, checkpoint='a@3', tokenizer='bytes'
  ),
}
TEXT = {'documents': 25, 'tokenizer': 'bytes', 'rows': {'code': ('f', 3, 16)}}


def test_what_is_saved_is_read_back(tmp_path):
  assert not statistics_folder.exists(tmp_path / 'new')
  statistics_folder.save(tmp_path / 'new', DOMAINS, TEXT)
  assert statistics_folder.exists(tmp_path / 'new')
  domains, text = statistics_folder.load(tmp_path / 'new', 'a@3', 'bytes', TEXT)
  assert list(domains) == list(DOMAINS)
  assert text['documents'] == 25
  for name, one in domains.items():
    assert one.easy_ep_NE.tobytes() == DOMAINS[name].easy_ep_NE.tobytes()


def test_a_folder_without_its_index_is_a_part_that_does_not_count(tmp_path):
  DOMAINS['code'].save(tmp_path / '00_code.npz')
  assert not statistics_folder.exists(tmp_path)


def test_what_was_stopped_while_it_was_saved_does_not_count(
  tmp_path, monkeypatch
):
  """The first domain is written, the second is not."""
  save, saved = expert_statistics.ExpertStatistics.save, []

  def stop(one, path):
    saved.append(path)
    if len(saved) == 2:
      raise KeyboardInterrupt
    save(one, path)

  monkeypatch.setattr(expert_statistics.ExpertStatistics, 'save', stop)
  with pytest.raises(KeyboardInterrupt):
    statistics_folder.save(tmp_path, DOMAINS, TEXT)
  assert [path.name for path in tmp_path.iterdir()] == ['00_code.npz']
  assert not statistics_folder.exists(tmp_path)


def test_another_text_is_refused_by_what_differs(tmp_path):
  statistics_folder.save(tmp_path, DOMAINS, TEXT)
  with pytest.raises(errors.InputError, match='with other documents; name'):
    statistics_folder.load(tmp_path, 'a@3', 'bytes', TEXT | {'documents': 5})
  assert statistics_folder.load(tmp_path, 'a@3', 'bytes')[1]['documents'] == 25


def test_another_checkpoint_is_refused(tmp_path):
  statistics_folder.save(tmp_path, DOMAINS, TEXT)
  with pytest.raises(errors.InputError, match="another checkpoint .'a@3', not"):
    statistics_folder.load(tmp_path, 'a@4', 'bytes')


def test_another_tokenizer_is_refused(tmp_path):
  statistics_folder.save(tmp_path, DOMAINS, TEXT)
  with pytest.raises(
    errors.InputError, match="another tokenizer .'bytes', not"
  ):
    statistics_folder.load(tmp_path, 'a@3', 'words')
  # A model without a tokenizer has any.
  assert statistics_folder.load(tmp_path, 'a@3', '')[0]


@pytest.mark.parametrize('index', ['', '[]', '{"domains": 3, "text": {}}'])
def test_a_damaged_index_is_refused(tmp_path, index):
  (tmp_path / 'index.json').write_text(index)
  with pytest.raises(errors.InputError, match='is not an index of statistics'):
    statistics_folder.load(tmp_path, 'a@3', 'bytes')
