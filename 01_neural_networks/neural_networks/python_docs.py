"""The default corpus: the Python documentation that is already on this machine.

It has three sources, in this order:

- the language reference that `help("topics")` shows; Python contains it as `pydoc_data.topics`;
- docstrings in the source files of the standard library, NumPy and PyTorch, read with `ast`, so
  that nothing is imported for them;
- docstrings of functions and types that are written in C and have no source file, read from the
  imported modules.

A document is one symbol: its qualified name and signature, a blank line, its docstring. The corpus
depends on the installed versions. Its SHA-256 is stored with everything that is made from it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import sysconfig
import types
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from neural_networks.corpus import Corpus, CorpusError

SKIPPED_FOLDERS = {"__pycache__", "_vendor", "ensurepip", "idle_test", "idlelib", "lib2to3", "lib-dynload"} | {
    *("pydoc_data", "site-packages", "test", "testing", "tests", "turtledemo")
}
MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
MIN_CHARACTERS = 40  # shorter docstrings ("See the base class.") are mostly repetition
# A module with more text than this always goes to training. The C functions of torch are one module,
# which alone would be most of the validation text.
MAX_VALIDATION_MODULE_BYTES = 60_000
# If more than this share of its longer lines was seen before, a document is a near-duplicate.
MAX_KNOWN_LINES = 0.5

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a type made by a class statement, not in C


class DocumentedSymbol(NamedTuple):
    """One function, class, module or topic with its documentation."""

    module: str
    name: str  # qualified, such as "collections.Counter.update"
    signature: str  # such as "(self, iterable=None, /, **kwds)", or "" if it is not known
    docstring: str

    @property
    def text(self) -> str:
        """The document: name and signature, a blank line, the docstring."""
        return f"{self.name}{self.signature}\n\n{self.docstring}\n"


def gather_python_docs(validation_fraction: float = 0.05) -> Corpus:
    """Build the corpus `python_docs` from this installation.

    Each module goes as a whole to training or to validation, by the hash of its name, so that the
    split does not separate similar docstrings of one module. A document that mostly repeats lines of an
    earlier one (for example numpy.ma.mean and numpy.mean) is dropped. Training documents come first, so
    that no held-out document is nearly the same as one that the model has read.

    Args:
        validation_fraction: share of modules held out.

    Raises:
        CorpusError: too few documents were found to fill both parts (Python runs with -OO, for example).
    """
    symbols = gather_symbols()
    sizes: dict[str, int] = {}
    for symbol in symbols:
        sizes[symbol.module] = sizes.get(symbol.module, 0) + len(symbol.text)
    held_out = {
        module
        for module, size in sizes.items()
        if size <= MAX_VALIDATION_MODULE_BYTES and _unit_hash(module) < validation_fraction
    }
    known_lines: set[str] = set()
    train = _without_near_duplicates((s for s in symbols if s.module not in held_out), known_lines)
    validation = _without_near_duplicates((s for s in symbols if s.module in held_out), known_lines)
    if not train or not validation:
        raise CorpusError("no docstrings were found on this machine; is Python running with -OO?")
    return Corpus("python_docs", train, validation)


def gather_symbols() -> list[DocumentedSymbol]:
    """Every documented symbol of this installation, with each docstring once, in a fixed order."""
    from pydoc_data.topics import topics

    found: list[DocumentedSymbol] = []
    for topic in sorted(topics):
        found.append(DocumentedSymbol(f"topics.{topic}", f"help({topic!r})", "", topics[topic]))

    files = list(_source_files())
    with ProcessPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for symbols in pool.map(_symbols_of_file, files, chunksize=32):
            found += symbols
    found += _symbols_without_source()

    seen: set[str] = set()
    unique = []
    for symbol in found:
        docstring = _clean(symbol.docstring)
        key = " ".join(docstring.split())
        if len(docstring) >= MIN_CHARACTERS and key not in seen:
            seen.add(key)
            unique.append(symbol._replace(docstring=docstring))
    return unique


def _clean(docstring: str) -> str:
    lines = inspect.cleandoc(docstring).splitlines()
    text = "\n".join(line.rstrip() for line in lines)
    text = MEMORY_ADDRESS.sub("", text)  # a default value printed with its address differs in every process
    if not text.replace(
        "\n", " "
    ).isprintable():  # most texts are, and looking at each character would take half a minute
        text = "".join(c for c in text if c == "\n" or c.isprintable())
    return text.strip()


def _unit_hash(name: str) -> float:
    """A number in [0, 1) that depends only on the name and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _long_lines(text: str) -> Iterator[str]:
    return (line.strip() for line in text.splitlines() if len(line.strip()) >= 30)


def _without_near_duplicates(symbols: Iterable[DocumentedSymbol], known_lines: set[str]) -> tuple[str, ...]:
    """The texts whose longer lines are mostly new. The lines of these texts are added to `known_lines`."""
    kept = []
    for symbol in symbols:
        lines = list(_long_lines(symbol.docstring))
        known = sum(line in known_lines for line in lines)
        if known <= MAX_KNOWN_LINES * len(lines):
            known_lines.update(lines)
            kept.append(symbol.text)
    return tuple(kept)


