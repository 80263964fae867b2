"""Conditions on rows, written as text: ``sharpness < 20 and emotion in ['anger', 'fear']``.

Python's ``ast`` parses the text, and the nodes listed here become an expression of Arrow; every
other node is refused. Nothing is run.
"""

import ast
import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute

from ...manifests.schema import is_text
from ..errors import InputError, nearest

# pyarrow makes these functions at run time; no type checker sees them.
pc: Any = pyarrow.compute

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    **{ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le},
    **{ast.Gt: operator.gt, ast.GtE: operator.ge},
}


def _divide(one: Any, other: Any) -> Any:
    """Return a quotient; unknown where the divisor is 0, which Arrow would refuse."""
    unknown = pc.scalar(pa.scalar(None, pa.float64()))
    return one / pc.if_else(other == pc.scalar(0.0), unknown, other)


_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: _divide},
}
_TESTS_OF_TEXT = {
    "startswith": pc.starts_with,
    "endswith": pc.ends_with,
    "contains": pc.match_substring,
}
#: More than anyone writes; Python and Arrow recurse over the tree.
_DEEPEST, _LONGEST = 40, 10_000
_EXAMPLE = "write for example: sharpness < 20 and emotion in ['anger', 'fear']"


def parse_where(text: str, schema: pa.Schema) -> pyarrow.compute.Expression:
    """Return a condition as an expression that ``pyarrow.Table.filter`` takes.

    It has comparisons (``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``in [...]``, ``not in``) of
    columns, numbers, 'text', True and False, joined by ``and``, ``or``, ``not`` and parentheses;
    ``is None`` and ``is not None``; ``+ - * /`` and ``abs(x)``; ``startswith(x, 'text')``,
    ``endswith`` and ``contains``. A column whose name is no Python name is ``column('its name')``.
    Where a value is unknown (null), a comparison does not hold, and neither does its opposite.

    Args:
        text: the condition.
        schema: the columns that it may name, with their types.

    Raises:
        InputError: it is no such condition, names an unknown column, or compares unlike things.
    """
    shown = text if len(text) <= 200 else f"{text[:200]}…"
    try:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        tree = ast.parse(text.strip(), mode="eval").body
        if _depth(tree) > _DEEPEST:
            raise ValueError("it is too deep")
        condition = _parsed(tree, schema)
        if condition.kind != "truth":
            raise ValueError("it is no comparison")
        # On no rows: what Arrow refuses is said now, not at some shard.
        schema.empty_table().filter(condition.expression)
    except SyntaxError as error:
        single = re.search("[^=!<>]=[^=]", text)
        why = "'equal' is written ==" if single else error.msg
    except (ValueError, OverflowError, RecursionError, MemoryError, pa.ArrowException) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
    else:
        return condition.expression
    raise InputError(f"not a condition on rows: {shown} ({why}); {_EXAMPLE}")


def columns_in(text: str, schema: pa.Schema) -> list[str]:
    """Return the columns of a schema that a parsed condition may name, in the schema's order.

    ``text``: a condition that ``parse_where`` takes.
    """
    named: set[object] = set()
    for node in ast.walk(ast.parse(text.strip(), mode="eval")):
        if isinstance(node, ast.Name):
            named.add(node.id)
        elif isinstance(node, ast.Constant):  # of column('its name')
            named.add(node.value)
    return [name for name in schema.names if name in named]


class _Part(NamedTuple):
    """A part of a condition.

    Attributes:
        kind: ``number``, ``text``, ``truth`` or ``other``.
        single: whether it is a column of float32: 0.1 is then compared as a float32, too.
    """

    expression: Any
    kind: str
    single: bool = False


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [below for one in level for below in ast.iter_child_nodes(one)]
    return depth


