"""Vector instructions for the loops of `models.ops.cpu_kernels`, written out.

LLVM's own vectors ask of every sample whether its rows overlap, and work on more channels at a time than a first layer
has. All functions work on addresses, and nothing needs to be aligned. They work on whole vectors, so callers pad: there
is memory up to the next multiple of `LANES`.

The tile of a product is `ROWS` x `WIDTH`: as many sums as fill half the registers, and wide, because fetching one
number for all lanes costs as much as fetching a vector. With the small matrices of AKConv it does 136 to 148 GFLOP/s
on a core of a Xeon with AVX-512, where PyTorch's product of 2000 x 2000 matrices does 100 to 135.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WIDE = bool(binding.get_host_cpu_features().get("avx512f"))
LANES = 16 if _WIDE else 8
"""Numbers a vector. Where registers are shorter LLVM takes several."""
ROWS = 8 if _WIDE else 4
"""Rows of a tile of a product."""
WIDTH = 2 * LANES
"""Columns of a tile of a product."""
CACHE_LINE = 64
"""Bytes that come into a cache at once."""

_INDEX = ir.IntType(64)
_FLAGS = ("contract", "reassoc")


@intrinsic
def add(context, real, target, terms, count):
    """target[i] = sum over k of terms[k][i], for i < count, from the first to the last; nothing behind is touched.

    Terms are addresses, or numbers of the type `real` to be added to all.
    """

    def generate(context, builder, signature, arguments):
        terms, target, count = cgutils.unpack_tuple(builder, arguments[2]), arguments[1], arguments[3]
        kind = context.get_value_type(signature.args[0].dtype)
        with _strips(builder, count) as i:
            left = _all_lanes(builder, builder.trunc(builder.sub(count, i), ir.IntType(32)))
            given = builder.icmp_signed("<", ir.Constant(left.type, list(range(LANES))), left)
            total = None
            for term in terms:
                value = _all_lanes(builder, term) if term.type == kind else _load_some(builder, kind, term, i, given)
                total = value if total is None else builder.fadd(total, value)
            _store_some(builder, total, target, i, given)
        return context.get_dummy_value()

    return types.void(real, target, terms, count), generate


@intrinsic
def taps(context, last, margin, outside, results, count):
    """Where points read along one axis, and how strongly: the rule of `models.ops.taps`.

    A point stays within `margin` of the cells from 0 to `last`; weights are multiplied by `outside` where it had to be
    moved. `results` are six addresses: of the coordinates, which lower weights overwrite, of the upper weights, of both
    cells (int32), and of whether both weights move with the coordinate (int32).
    """

    def generate(context, builder, signature, arguments):
        results, count = cgutils.unpack_tuple(builder, arguments[3]), arguments[4]
        margin, outside = (_all_lanes(builder, number) for number in arguments[1:3])
        real, whole = margin.type, ir.VectorType(ir.IntType(32), LANES)
        zero, one, first = _zeros(real.element), builder.sitofp(_whole(1), real), _whole(0)
        end = _all_lanes(builder, builder.trunc(arguments[0], whole.element))
        low, high = builder.fsub(zero, margin), builder.fadd(builder.sitofp(end, real), margin)
        with _strips(builder, count) as i:
            p = _load(builder, real.element, results[0], i)
            under, over = builder.fcmp_ordered("<", p, low), builder.fcmp_ordered(">", p, high)
            q = builder.select(under, low, builder.select(over, high, p))  # NaN stays NaN
            inside = builder.and_(builder.fcmp_ordered(">=", p, low), builder.fcmp_ordered("<", p, high))
            finite = builder.select(builder.fcmp_ordered("==", q, q), q, zero)
            cell = builder.fptosi(finite, whole)
            rounded_up = builder.fcmp_ordered(">", builder.sitofp(cell, real), finite)
            cell = builder.add(cell, builder.sext(rounded_up, whole))
            upper = builder.fsub(q, builder.sitofp(cell, real))
            gain = builder.select(inside, one, outside)
            both = (cell, builder.fsub(one, upper)), (builder.add(cell, _whole(1)), upper)
            for k, (tap, weight) in enumerate(both):
                before, after = builder.icmp_signed("<", tap, first), builder.icmp_signed(">", tap, end)
                beside = builder.or_(before, after)
                weight = builder.fmul(weight, builder.select(beside, zero, gain))
                nearest = builder.select(before, first, builder.select(after, end, tap))
                moves = builder.zext(builder.and_(inside, builder.not_(beside)), whole)
                for value, target in zip((weight, nearest, moves), results[k::2], strict=True):
                    _store(builder, value, target, i)
        return context.get_dummy_value()

    return types.void(last, margin, outside, results, count), generate


@intrinsic
def corners(context, results, rows, columns, width, cell, count):
    """Where the four cells that points read begin, in bytes from the first cell of a map.

    Upper left, lower left, upper right, lower right: four addresses of `results`, each for `count` int64. `rows` and
    `columns` are two addresses each, of cells along an axis (int32) as `taps` writes them; `width` is cells in a row of
    the map, `cell` bytes in a cell.
    """

    def generate(context, builder, signature, arguments):
        results, rows, columns = _unpack(builder, arguments[:3])
        width, cell = (_all_lanes(builder, number) for number in arguments[3:5])
        down = builder.mul(width, cell)
        with _strips(builder, arguments[5]) as i:
            above, below = (builder.mul(_load_wide(builder, axis, i), down) for axis in rows)
            left, right = (builder.mul(_load_wide(builder, axis, i), cell) for axis in columns)
            places = (above, left), (below, left), (above, right), (below, right)
            for (row, column), result in zip(places, results, strict=True):
                _store(builder, builder.add(row, column), result, i)
        return context.get_dummy_value()

    return types.void(results, rows, columns, width, cell, count), generate


@intrinsic
def blend(context, out, cells, weights, count):
    """out[i] = sum over k of weights[k] cells[k][i], for i < count; out and cells are addresses."""

    def generate(context, builder, signature, arguments):
        out, count = arguments[0], arguments[3]
        cells, weights = _unpack(builder, arguments[1:3])
        lanes = [_all_lanes(builder, weight) for weight in weights]
        with _strips(builder, count) as i:
            total = None
            for cell, weight in zip(cells, lanes, strict=True):
                total = _multiply_add(builder, _load(builder, weights[0].type, cell, i), weight, total)
            _store(builder, total, out, i)
        return context.get_dummy_value()

    return types.void(out, cells, weights, count), generate


@intrinsic
def spread(context, grad, cells, targets, weights, products, count):
    """targets[k] += weights[k] grad, one by one, as they may be the same place; products[k] = (grad, cells[k]).

    All are addresses, four of cells and of targets.
    """

    def generate(context, builder, signature, arguments):
        grad, products, count = arguments[0], arguments[4], arguments[5]
        cells, targets, weights = _unpack(builder, arguments[1:4])
        real = weights[0].type
        lanes = [_all_lanes(builder, weight) for weight in weights]
        sums = [cgutils.alloca_once_value(builder, _zeros(real)) for _ in cells]
        with _strips(builder, count) as i:
            slope = _load(builder, real, grad, i)
            for cell, target, weight, total in zip(cells, targets, lanes, sums, strict=True):
                value = _load(builder, real, cell, i)
                builder.store(_multiply_add(builder, value, slope, builder.load(total)), total)
                _store(builder, _multiply_add(builder, slope, weight, _load(builder, real, target, i)), target, i)
        _store(builder, _four_sums(builder, [builder.load(total) for total in sums]), products, _INDEX(0))
        return context.get_dummy_value()

    return types.void(grad, cells, targets, weights, products, count), generate


@intrinsic
def slopes(context, real, products, weights, moves, count):
    """Gradients of where points read, from the products with the four cells that `spread` has written: (count, 4).

    `weights` are those of rows and columns, lower before upper, (address of the first, bytes between them), and
    `moves`, in the same way, whether they move with the coordinate. Results overwrite the upper weights.
    """

    def generate(context, builder, signature, arguments):
        weights, moves = (
            [builder.add(first, builder.mul(_INDEX(k), step)) for k in range(4)]
            for first, step in _unpack(builder, arguments[2:4])
        )
        kind = context.get_value_type(signature.args[0].dtype)
        with _strips(builder, arguments[4]) as i:
            place = builder.mul(i, _INDEX(4))
            four = [_load(builder, kind, arguments[1], builder.add(place, _INDEX(k * LANES))) for k in range(4)]
            for _ in range(2):  # every second of both halves, and of these again
                four = [_pick(builder, *four[k : k + 2], range(odd, 2 * LANES, 2)) for odd in (0, 1) for k in (0, 2)]
            top_left, top_right, bottom_left, bottom_right = four
            top, left, bottom, right = (_load(builder, kind, weight, i) for weight in weights)
            axes = (
                (left, right, (top_left, top_right), (bottom_left, bottom_right)),
                (top, bottom, (top_left, bottom_left), (top_right, bottom_right)),
            )
            for axis, (near, far, *ends) in enumerate(axes):
                lower, upper = (
                    _multiply_add(builder, pair[1], far, _multiply_add(builder, pair[0], near, None)) for pair in ends
                )
                lower, upper = (
                    builder.select(_nonzero(builder, moves[axis + 2 * end], i), value, _zeros(kind))
                    for end, value in enumerate((lower, upper))
                )
                _store(builder, builder.fsub(upper, lower), weights[axis + 2], i)
        return context.get_dummy_value()

    return types.void(real, products, weights, moves, count), generate


@intrinsic
def fetch(context, address, size):
    """Bring the cache lines of some bytes into the second cache; addresses that are not the program's do no harm."""

    def generate(context, builder, signature, arguments):
        address, size = arguments
        with cgutils.for_range_slice(builder, _INDEX(0), size, _INDEX(CACHE_LINE), _INDEX) as (line, _):
            _fetch(builder, builder.add(address, line))
        return context.get_dummy_value()

    return types.void(address, size), generate