# --- docstrings in source files --------------------------------------------------------------


def _source_files() -> Iterator[tuple[str, str]]:
    """(module name, path) of every source file, sorted within each package."""
    roots = [("", Path(sysconfig.get_path("stdlib")))]
    for package in ("numpy", "torch"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            roots.append((package, Path(spec.origin).parent))
    for package, root in roots:
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(set(subfolders) - SKIPPED_FOLDERS)
            inner = Path(folder).relative_to(root).parts
            for name in sorted(names):
                if name.endswith(".py"):
                    stem = () if name == "__init__.py" else (name[:-3],)
                    module = ".".join(part for part in (package, *inner, *stem) if part)
                    yield module, str(Path(folder, name))


def _symbols_of_file(module_and_path: tuple[str, str]) -> list[DocumentedSymbol]:
    module, path = module_and_path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's source
            tree = ast.parse(Path(path).read_bytes())
    except (SyntaxError, ValueError):  # a template, or source for another Python
        return []
    found: list[DocumentedSymbol] = []

    def visit(node: ast.AST, name: str) -> None:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node)
            if docstring:
                found.append(DocumentedSymbol(module, name, _signature(node), docstring))
            for child in node.body:
                if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                    visit(child, f"{name}.{child.name}")

    visit(tree, module)
    return found


def _signature(node: ast.AST) -> str:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"({ast.unparse(node.args)}){returns}"
    if isinstance(node, ast.ClassDef) and node.bases:
        return f"({', '.join(ast.unparse(base) for base in node.bases)})"
    return ""


# --- docstrings of functions and types in C --------------------------------------------------


def _symbols_without_source() -> list[DocumentedSymbol]:
    # This needs a separate process: which submodules `torch` and `numpy` have depends on what the running
    # program has imported, and the corpus must not depend on that.
    program = "from neural_networks import python_docs; python_docs._print_symbols_without_source()"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    if result.returncode:
        raise CorpusError(f"the docstrings of C functions could not be read: {result.stderr.strip()[-300:]}")
    return [DocumentedSymbol(*fields) for fields in json.loads(result.stdout)]


def _print_symbols_without_source() -> None:
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    json.dump(list(_walk_imported_modules()), sys.stdout)


def _walk_imported_modules() -> Iterator[DocumentedSymbol]:
    modules = [name for name in sorted(sys.stdlib_module_names) if _is_safe_extension(name)]
    for name in ["builtins", *modules, "numpy", "torch"]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield from _walk_module(importlib.import_module(name), root=name, visited=set())
        except ImportError:  # this build of Python does not have the extension
            continue


def _is_safe_extension(name: str) -> bool:
    if name.startswith(("_test", "_xx", "xx")) or name in {"_tkinter", "builtins"}:
        return False
    if name in sys.builtin_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and bool(spec.origin) and not str(spec.origin).endswith((".py", "frozen"))


def _walk_module(module: types.ModuleType, root: str, visited: set[int]) -> Iterator[DocumentedSymbol]:
    visited.add(id(module))
    members = vars(module)
    for key in sorted(members):
        value = members[key]
        if key.startswith("_"):
            continue
        if inspect.ismodule(value):
            if value.__name__.startswith(f"{root}.") and id(value) not in visited:
                yield from _walk_module(value, root, visited)
        elif inspect.isclass(value):
            yield from _walk_class(value, f"{module.__name__}.{key}")
        elif _is_documented_c_object(value):
            yield DocumentedSymbol(module.__name__, f"{module.__name__}.{key}", _text_signature(value), value.__doc__)


def _walk_class(cls: type, name: str) -> Iterator[DocumentedSymbol]:
    if _is_documented_c_object(cls):
        yield DocumentedSymbol(name, name, "", cls.__doc__ or "")
    for base in cls.__mro__[:-1]:  # without object
        for key in sorted(vars(base)):
            member = vars(base)[key]
            if not key.startswith("_") and _is_documented_c_object(member):
                yield DocumentedSymbol(name, f"{name}.{key}", _text_signature(member), member.__doc__)


def _is_documented_c_object(value: object) -> bool:
    # The type is checked first, because some modules contain lazy objects that run code on any attribute
    # access. Python functions were read from source; Python classes come twice, and the first copy stays.
    kind = type(value)
    if kind is types.FunctionType or kind.__flags__ & _HEAP_TYPE:
        return False
    documented = callable(value) or isinstance(value, types.GetSetDescriptorType)
    return documented and isinstance(getattr(value, "__doc__", None), str)


def _text_signature(value: object) -> str:
    signature = getattr(value, "__text_signature__", None)
    return signature.replace("$", "") if isinstance(signature, str) else ""
