"""What the vector instructions of `models.ops.cpu_vectors` are written with: calls of LLVM's builder.

Places in memory are addresses of numbers, and an index from there.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from llvmlite import binding, ir
from numba.core import cgutils

LANES = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Numbers a vector. Where registers are shorter LLVM takes several."""
CACHE_LINE = 64
"""Bytes that come into a cache at once."""
INDEX = ir.IntType(64)
FLAGS = ("contract", "reassoc")
"""Sums may be fused and reordered; NaN and infinity keep their meaning."""


@contextlib.contextmanager
def strips(builder: ir.IRBuilder, count: ir.Value) -> Iterator[ir.Value]:
    """A loop over what vectors start with."""
    with cgutils.for_range_slice(builder, INDEX(0), count, INDEX(LANES), INDEX) as (index, _):
        yield index


def fetch_pair(builder: ir.IRBuilder, places: ir.Value, start: ir.Value, k: ir.Value) -> None:
    """Ask for the cache line at start + places[k] and the next."""
    place = builder.load(builder.gep(builder.inttoptr(places, INDEX.as_pointer()), [k]))
    first = builder.add(start, place)
    for line in range(2):
        fetch(builder, builder.add(first, INDEX(line * CACHE_LINE)))


def fetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for the cache line at an address."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    place = builder.inttoptr(address, byte)
    builder.call(prefetch, [place, number(0), number(2), number(1)])  # to read, second cache, data


def unpack(builder: ir.IRBuilder, tuples: Sequence[ir.Value]) -> list[list[ir.Value]]:
    """The values of several tuples."""
    return [cgutils.unpack_tuple(builder, t) for t in tuples]


def phis(builder: ir.IRBuilder, incoming: Mapping[ir.Block, Sequence[ir.Value]]) -> list[ir.Instruction]:
    """Values that depend on the block that was left last."""
    phis = [builder.phi(value.type) for value in next(iter(incoming.values()))]
    for block, values in incoming.items():
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
    return phis


def pointer(builder: ir.IRBuilder, real: ir.Type, address: ir.Value) -> ir.Value:
    """An address as a pointer to numbers."""
    return builder.inttoptr(address, real.as_pointer())


def _vector(builder: ir.IRBuilder, vector: ir.VectorType, address: ir.Value, index: ir.Value) -> ir.Value:
    first = builder.gep(pointer(builder, vector.element, address), [index])
    return builder.bitcast(first, vector.as_pointer())


def unaligned(access: ir.Instruction) -> ir.Instruction:
    """The same access, of memory that need not be aligned to a whole vector."""
    access.align = 4  # else LLVM takes a vector to be aligned to its own size
    return access


def load(builder: ir.IRBuilder, real: ir.Type, address: ir.Value, index: ir.Value) -> ir.Value:
    """The vector that begins at a number."""
    return unaligned(builder.load(_vector(builder, ir.VectorType(real, LANES), address, index)))


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, index: ir.Value) -> None:
    """Write a vector, beginning at a number."""
    unaligned(builder.store(value, _vector(builder, value.type, address, index)))


def load_some(builder: ir.IRBuilder, real: ir.Type, address: ir.Value, index: ir.Value, given: ir.Value) -> ir.Value:
    """Zeros where nothing is given."""
    nothing = zeros(real)
    return _masked(builder, "load", nothing.type, nothing.type, address, index, [given, nothing])


def store_some(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, index: ir.Value, given: ir.Value) -> None:
    """Write the lanes that are given."""
    _masked(builder, "store", ir.VoidType(), value.type, address, index, [given], value)


def _masked(
    builder: ir.IRBuilder,
    what: str,
    result: ir.Type,
    vector: ir.VectorType,
    address: ir.Value,
    index: ir.Value,
    rest: Sequence[ir.Value],
    *value: ir.Value,
) -> ir.Value:
    """A call of llvm.masked.load or llvm.masked.store."""
    arguments = [*value, _vector(builder, vector, address, index), ir.Constant(ir.IntType(32), 4), *rest]
    bits = 32 if vector.element == ir.FloatType() else 64
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{what}.v{LANES}f{bits}.p0")
    return builder.call(function, arguments)


def load_wide(builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """int32, as int64."""
    return builder.sext(load(builder, ir.IntType(32), address, index), ir.VectorType(INDEX, LANES))


def zeros(real: ir.Type) -> ir.Constant:
    """A vector of zeros."""
    return ir.Constant(ir.VectorType(real, LANES), [0.0] * LANES)


def whole(number: int) -> ir.Constant:
    """A vector of one int32."""
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), [number] * LANES)


def all_lanes(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    """A vector of one number."""
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, whole(0))


def multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, total: ir.Value | None) -> ir.Value:
    """total + a b, or the product where there is no total."""
    value = builder.fmul(a, b, flags=FLAGS)
    return value if total is None else builder.fadd(total, value, flags=FLAGS)


def pick(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Lanes of two vectors, of which those of b count from the end of a."""
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, chosen)


def nonzero(builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """Of which int32 that begin at a number something is set."""
    return builder.icmp_signed("!=", load(builder, ir.IntType(32), address, index), whole(0))


def four_sums(builder: ir.IRBuilder, vectors: Sequence[ir.Value]) -> ir.Value:
    """A vector of the sums of four vectors."""
    part = LANES
    while len(vectors) > 1:  # halves of two, added, are one vector of both
        part //= 2
        starts = range(0, 2 * LANES, 2 * part)
        picks = [[start + half + i for start in starts for i in range(part)] for half in (0, part)]
        vectors = [
            builder.fadd(*(pick(builder, a, b, lanes) for lanes in picks), flags=FLAGS)
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    total = vectors[0]
    while part > 1:
        part //= 2
        total = builder.fadd(total, pick(builder, total, total, [i ^ part for i in range(LANES)]), flags=FLAGS)
    return pick(builder, total, total, range(0, LANES, LANES // 4))
