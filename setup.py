"""Builds wheels that have the folder configs/ as moejax/configs/.

Everything else about the package is in setup.cfg. In a checkout, and in an
editable install, the configs are read where they are.
"""

import pathlib
import shutil

import setuptools
from setuptools.command import build_py

CONFIGS = 'configs'


class BuildWithConfigs(build_py.build_py):
  """Copies the configs into the package that is built."""

  def run(self) -> None:
    super().run()
    if self.editable_mode:
      return
    target = pathlib.Path(self.build_lib, 'moejax', CONFIGS)
    for path in pathlib.Path(CONFIGS).rglob('*.py'):
      copy = target / path.relative_to(CONFIGS)
      copy.parent.mkdir(parents=True, exist_ok=True)
      shutil.copyfile(path, copy)


setuptools.setup(cmdclass={'build_py': BuildWithConfigs})
