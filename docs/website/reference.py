"""The reference: a page per package, from the docstrings of the code.

The code is parsed and not imported. Public are all names without an underscore
at the start that a module defines itself: functions, classes, aliases of types,
tables
of them, and other constants with a comment above them.
"""

import ast
import copy
import dataclasses
import pathlib

from website import annotations, docstrings, links
from website import pages as site

FOLDER = 'pages/reference'
# A longer default is left out of a signature.
LONGEST_DEFAULT = 40


@dataclasses.dataclass(frozen=True)
class Module:
  """A module: its dotted name, its path in the repository, its parts."""

  name: str
  path: str
  text: str
  tree: ast.Module

  @property
  def doc(self) -> str:
    return ast.get_docstring(self.tree) or ''


def modules(root: pathlib.Path) -> list[Module]:
  """All modules of moejax, a package before its modules."""
  found = []
  for path in sorted((root / 'moejax').rglob('*.py')):
    at = path.relative_to(root)
    parts = at.with_suffix('').parts
    if parts[-1] in {'__main__', 'main'} or 'assets' in parts:
      continue
    name = '.'.join(parts).removesuffix('.__init__')
    text = path.read_text(encoding='utf-8')
    found.append(Module(name, at.as_posix(), text, ast.parse(text)))
  return sorted(found, key=lambda module: module.name.split('.'))


def pages(root: pathlib.Path) -> dict[str, str]:
  """Path in docs/ -> Markdown, of the reference."""
  packages: dict[str, list[Module]] = {}
  every = modules(root)
  names = annotations.Names({x.name: x.tree for x in every})
  for module in every:
    is_package = module.path.endswith('__init__.py')
    name = module.name if is_package else module.name.rpartition('.')[0]
    packages.setdefault(name, []).append(module)
  written = {f'{FOLDER}/index.md': _index(packages)}
  for name, parts in packages.items():
    written[f'{FOLDER}/{name}.md'] = _package(name, parts, names)
  return written


def _summary(module: Module) -> str:
  return docstrings.escaped(module.doc.partition('\n')[0])


def _index(packages: dict[str, list[Module]]) -> str:
  """The page that lists all packages."""
  rows = [
    f'| [`{name}`]({name}.md) | {_summary(parts[0])} |'
    for name, parts in packages.items()
  ]
  return f"""# Reference of the package

These pages are made from the docstrings of the code. Names of arrays end in
their shape, `x_TD`: the [glossary](../../glossary.md#letters-of-shapes) has the
letters.

| package | what is in it |
|---|---|
{chr(10).join(rows)}
""" + site.toctree(packages)


def _package(name: str, parts: list[Module], names: annotations.Names) -> str:
  """The page of a package: its modules, one after the other."""
  sections = [f'# `{name}`', *_module(parts[0], names)]
  for module in parts[1:]:
    last = module.name.rpartition('.')[2]
    sections += [f'## `{last}`', *_module(module, names)]
  return '\n\n'.join(filter(None, sections)) + '\n'


def _module(module: Module, names: annotations.Names) -> list[str]:
  """The docstring of a module, and the names that it defines."""
  tree = names.qualified(module.name)
  parts = [
    f'```{{py:module}} {module.name}\n```',
    docstrings.markdown(module.doc),
    _shortcuts(names) if module.name == 'moejax' else '',
    f'[source]({links.REPOSITORY}/blob/main/{module.path})',
  ]
  for node in tree.body:
    if isinstance(node, ast.FunctionDef) and _is_public(node.name):
      parts.append(_function(node, 'function'))
    elif isinstance(node, ast.ClassDef) and _is_public(node.name):
      parts.append(_class(node))
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      parts.append(_constant(node, module, names))
  return parts


def _shortcuts(names: annotations.Names) -> str:
  """The names that `import moejax` brings, with what they are."""
  rows = [
    f'| `moejax.{name}` | {{py:obj}}`{full}` |'
    for name, full in sorted(names.imported('moejax').items())
  ]
  return '\n'.join(['| name | is |', '|---|---|', *rows])


def holder(module: Module, line: int) -> str:
  """The public function or class of a module that has a line; else ''."""
  for node in module.tree.body:
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
      continue
    if node.lineno <= line <= (node.end_lineno or line):
      return node.name if _is_public(node.name) else ''
  return ''


def _is_public(name: str) -> bool:
  return not name.startswith('_')


def _directive(kind: str, signature: str, body: str, ticks: int) -> str:
  fence = '`' * ticks
  return f'{fence}{{py:{kind}}} {signature}\n\n{body}\n{fence}'


def _function(node: ast.FunctionDef, kind: str, options: str = '') -> str:
  """A function or method: its signature and its docstring.

  Args:
    node: where it is defined.
    kind: 'function' or 'method'.
    options: lines of options of the directive.
  """
  args = node.args
  if kind == 'method' and 'staticmethod' not in _decorators(node):
    args = _without_first(args)
  returns = f' -> {ast.unparse(node.returns)}' if node.returns else ''
  body = docstrings.markdown(ast.get_docstring(node) or '')
  signature = f'{node.name}({_short(args)}){returns}'
  if options:
    signature += f'\n{options}'
  return _directive(kind, signature, body, 5 if kind == 'function' else 4)


