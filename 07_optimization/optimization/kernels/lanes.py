"""Sixteen float32 side by side, as the registers of a vector unit hold them.

From a loop over numbers, the compiler makes vector instructions by itself. But it does so for the innermost loop only, and
a sum that stays in a register while the loop inside it runs needs the vectors one loop further out. So this is a type for
them: what Numba calls `Lanes`, LLVM calls <16 x float>. A processor with shorter registers uses two or four for one.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.extending import models, register_model
from numba.extending import intrinsic

LANES = 16
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTEGERS = ir.VectorType(ir.IntType(32), LANES)


class Lanes(types.Type):
    """The type of sixteen float32 side by side."""

    def __init__(self) -> None:
        super().__init__("Lanes")


lanes = Lanes()


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


@intrinsic
def load(typing, array, row, column):
    """The numbers from array[row, column] on: float32, int8, or bfloat16 in the bits of uint16."""

    def generate(context, builder, signature, arguments):
        stored = _read(context, builder, signature, arguments)
        if signature.args[0].dtype == types.int8:
            return builder.sitofp(stored, FLOATS)
        if signature.args[0].dtype == types.uint16:
            return builder.bitcast(builder.shl(builder.zext(stored, INTEGERS), INTEGERS([16] * LANES)), FLOATS)
        return stored

    return lanes(array, types.intp, types.intp), generate


@intrinsic
def load_four_bits(typing, array, row, column):
    """The numbers 0 to 15 of an even row in the lower halves of bytes, of an odd row in their upper halves."""

    def generate(context, builder, signature, arguments):
        table, row, column = arguments
        byte = builder.lshr(row, row.type(1))
        bytes_ = builder.zext(_read(context, builder, signature, (table, byte, column)), INTEGERS)
        shift = builder.shl(builder.and_(row, row.type(1)), row.type(2))
        shifted = builder.lshr(bytes_, _splat(builder, builder.trunc(shift, ir.IntType(32)), INTEGERS))
        return builder.uitofp(builder.and_(shifted, INTEGERS([15] * LANES)), FLOATS)

    return lanes(array, types.intp, types.intp), generate


@intrinsic
def save(typing, array, row, column, values):
    """Write float32 numbers from array[row, column] on."""

    def generate(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature, arguments[:3], FLOATS)
        builder.store(arguments[3], pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, lanes), generate


@intrinsic
def add_scaled(typing, sums, number, values):
    """sums + number · values, rounded once. The number is one float32 for all lanes."""

    def generate(context, builder, signature, arguments):
        sums, number, values = arguments
        return _fma(builder, _splat(builder, number, FLOATS), values, sums)

    return lanes(lanes, types.float32, lanes), generate


@intrinsic
def add_products(typing, sums, left, right):
    """sums + left · right, lane by lane, rounded once."""

    def generate(context, builder, signature, arguments):
        sums, left, right = arguments
        return _fma(builder, left, right, sums)

    return lanes(lanes, lanes, lanes), generate


def _pointer(context, builder, signature, arguments, vector):
    kind = signature.args[0]
    array = context.make_array(kind)(context, builder, arguments[0])
    place = cgutils.get_item_pointer(context, builder, kind, array, list(arguments[1:3]), wraparound=False)
    return builder.bitcast(place, vector.as_pointer())


def _read(context, builder, signature, arguments):
    kind = signature.args[0].dtype
    vector = ir.VectorType(context.get_value_type(kind), LANES)
    return builder.load(_pointer(context, builder, signature, arguments, vector), align=kind.bitwidth // 8)


def _splat(builder, number, vector):
    first = builder.insert_element(vector(ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, vector(ir.Undefined), INTEGERS([0] * LANES))


def _fma(builder, left, right, added):
    kind = ir.FunctionType(FLOATS, [FLOATS] * 3)
    return builder.call(
        cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), (left, right, added)
    )