@intrinsic
def transpose(context, real, a, c):
    """c[i + j across] = a[i down + j], for i and j < LANES; a is (address, down), c (address, across)."""

    def generate(context, builder, signature, arguments):
        (a, down), (c, across) = _unpack(builder, arguments[1:])
        kind = context.get_value_type(signature.args[0].dtype)
        rows = [_load(builder, kind, a, builder.mul(_INDEX(i), down)) for i in range(LANES)]
        half = 1
        while half < LANES:  # of all blocks of 2 half x 2 half, swap upper right and lower left
            for i in range(LANES):
                if not i & half:
                    upper = [j if not j & half else LANES + (j ^ half) for j in range(LANES)]
                    lower = [j | half if not j & half else LANES + j for j in range(LANES)]
                    pair = rows[i], rows[i | half]
                    rows[i], rows[i | half] = (_pick(builder, *pair, lanes) for lanes in (upper, lower))
            half *= 2
        for j, row in enumerate(rows):
            _store(builder, row, c, builder.mul(_INDEX(j), across))
        return context.get_dummy_value()

    return types.void(real, a, c), generate


def _define_product(add: bool) -> Callable[..., None]:
    @intrinsic
    def tile(context, real, a, b, c, depth, columns, ahead):
        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(signature.args[0].dtype)
            a, b, c, ahead = _unpack(builder, [*arguments[1:4], arguments[6]])
            depth, columns = arguments[4:6]
            with builder.if_else(builder.icmp_signed(">", columns, _INDEX(LANES))) as (whole, half):
                with whole:
                    _multiply_tile(builder, kind, a, b, c, depth, WIDTH, ahead, add)
                with half:
                    _multiply_tile(builder, kind, a, b, c, depth, LANES, ahead, add)
            return context.get_dummy_value()

        return types.void(real, a, b, c, depth, columns, ahead), generate

    return tile


