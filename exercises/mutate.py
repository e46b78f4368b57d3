"""Change the package's own answer to an exercise in small ways, and see whether the grader notices.

A change that no question notices is a survivor: either a question is missing, or the changed function still does what
the exercise asks for.

python exercises/mutate.py 2.3 4      # exercise 2.3 and all of stage 4
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import multiprocessing
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from difflib import ndiff
from multiprocessing.connection import Connection
from typing import Any

from learn.catalogue import Entry, all_exercises, choose
from learn.exercise import Exercise
from learn.limits import MEMORY_LIMIT, limit_this_process

SECONDS = 20.0  # of computing; a change that makes the function run longer has been noticed
_MOST_SECONDS = 600.0  # on the clock, for one that waits for ever

_OPERATORS: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Div,),
    ast.Mod: (ast.Mult,), ast.Pow: (ast.Mult,), ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
}  # fmt: skip
_PAIRS = [("min", "max"), ("amin", "amax"), ("sum", "mean"), ("any", "all"), ("find", "rfind"), ("index", "rindex")]
_NAMES = dict(_PAIRS) | {second: first for first, second in _PAIRS}
_SYMMETRIC = {"min", "max", "minimum", "maximum", "transpose", "compare_digest"}  # in the first two arguments
# Types, decorators and the signature are not the function's work, and the text of an error is for people.
_LEFT_ALONE = (ast.arguments, ast.Raise, ast.JoinedStr)


def changes(source: str, refusals: bool = True) -> Iterator[tuple[str, str]]:
    """Every small change of some functions and classes: the changed source, and which line became which.

    Args:
        source: the text of their definitions.
        refusals: whether bad input must be refused; if not, what only refuses it is left out.

    >>> [difference for _, difference in changes("def f(a, b): return a < b")]
    ['return a < b  →  pass', 'return a < b  →  return a <= b', 'return a < b  →  return a >= b']
    """
    tree: ast.AST = ast.parse(textwrap.dedent(source))
    tree = tree if refusals else _WithoutRefusals().visit(tree)
    before = ast.unparse(tree)
    for holder, key in _places(tree):
        node = holder[key]
        for new in _replacements(node):
            holder[key] = new
            after = ast.unparse(ast.fix_missing_locations(tree))
            if after != before:
                yield after, _difference(before, after)
        holder[key] = node


class _WithoutRefusals(ast.NodeTransformer):
    """Leave out every `if` that does nothing but raise an error."""

    def visit_If(self, node: ast.If) -> ast.AST:
        if len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse:
            return ast.Pass()
        return self.generic_visit(node)


def _places(node: ast.AST) -> Iterator[tuple[Any, Any]]:
    """Where a node's children hang: the list or dictionary that holds each, and its key there."""
    for field, value in ast.iter_fields(node):
        holder, keys = (value, range(len(value))) if isinstance(value, list) else (vars(node), [field])
        if field in ("decorator_list", "annotation", "returns"):
            continue
        for key in keys:
            child = holder[key]
            docstring = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if isinstance(child, ast.AST) and not isinstance(child, ast.arguments) and not docstring:
                yield holder, key
                if not isinstance(child, _LEFT_ALONE):
                    yield from _places(child)


def _replacements(node: ast.AST) -> Iterator[ast.AST]:
    for kind in _OPERATORS.get(type(node), ()):
        yield kind()
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)):
            yield ast.Constant(2 * value + (value == 0))
        case ast.Constant(value=str(value)) if value:
            yield ast.Constant("")
        case ast.UnaryOp():
            yield node.operand
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Name() if node.id in _NAMES:
            yield ast.Name(_NAMES[node.id], node.ctx)
        case ast.Attribute() if node.attr in _NAMES:
            yield ast.Attribute(node.value, _NAMES[node.attr], node.ctx)
        case ast.Slice():
            yield from (_with(node, **{part: None}) for part in ("lower", "upper", "step") if getattr(node, part))
        case ast.Call():
            yield from (_with(node, keywords=_without(node.keywords, i)) for i in range(len(node.keywords)))
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if len(node.args) > 1:
                yield _with(node, args=node.args[:-1])
                if name not in _SYMMETRIC:
                    yield _with(node, args=[node.args[1], node.args[0], *node.args[2:]])
            if isinstance(node.func, ast.Attribute):  # what is converted, copied, bounded or detached
                yield node.func.value
            yield from node.args[:1]
        case ast.BinOp():
            yield from (node.left, node.right)
        case ast.If() | ast.While():
            yield from (_with(node, test=ast.Constant(value)) for value in (True, False))
        case ast.For() | ast.Assign() | ast.AugAssign() | ast.AnnAssign() | ast.Expr() | ast.Return() | ast.Raise():
            yield ast.Pass()
        case ast.Break() | ast.Continue():
            yield ast.Pass()
        case ast.comprehension() if node.ifs:
            yield _with(node, ifs=[])


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    new = copy.copy(node)
    vars(new).update(fields)
    return new


