"""Digests of code: of everything that a script can run, so that a change re-runs what uses it.

Snakemake sees a script but not the modules it imports. `digest` hashes the syntax trees of the
script and of its first-party imports, found by reading the source and never by running it:
comments, formatting and docstrings do not count. What is looked up by name at run time (a merge
method, a model family, a renderer) is named to `digest`, and only that function and what it refers
to are hashed, so that editing one method leaves the others alone. Standard library only: the
workflow calls this at start.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mergeloom.errors import MergeloomError

SCRIPTS = Path(__file__).resolve().parents[2]
# The decorator that registers a thing by name, and the package whose modules hold such things.
REGISTRIES = {
    "merger": "mergeloom/merging/methods",
    "modifier": "mergeloom/merging/methods",
    "family": "mergeloom/models",
    "stages": "mergeloom/models",
    "uses": "mergeloom/models",
    "supplied": "mergeloom/models",
    "renderer": "mergeloom/data/rendered",
    "text_renderer": "mergeloom/data/rendered_text",
    "optimizer": "mergeloom/training",
    "schedule": "mergeloom/training",
    "augmentation": "mergeloom/training",
    "corruption": "mergeloom/data/corruptions",
    "evaluator": "mergeloom/evaluation/evaluators",
    "adapter": "mergeloom/adaptive/methods",
    "extractor": "mergeloom/features",
    "fetcher": "mergeloom/features",
    "measure": "mergeloom/similarity/measures",
}
FIRST_PARTY = ("mergeloom", "rule")  # an installed package lies among all others
DATA = (".mplstyle",)  # of files beside modules that belong to them
TYPES_ALONE = ast.dump(ast.Name("TYPE_CHECKING", ast.Load()))
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Registered:
    """A function or class that a decorator registers by name."""

    name: str
    path: Path
    node: Definition

    @property
    def inputs(self) -> list[str]:
        """Names of the positional parameters."""
        assert isinstance(self.node, ast.FunctionDef)
        return [argument.arg for argument in self.node.args.args]

    @property
    def parameters(self) -> dict[str, object]:
        """Keyword-only parameters and their default values, as literals."""
        assert isinstance(self.node, ast.FunctionDef)
        arguments = self.node.args
        return {
            argument.arg: None if default is None else ast.literal_eval(default)
            for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        }

    @property
    def options(self) -> dict[str, object]:
        """Keyword arguments of the decorator that are literals; a survey is a function and none."""
        decorator = _registration(self.node)
        assert decorator is not None
        return {
            k.arg: ast.literal_eval(k.value)
            for k in decorator.keywords
            if k.arg and not isinstance(k.value, ast.Name)
        }


@cache
def _tree(path: Path) -> ast.Module:
    tree = ast.parse(path.read_text(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


@cache
def _dump(path: Path) -> str:
    return ast.dump(_tree(path))


@cache
def _imports(path: Path, scripts: Path) -> tuple[Path, ...]:
    return tuple(_modules(_tree(path), scripts))


def _registration(node: Definition) -> ast.Call | None:
    for decorator in node.decorator_list:
        if (
            isinstance(decorator, ast.Call)
            and isinstance(decorator.func, ast.Name)
            and decorator.func.id in REGISTRIES
        ):
            return decorator
    return None


@cache
def registered(registry: str, scripts: Path = SCRIPTS) -> dict[str, Registered]:
    """Everything registered under a decorator (`merger`, `family`, `renderer`), by name."""
    found: dict[str, Registered] = {}
    for path in sorted((scripts / REGISTRIES[registry]).glob("*.py")):
        for node in _tree(path).body:
            if not isinstance(node, Definition):
                continue
            decorator = _registration(node)
            if decorator is None or decorator.func.id != registry:  # type: ignore[attr-defined]
                continue
            name = ast.literal_eval(decorator.args[0])
            if name in found:
                raise MergeloomError(f"{path}: {registry} {name!r} is also in {found[name].path}")
            found[name] = Registered(name, path, node)
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node`, without imports that are there for types alone."""
    queue = [node]
    while queue:
        found = queue.pop()
        if isinstance(found, ast.If) and ast.dump(found.test) == TYPES_ALONE:
            queue.extend(found.orelse)
            continue
        yield found
        queue.extend(ast.iter_child_nodes(found))