def _multiply_tile(
    builder: ir.IRBuilder,
    kind: ir.Type,
    a: Sequence[ir.Value],
    b: Sequence[ir.Value],
    c: Sequence[ir.Value],
    depth: ir.Value,
    width: int,
    ahead: Sequence[ir.Value],
    add: bool,
) -> None:
    (a, row, step), (b, across), (c, down) = a, b, c
    starts = [builder.gep(_pointer(builder, kind, a), [builder.mul(_INDEX(r), row)]) for r in range(ROWS)]
    vectors = [(r, v) for r in range(ROWS) for v in range(width // LANES)]
    targets = [builder.add(builder.mul(_INDEX(r), down), _INDEX(v * LANES)) for r, v in vectors]
    first = [_zeros(kind) for _ in targets]
    before, body, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", depth, _INDEX(0)), body, after)
    builder.position_at_end(body)
    k, *sums = _phis(builder, {before: [_INDEX(0), *first]})
    if ahead:
        places, place = ahead
        _fetch_pair(builder, places, place, k)
    here = builder.mul(k, across)
    right = [_load(builder, kind, b, builder.add(here, _INDEX(v))) for v in range(0, width, LANES)]
    there = [builder.mul(k, step)]
    left = [_all_lanes(builder, _unaligned(builder.load(builder.gep(start, there)))) for start in starts]
    new = [_multiply_add(builder, left[r], right[v], s) for (r, v), s in zip(vectors, sums, strict=True)]
    following = builder.add(k, _INDEX(1))
    for phi, value in zip((k, *sums), (following, *new), strict=True):
        phi.add_incoming(value, body)
    builder.cbranch(builder.icmp_signed("<", following, depth), body, after)
    builder.position_at_end(after)
    for total, target in zip(_phis(builder, {before: first, body: new}), targets, strict=True):
        sum_ = builder.fadd(_load(builder, kind, c, target), total) if add else total
        _store(builder, sum_, c, target)


product = _define_product(add=False)
"""product(real, (a, row, step), (b, across), (c, down), depth, columns, ahead): a tile of a matrix product.

c[r down + j] = sum over k < depth of a[r row + k step] b[k across + j], for r < ROWS and j < WIDTH, or, where no more
`columns` are asked for, j < LANES; a, b and c are addresses of numbers of the type `real`.

Memory is idle meanwhile. So where `ahead` is not empty but two addresses, of `depth` numbers of bytes (int64) and of
what they are counted from, the two lines at each are brought into the second cache, one pair for each k.
"""
add_product = _define_product(add=True)
"""The same, added to what is in c: sums of sums lose fewer bits than one long sum."""


@contextlib.contextmanager
def _strips(builder: ir.IRBuilder, count: ir.Value) -> Iterator[ir.Value]:
    """A loop over what vectors start with."""
    with cgutils.for_range_slice(builder, _INDEX(0), count, _INDEX(LANES), _INDEX) as (index, _):
        yield index


def _fetch_pair(builder: ir.IRBuilder, places: ir.Value, start: ir.Value, k: ir.Value) -> None:
    """Ask for the cache line at start + places[k] and the next."""
    place = builder.load(builder.gep(builder.inttoptr(places, _INDEX.as_pointer()), [k]))
    first = builder.add(start, place)
    for line in range(2):
        _fetch(builder, builder.add(first, _INDEX(line * CACHE_LINE)))


def _fetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
    prefetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    place = builder.inttoptr(address, byte)
    builder.call(prefetch, [place, number(0), number(2), number(1)])  # to read, second cache, data


def _unpack(builder: ir.IRBuilder, tuples: Sequence[ir.Value]) -> list[list[ir.Value]]:
    return [cgutils.unpack_tuple(builder, t) for t in tuples]


def _phis(builder: ir.IRBuilder, incoming: Mapping[ir.Block, Sequence[ir.Value]]) -> list[ir.Instruction]:
    """Values that depend on the block that was left last."""
    phis = [builder.phi(value.type) for value in next(iter(incoming.values()))]
    for block, values in incoming.items():
        for phi, value in zip(phis, values, strict=True):
            phi.add_incoming(value, block)
    return phis


def _pointer(builder: ir.IRBuilder, real: ir.Type, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, real.as_pointer())


def _vector(builder: ir.IRBuilder, vector: ir.VectorType, address: ir.Value, index: ir.Value) -> ir.Value:
    first = builder.gep(_pointer(builder, vector.element, address), [index])
    return builder.bitcast(first, vector.as_pointer())


def _unaligned(access: ir.Instruction) -> ir.Instruction:
    access.align = 4  # else LLVM takes a vector to be aligned to its own size
    return access


def _load(builder: ir.IRBuilder, real: ir.Type, address: ir.Value, index: ir.Value) -> ir.Value:
    return _unaligned(builder.load(_vector(builder, ir.VectorType(real, LANES), address, index)))


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, index: ir.Value) -> None:
    _unaligned(builder.store(value, _vector(builder, value.type, address, index)))


def _load_some(builder: ir.IRBuilder, real: ir.Type, address: ir.Value, index: ir.Value, given: ir.Value) -> ir.Value:
    """Zeros where nothing is given."""
    zeros = _zeros(real)
    return _masked(builder, "load", zeros.type, zeros.type, address, index, [given, zeros])


def _store_some(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, index: ir.Value, given: ir.Value) -> None:
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


def _load_wide(builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    """int32, as int64."""
    return builder.sext(_load(builder, ir.IntType(32), address, index), ir.VectorType(_INDEX, LANES))


def _zeros(real: ir.Type) -> ir.Constant:
    return ir.Constant(ir.VectorType(real, LANES), [0.0] * LANES)


def _whole(number: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), [number] * LANES)


def _all_lanes(builder: ir.IRBuilder, number: ir.Value) -> ir.Value:
    undefined = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, _whole(0))


