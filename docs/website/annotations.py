"""Types in signatures by their full names, so that they can be links."""

import ast
from collections.abc import Mapping


def alias(node: ast.Assign) -> str:
  """What a statement names a type, as in `Weights = dict[str, Any]`; or ''.

  Such names are CamelCase, and stand for an expression of types.
  """
  target, *more = node.targets
  if more or not isinstance(target, ast.Name) or target.id.isupper():
    return ''
  if not target.id.lstrip('_')[:1].isupper():
    return ''
  types = ast.Subscript | ast.BinOp | ast.Attribute
  return target.id if isinstance(node.value, types) else ''


class Names:
  """What names of the package's modules stand for.

  Args:
    trees: dotted name of a module -> its syntax tree.
  """

  def __init__(self, trees: Mapping[str, ast.Module]):
    self._trees = trees
    self._defined = {name: _defined(tree) for name, tree in trees.items()}
    self._imported = {name: _imported(tree) for name, tree in trees.items()}
    self._shown = set().union(*self._defined.values())

  def full(self, module: str, name: str) -> str:
    """The full name of a part of moejax; '' for most others.

    A class of another package has its full name where moejax has another of
    that name.

    Example: in a module that says `from moejax.moe import contract`, the name
    'contract.Routing' is 'moejax.moe.contract.Routing'.
    """
    first, _, rest = name.partition('.')
    if not rest and first in self._defined[module]:
      return f'{module}.{first}'
    origin = self._imported[module].get(first)
    if origin is None:
      return ''
    there = f'{origin}.{rest}' if rest else origin
    home, _, last = there.rpartition('.')
    if home in self._trees:
      return self.full(home, last)
    return origin if name in self._shown else ''

  def imported(self, module: str) -> dict[str, str]:
    """Local name -> full name, of all parts of moejax that a module imports."""
    found = {}
    for name, origin in self._imported[module].items():
      if origin.startswith('moejax.') and origin not in self._trees:
        found[name] = self.full(module, name) or origin
    return found

  def qualified(self, module: str) -> ast.Module:
    """The tree of a module with full names in all annotations and aliases.

    It is the tree itself that is changed: copies of all took most of the time.
    """
    tree = self._trees[module]
    change = _Qualify(self, module)
    for node in ast.walk(tree):
      if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
        node.annotation = change.visit(node.annotation)
      elif isinstance(node, ast.FunctionDef) and node.returns:
        node.returns = change.visit(node.returns)
      elif isinstance(node, ast.Assign) and alias(node):
        node.value = change.visit(node.value)
    return tree


class _Qualify(ast.NodeTransformer):
  """Replaces names of an expression by full ones."""

  def __init__(self, names: Names, module: str):
    self._names, self._module = names, module

  def _changed(self, node: ast.expr) -> ast.expr:
    full = self._names.full(self._module, ast.unparse(node))
    return ast.parse(full, mode='eval').body if full else node

  def visit_Name(self, node: ast.Name) -> ast.expr:
    return self._changed(node)

  def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
    return self._changed(node)

  def visit_Constant(self, node: ast.Constant) -> ast.expr:
    """A name in quotation marks stands for the class that it names."""
    if not isinstance(node.value, str):
      return node
    try:
      inner = ast.parse(node.value, mode='eval').body
    except SyntaxError:
      return node
    return self.visit(inner)


def _defined(tree: ast.Module) -> set[str]:
  """The classes, functions and aliases of a module that are public."""
  found = set()
  for node in tree.body:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
      found.add(node.name)
    elif isinstance(node, ast.Assign):
      found.add(alias(node))
  return {name for name in found if name and not name.startswith('_')}


def _imported(tree: ast.Module) -> dict[str, str]:
  """Local name -> dotted name of what was imported."""
  found = {}
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and not node.level:
      for alias in node.names:
        found[alias.asname or alias.name] = f'{node.module}.{alias.name}'
    elif isinstance(node, ast.Import):
      for alias in node.names:
        if alias.asname:
          found[alias.asname] = alias.name
  return found
