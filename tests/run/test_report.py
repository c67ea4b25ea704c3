"""The report of a run, as it is kept and shown again."""

from etils import epath

from moejax.run import report


def test_a_report_is_of_the_folder_that_it_lies_in(tmp_path):
  here, there = epath.Path(tmp_path / 'here'), epath.Path(tmp_path / 'there')
  here.mkdir()
  assert report.read(here) is None
  report.write({'workdir': str(here), 'steps': 3}, here)
  here.rename(there)
  assert report.read(here) is None
  assert report.read(there) == {'workdir': str(there), 'steps': 3}