def _multiply_add(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, total: ir.Value | None) -> ir.Value:
    value = builder.fmul(a, b, flags=_FLAGS)
    return value if total is None else builder.fadd(total, value, flags=_FLAGS)


def _pick(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Lanes of two vectors, of which those of b count from the end of a."""
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, chosen)


def _nonzero(builder: ir.IRBuilder, address: ir.Value, index: ir.Value) -> ir.Value:
    return builder.icmp_signed("!=", _load(builder, ir.IntType(32), address, index), _whole(0))


def _four_sums(builder: ir.IRBuilder, vectors: Sequence[ir.Value]) -> ir.Value:
    """A vector of the sums of four vectors."""
    part = LANES
    while len(vectors) > 1:  # halves of two, added, are one vector of both
        part //= 2
        starts = range(0, 2 * LANES, 2 * part)
        picks = [[start + half + i for start in starts for i in range(part)] for half in (0, part)]
        vectors = [
            builder.fadd(*(_pick(builder, a, b, pick) for pick in picks), flags=_FLAGS)
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    total = vectors[0]
    while part > 1:
        part //= 2
        total = builder.fadd(total, _pick(builder, total, total, [i ^ part for i in range(LANES)]), flags=_FLAGS)
    return _pick(builder, total, total, range(0, LANES, LANES // 4))