def _decorators(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
  """The names of decorators without their arguments and modules."""
  names = set()
  for decorator in node.decorator_list:
    if isinstance(decorator, ast.Call):
      decorator = decorator.func
    names.add(ast.unparse(decorator).rpartition('.')[2])
  return names


def _without_first(args: ast.arguments) -> ast.arguments:
  """Arguments without `self` or `cls`."""
  kept = copy.copy(args)
  kept.posonlyargs = args.posonlyargs[1:]
  kept.args = args.args if args.posonlyargs else args.args[1:]
  return kept


def _short(args: ast.arguments) -> str:
  """Arguments, with dots for long defaults."""
  dots = ast.Constant(...)
  is_long = lambda value: value and len(ast.unparse(value)) > LONGEST_DEFAULT
  args.defaults = [dots if is_long(x) else x for x in args.defaults]
  args.kw_defaults = [dots if is_long(x) else x for x in args.kw_defaults]
  return ast.unparse(args)


def _class(node: ast.ClassDef) -> str:
  """A class: what it is made of, its docstring, and its public methods."""
  body = [docstrings.markdown(ast.get_docstring(node) or '')]
  signature = ''
  if _decorators(node) & {'dataclass'}:
    signature = f'({_fields(node)})'
  for method in node.body:
    if not isinstance(method, ast.FunctionDef):
      continue
    if method.name == '__init__':
      signature = f'({_short(_without_first(method.args))})'
    elif _is_public(method.name) or method.name == '__call__':
      options = [
        f':{name}:'
        for name in ('classmethod', 'staticmethod')
        if name in _decorators(method)
      ]
      if 'property' in _decorators(method):
        body.append(_property(method))
      else:
        body.append(_function(method, 'method', '\n'.join(options)))
  return _directive(
    'class', f'{node.name}{signature}', '\n\n'.join(filter(None, body)), 6
  )


def _property(node: ast.FunctionDef) -> str:
  kind = f'\n:type: {ast.unparse(node.returns)}' if node.returns else ''
  body = docstrings.markdown(ast.get_docstring(node) or '')
  return _directive('property', node.name + kind, body, 4)


def _fields(node: ast.ClassDef) -> str:
  """The fields of a dataclass as arguments; defaults that are long are dots."""
  parts = []
  for field in node.body:
    if not isinstance(field, ast.AnnAssign) or not isinstance(
      field.target, ast.Name
    ):
      continue
    kind = ast.unparse(field.annotation)
    if kind.startswith(('ClassVar', 'typing.ClassVar')):
      continue
    part = f'{field.target.id}: {kind}'
    if field.value is not None:
      value = _default(field.value)
      part += f' = {value}'
    parts.append(part)
  return ', '.join(parts)


def _default(value: ast.expr) -> str:
  """The default of a field: of `fields.number(0.1, ...)` it is 0.1."""
  if isinstance(value, ast.Call):
    behind_table = ast.unparse(value.func) in {'fields.choice', 'fields.named'}
    defaults = value.args[1:] if behind_table else value.args
    if not ast.unparse(value.func).startswith('fields.') or not defaults:
      return '...'
    value = defaults[0]
  text = ast.unparse(value)
  return text if len(text) <= LONGEST_DEFAULT else '...'


def _entries(
  node: ast.expr | None, module: str, names: annotations.Names
) -> str:
  """The entries of a table of classes or functions, by their keys."""
  if not isinstance(node, ast.Dict):
    return ''
  lines = []
  for key, value in zip(node.keys, node.values, strict=True):
    full = names.full(module, ast.unparse(value))
    if not isinstance(key, ast.Constant) or not full.startswith('moejax.'):
      return ''
    last = full.rpartition('.')[2]
    lines.append(f'- `{key.value!s}`: {{py:obj}}`{last} <{full}>`')
  return '\n'.join(lines)


def _constant(
  node: ast.Assign | ast.AnnAssign, module: Module, names: annotations.Names
) -> str:
  """An alias of a type, a table, a constant with a comment above it; or ''."""
  targets = node.targets if isinstance(node, ast.Assign) else [node.target]
  above: list[str] = []
  lines = module.text.splitlines()
  for line in reversed(lines[: node.lineno - 1]):
    if not line.startswith('#'):
      break
    above.insert(0, line.removeprefix('#').removeprefix(' '))
  if not isinstance(targets[0], ast.Name) or not _is_public(targets[0].id):
    return ''
  name = targets[0].id
  body = docstrings.markdown('\n'.join(above))
  value = ast.unparse(node.value) if node.value is not None else ''
  if isinstance(node, ast.Assign) and annotations.alias(node):
    return _directive('type', f'{name}\n:canonical: {value}', body, 5)
  entries = _entries(node.value, module.name, names)
  if not name.isupper() or not (above or entries):
    return ''
  fits = 0 < len(value) <= LONGEST_DEFAULT
  options = f'\n:value: {value}' if fits else ''
  body = '\n\n'.join(filter(None, (body, entries)))
  return _directive('data', name + options, body, 5)
