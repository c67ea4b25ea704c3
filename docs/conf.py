"""How Sphinx builds the documentation site; `make docs` runs it."""

import hashlib
import pathlib
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path.append(str(DOCS))

from sphinx import addnodes  # noqa: E402
from sphinx.util.nodes import find_pending_xref_condition  # noqa: E402
from website import arxiv, keys, links, pages, papers, reference  # noqa: E402

import moejax  # noqa: E402

project = 'moejax'
author = 'The moejax authors'
copyright = '2026, the moejax authors'
release = version = moejax.__version__

extensions = ['myst_nb', 'sphinx_copybutton', 'sphinx_design']
exclude_patterns = ['website']
myst_heading_anchors = 4
myst_enable_extensions = ['colon_fence']
# Shown as they are: tests run them, and they train models.
nb_execution_mode = 'off'
# Cells of notebooks have commands between the Python, which no lexer knows.
suppress_warnings = ['misc.highlighting_failure']
# Of the code blocks of pages few name their language.
highlight_language = 'none'
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80

html_theme = 'sphinx_book_theme'
html_title = 'moejax'
html_static_path = ['website/static']
html_favicon = 'website/static/icon.svg'
html_css_files = ['site.css']
html_copy_source = False
html_show_sourcelink = False
html_context = {'default_mode': 'auto'}
html_theme_options = {
  'repository_url': links.REPOSITORY,
  'use_repository_button': True,
  'use_download_button': False,
  'use_fullscreen_button': False,
  # The search stands in the list of pages.
  'navbar_persistent': [],
  # Pages below another one are listed beside that one alone.
  'collapse_navigation': True,
  'show_navbar_depth': 1,
  'show_toc_level': 2,
}


def _only_own_types(_, doctree):
  """Leaves types of other packages without links; moejax's must be found.

  Sphinx would compare each with the end of every name of the reference.
  """
  for node in list(doctree.findall(addnodes.pending_xref)):
    if node.get('refdomain') != 'py':
      continue
    node['refspecific'] = False
    if not node['reftarget'].startswith('moejax'):
      shown = find_pending_xref_condition(node, '*')
      node.replace_self(shown.children if shown else node.children)


def setup(app):
  """Writes the pages that are made, and mends links of all that are read."""
  known = pages.pages(ROOT)
  # All pages are read again when what mends them has changed.
  code = [path.read_bytes() for path in sorted(DOCS.glob('website/*.*'))]
  by = hashlib.sha256(b''.join([*code, repr(known).encode()])).hexdigest()
  app.add_config_value('made_by', by, 'env')
  made = pages.copies(ROOT) | reference.pages(ROOT) | keys.pages()
  made |= papers.pages(ROOT)
  pages.write(DOCS, made)
  at = {to.rpartition('.')[0]: path for path, to in known.items()}

  def mend(_, name, source):
    if name in at and not name.startswith(pages.GENERATED):
      source[0] = links.rewritten(source[0], at[name], ROOT, known)
    source[0] = arxiv.linked(source[0])

  app.connect('source-read', mend)
  app.connect('doctree-read', _only_own_types)
  return {'parallel_read_safe': True, 'parallel_write_safe': True}