def _modules(node: ast.AST, scripts: Path) -> Iterator[Path]:
    """Files of the first-party modules that the imports below `node` name and that run."""
    for statement in _running(node):
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            if statement.level:
                raise MergeloomError("relative imports are not followed by the code digest")
            module = statement.module or ""
            names = [module, *(f"{module}.{alias.name}" for alias in statement.names)]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] not in FIRST_PARTY:
                continue
            for depth in range(1, len(parts) + 1):
                stem = scripts.joinpath(*parts[:depth])
                yield from (
                    p for p in (stem.with_suffix(".py"), stem / "__init__.py") if p.is_file()
                )


def _closure(paths: Iterator[Path], scripts: Path) -> set[Path]:
    """The files and everything first-party that they import, directly or not."""
    found: set[Path] = set()
    queue = list(paths)
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue.extend(_imports(path, scripts))
    return found


def _parts(entry: Registered) -> list[ast.stmt]:
    """The registered node and every other top-level statement of its file that it refers to."""
    statements: dict[str, ast.stmt] = {}
    for statement in _tree(entry.path).body:
        if isinstance(statement, Definition | ast.AsyncFunctionDef):
            statements[statement.name] = statement
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                statements[(alias.asname or alias.name).split(".")[0]] = statement
        else:
            for name in ast.walk(statement):
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store):
                    statements[name.id] = statement
    needed: list[ast.stmt] = []
    queue: list[ast.stmt] = [entry.node]
    while queue:
        statement = queue.pop()
        if statement not in needed:
            needed.append(statement)
            names = {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
            queue.extend(statements[name] for name in names if name in statements)
    return needed


@cache
def digest(script: str, /, scripts: Path = SCRIPTS, **names: str | tuple[str, ...]) -> str:
    """Digest of all first-party code that `script` can run.

    Parameters
    ----------
    script : str – a file in `workflow_scripts/`, for instance `merge_models.py`.
    **names : str or tuple of them – what the script looks up in a registry, for instance
        `merger="tsv"`.

    Returns
    -------
    str – 16 hexadecimal digits of a SHA-256.

    Raises
    ------
    MergeloomError – when a registry holds no such name; the message lists what it holds.
    """
    trees: dict[str, str] = {}
    paths = _closure(iter([scripts / script]), scripts)
    wanted = ((r, n) for r, some in names.items() for n in ((some,) if type(some) is str else some))
    for registry, name in sorted(wanted):
        entry = lookup(registry, name, scripts)
        parts = _parts(entry)
        label = f"{entry.path.relative_to(scripts)}:{entry.node.name}"
        trees[label] = "\n".join(sorted(ast.dump(part) for part in parts))
        paths |= _closure((p for part in parts for p in _modules(part, scripts)), scripts)
    for path in paths:
        trees[str(path.relative_to(scripts))] = _dump(path)
    for file in {f for path in paths for f in path.parent.iterdir() if f.suffix in DATA}:
        trees[str(file.relative_to(scripts))] = file.read_text()
    text = "\n".join(f"{name}\n{tree}" for name, tree in sorted(trees.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lookup(registry: str, name: str, scripts: Path = SCRIPTS) -> Registered:
    """The thing registered under `name`, or an error that lists what there is."""
    there_is = registered(registry, scripts)
    if name not in there_is:
        raise MergeloomError(
            f"unknown {registry} {name!r}; there is: {', '.join(sorted(there_is))}"
        )
    return there_is[name]