def _parsed(node: ast.expr, schema: pa.Schema) -> _Part:
    """Return a part of a condition. Raises ValueError for one that is not allowed."""
    match node:
        case ast.Constant(value=bool(value)):
            return _Part(pc.scalar(value), "truth")
        case ast.Constant(value=str(value)):
            return _Part(pc.scalar(value), "text")
        case ast.Constant(value=int(value) | float(value)):
            return _Part(pc.scalar(float(value)), "number")
        case ast.Name(id=name):
            return _column(name, schema)
        case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str(name))]):
            return _column(name, schema)
        case ast.Call(func=ast.Name(id="abs"), args=[one]):
            return _Part(pc.abs(_of("number", one, schema)), "number")
        case ast.Call(func=ast.Name(id=name), args=[one, ast.Constant(value=str(part))]) if (
            name in _TESTS_OF_TEXT
        ):
            return _Part(_TESTS_OF_TEXT[name](_of("text", one, schema), part), "truth")
        case ast.UnaryOp(op=ast.USub(), operand=one):
            return _Part(pc.negate(_of("number", one, schema)), "number")
        case ast.UnaryOp(op=ast.Not(), operand=one):
            return _Part(~_of("truth", one, schema), "truth")
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            both = (_of("number", side, schema) for side in (left, right))
            return _Part(_ARITHMETIC[type(op)](*both), "number")
        case ast.BoolOp(op=op, values=values):
            join = operator.and_ if isinstance(op, ast.And) else operator.or_
            return _joined(join, [_of("truth", value, schema) for value in values])
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides = zip([left, *others], ops, others, strict=False)
            return _joined(operator.and_, [_compared(*one, schema) for one in sides])
        case _:
            raise ValueError(f"not understood: {ast.unparse(node)[:60]}")


def _joined(join: Callable[[Any, Any], Any], parts: list[Any]) -> _Part:
    found = parts[0]
    for part in parts[1:]:
        found = join(found, part)
    return _Part(found, "truth")


def _of(kind: str, node: ast.expr, schema: pa.Schema) -> Any:
    """Return the expression of a part that must be of a kind."""
    return _checked(kind, node, _parsed(node, schema)).expression


def _checked(kind: str, node: ast.expr, part: _Part) -> _Part:
    if part.kind != kind or kind == "other":
        wanted = {"number": "a number", "text": "text", "truth": "a comparison"}
        raise ValueError(f"{ast.unparse(node)[:60]} is not {wanted.get(kind, 'comparable')}")
    return part


def _column(name: str, schema: pa.Schema) -> _Part:
    if name not in schema.names:
        quoted = f"there is no column '{name}'{nearest(name, schema.names)}"
        raise InputError(f"{quoted} (text needs quotes: '{name}')")
    kind, found = schema.field(name).type, pc.field(name)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        found = found.cast(kind)
    if pa.types.is_integer(kind):
        # Arrow would compare integers with 1.5 as float32, and refuse large ones.
        return _Part(found.cast(pa.float64(), safe=False), "number")
    if pa.types.is_floating(kind):
        return _Part(found, "number", kind == pa.float32())
    if pa.types.is_boolean(kind):
        return _Part(found, "truth")
    return _Part(found, "text" if is_text(kind) else "other")


def _compared(left: ast.expr, op: ast.cmpop, right: ast.expr, schema: pa.Schema) -> Any:
    one = _parsed(left, schema)

    def compare(comparison: Callable[[Any, Any], Any], node: ast.expr) -> Any:
        sides = one, _checked(one.kind, node, _parsed(node, schema))
        if any(side.single for side in sides):
            return comparison(*(side.expression.cast(pa.float32(), safe=False) for side in sides))
        return comparison(*(side.expression for side in sides))

    match op, right:
        case ast.Is() | ast.IsNot(), ast.Constant(value=None):
            unknown = one.expression.is_null()
            return unknown if isinstance(op, ast.Is) else ~unknown
        case ast.In() | ast.NotIn(), ast.List(elts=members) | ast.Tuple(elts=members) if members:
            found = _joined(operator.or_, [compare(operator.eq, member) for member in members])
            return found.expression if isinstance(op, ast.In) else ~found.expression
        case _ if type(op) in _COMPARISONS:
            return compare(_COMPARISONS[type(op)], right)
        case _:
            raise ValueError(f"not understood: {ast.unparse(right)[:60]} after 'in' or 'is'")