def _without(items: list[Any], index: int) -> list[Any]:
    return items[:index] + items[index + 1 :]


def _difference(before: str, after: str) -> str:
    lines = [line for line in ndiff(before.splitlines(), after.splitlines()) if line[:2] in ("- ", "+ ")]
    old, new = (" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return f"{old}  →  {new}"


def compiled(exercise: Exercise, source: str) -> Callable[..., Any]:
    """The package's function from a changed source, as if it stood in its module."""
    function = inspect.unwrap(exercise.resolve().function)
    namespace = dict(vars(inspect.getmodule(function)))
    exec(compile(source, "<changed>", "exec", dont_inherit=True), namespace)
    return namespace[function.__name__]


def reference_source(exercise: Exercise) -> str:
    """The source of the package's own answer, with all of the same module that the learner is not given."""
    todo: list[Any] = [inspect.unwrap(exercise.resolve().function)]
    module, given, sources = inspect.getmodule(todo[0]), exercise.stub.__globals__, {}
    while todo:
        part = todo.pop()
        sources[part] = textwrap.dedent(inspect.getsource(part))
        names = {node.id for node in ast.walk(ast.parse(sources[part])) if isinstance(node, ast.Name)}
        found = [vars(module)[name] for name in sorted(names - given.keys()) if name in vars(module)]
        todo += [
            x for x in found if getattr(x, "__module__", "") == module.__name__ and x not in sources and callable(x)
        ]
    return "\n".join(sources.values())


def changes_of(exercise: Exercise) -> list[tuple[str, str]]:
    """The changes of an exercise's reference; those of its refusals too, if the exercise asks for refusals."""
    return list(changes(reference_source(exercise), "raise" in (exercise.stub.__doc__ or "").lower()))


def survivors(entry: Entry) -> Iterator[tuple[bool, str]]:
    """Grade every change of an exercise's reference in another process: whether it survived, and what it was."""
    found = changes_of(entry.load())
    done = 0
    while done < len(found):
        ours, theirs = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.Process(target=_grade, args=(theirs, entry, [source for source, _ in found[done:]]))
        process.start()
        theirs.close()
        try:
            while done < len(found) and ours.poll(_MOST_SECONDS):
                survived = ours.recv()
                yield survived, found[done][1]
                done += 1
        except EOFError:
            pass
        if done < len(found):  # this one took too long, or ended the process
            yield False, found[done][1]
            done += 1
        process.kill()
        process.join()


def _grade(connection: Connection, entry: Entry, sources: list[str]) -> None:
    import torch

    from learn.expectations import expectations, questions
    from learn.grading import first_failure

    torch.set_num_threads(1)
    exercise = entry.load()
    expected = expectations(exercise)
    limit_this_process(MEMORY_LIMIT, 3600.0)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the timer ends the process
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        for source in sources:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                failure = first_failure(exercise, compiled(exercise, source), questions(exercise, expected))
                connection.send(failure is None)
            except Exception:  # it cannot even be defined
                connection.send(False)


def main() -> None:
    """Print how many changes each exercise's questions notice, and those that they do not."""
    for entry in choose(all_exercises(), sys.argv[1:]):
        results = list(survivors(entry))
        alive = [difference for survived, difference in results if survived]
        print(f"{entry.number} {entry.name}: {len(results) - len(alive)} of {len(results)} changes noticed", flush=True)
        for difference in alive:
            print(f"    {difference}", flush=True)


if __name__ == "__main__":
    main()
