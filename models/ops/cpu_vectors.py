"""Vector instructions for the loops of `models.ops.cpu_kernels`, written out.

LLVM's own vectors ask of every sample whether its rows overlap, and work on more channels at a time than a first layer
has. All functions work on addresses, and nothing needs to be aligned. All but `add` read and write whole vectors, so
callers pad: there is memory up to the next multiple of `LANES`.

The tile of a product is `ROWS` x `WIDTH`: as many sums as fill half the registers, and wide, because fetching one
number for all lanes costs as much as fetching a vector. With the small matrices of AKConv it does 136 to 148 GFLOP/s
on a core of a Xeon at 2.8 GHz, where PyTorch's product of 2000 x 2000 matrices does 100 to 135, and 148 to 213 on a
core of a newer one, where that does 211.
"""

import functools
from collections.abc import Callable, Sequence

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from models.ops import cpu_llvm as llvm
from models.ops.cpu_llvm import CACHE_LINE, INDEX, LANES

ROWS = LANES // 2
"""Rows of a tile of a product."""
WIDTH = 2 * LANES
"""Columns of a tile of a product."""


@intrinsic
def add(context, real, target, terms, count):
    """target[i] = sum over k of terms[k][i], for i < count; nothing behind is read or written.

    Terms are addresses, or numbers of the type `real` to be added to all.
    """

    def generate(context, builder, signature, arguments):
        terms, target, count = cgutils.unpack_tuple(builder, arguments[2]), arguments[1], arguments[3]
        kind = context.get_value_type(signature.args[0].dtype)
        with llvm.strips(builder, count) as i:
            left = llvm.all_lanes(builder, builder.trunc(builder.sub(count, i), ir.IntType(32)))
            given = builder.icmp_signed("<", ir.Constant(left.type, list(range(LANES))), left)
            first, *others = (
                llvm.all_lanes(builder, term) if term.type == kind else llvm.load_some(builder, kind, term, i, given)
                for term in terms
            )
            llvm.store_some(builder, functools.reduce(builder.fadd, others, first), target, i, given)
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
        margin, outside = (llvm.all_lanes(builder, number) for number in arguments[1:3])
        real, whole = margin.type, ir.VectorType(ir.IntType(32), LANES)
        zero, one, first = llvm.zeros(real.element), builder.sitofp(llvm.whole(1), real), llvm.whole(0)
        end = llvm.all_lanes(builder, builder.trunc(arguments[0], whole.element))
        low, high = builder.fsub(zero, margin), builder.fadd(builder.sitofp(end, real), margin)
        with llvm.strips(builder, count) as i:
            p = llvm.load(builder, real.element, results[0], i)
            under, over = builder.fcmp_ordered("<", p, low), builder.fcmp_ordered(">", p, high)
            q = builder.select(under, low, builder.select(over, high, p))  # NaN stays NaN
            inside = builder.and_(builder.fcmp_ordered(">=", p, low), builder.fcmp_ordered("<", p, high))
            finite = builder.select(builder.fcmp_ordered("==", q, q), q, zero)
            cell = builder.fptosi(finite, whole)
            rounded_up = builder.fcmp_ordered(">", builder.sitofp(cell, real), finite)
            cell = builder.add(cell, builder.sext(rounded_up, whole))
            upper = builder.fsub(q, builder.sitofp(cell, real))
            gain = builder.select(inside, one, outside)
            both = (cell, builder.fsub(one, upper)), (builder.add(cell, llvm.whole(1)), upper)
            for k, (tap, weight) in enumerate(both):
                before, after = builder.icmp_signed("<", tap, first), builder.icmp_signed(">", tap, end)
                beside = builder.or_(before, after)
                weight = builder.fmul(weight, builder.select(beside, zero, gain))
                nearest = builder.select(before, first, builder.select(after, end, tap))
                moves = builder.zext(builder.and_(inside, builder.not_(beside)), whole)
                for value, target in zip((weight, nearest, moves), results[k::2], strict=True):
                    llvm.store(builder, value, target, i)
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
        results, rows, columns = llvm.unpack(builder, arguments[:3])
        width, cell = (llvm.all_lanes(builder, number) for number in arguments[3:5])
        down = builder.mul(width, cell)
        with llvm.strips(builder, arguments[5]) as i:
            above, below = (builder.mul(llvm.load_wide(builder, axis, i), down) for axis in rows)
            left, right = (builder.mul(llvm.load_wide(builder, axis, i), cell) for axis in columns)
            places = (above, left), (below, left), (above, right), (below, right)
            for (row, column), result in zip(places, results, strict=True):
                llvm.store(builder, builder.add(row, column), result, i)
        return context.get_dummy_value()

    return types.void(results, rows, columns, width, cell, count), generate


@intrinsic
def blend(context, out, cells, weights, count):
    """out[i] = sum over k of weights[k] cells[k][i], for i < count; out and cells are addresses."""

    def generate(context, builder, signature, arguments):
        out, count = arguments[0], arguments[3]
        cells, weights = llvm.unpack(builder, arguments[1:3])
        lanes = [llvm.all_lanes(builder, weight) for weight in weights]
        with llvm.strips(builder, count) as i:
            total = None
            for cell, weight in zip(cells, lanes, strict=True):
                total = llvm.multiply_add(builder, llvm.load(builder, weights[0].type, cell, i), weight, total)
            llvm.store(builder, total, out, i)
        return context.get_dummy_value()

    return types.void(out, cells, weights, count), generate


@intrinsic
def spread(context, grad, cells, targets, weights, products, count):
    """targets[k] += weights[k] grad, one by one, as they may be the same place; products[k] = (grad, cells[k]).

    All are addresses, four of cells and of targets.
    """

    def generate(context, builder, signature, arguments):
        grad, products, count = arguments[0], arguments[4], arguments[5]
        cells, targets, weights = llvm.unpack(builder, arguments[1:4])
        real = weights[0].type
        lanes = [llvm.all_lanes(builder, weight) for weight in weights]
        sums = [cgutils.alloca_once_value(builder, llvm.zeros(real)) for _ in cells]
        with llvm.strips(builder, count) as i:
            slope = llvm.load(builder, real, grad, i)
            for cell, target, weight, total in zip(cells, targets, lanes, sums, strict=True):
                value = llvm.load(builder, real, cell, i)
                builder.store(llvm.multiply_add(builder, value, slope, builder.load(total)), total)
                before = llvm.load(builder, real, target, i)
                llvm.store(builder, llvm.multiply_add(builder, slope, weight, before), target, i)
        llvm.store(builder, llvm.four_sums(builder, [builder.load(total) for total in sums]), products, INDEX(0))
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
            [builder.add(first, builder.mul(INDEX(k), step)) for k in range(4)]
            for first, step in llvm.unpack(builder, arguments[2:4])
        )
        kind = context.get_value_type(signature.args[0].dtype)
        with llvm.strips(builder, arguments[4]) as i:
            place = builder.mul(i, INDEX(4))
            four = [llvm.load(builder, kind, arguments[1], builder.add(place, INDEX(k * LANES))) for k in range(4)]
            for _ in range(2):  # every second of both halves, and of these again
                halves = four[:2], four[2:]
                four = [llvm.pick(builder, *half, range(odd, 2 * LANES, 2)) for odd in (0, 1) for half in halves]
            top_left, top_right, bottom_left, bottom_right = four
            top, left, bottom, right = (llvm.load(builder, kind, weight, i) for weight in weights)
            axes = (
                (left, right, (top_left, top_right), (bottom_left, bottom_right)),
                (top, bottom, (top_left, bottom_left), (top_right, bottom_right)),
            )
            for axis, (near, far, *pairs) in enumerate(axes):
                ends = []
                for pair, moving in zip(pairs, moves[axis::2], strict=True):
                    value = llvm.multiply_add(builder, pair[0], near, None)
                    value = llvm.multiply_add(builder, pair[1], far, value)
                    ends.append(builder.select(llvm.nonzero(builder, moving, i), value, llvm.zeros(kind)))
                lower, upper = ends
                llvm.store(builder, builder.fsub(upper, lower), weights[axis + 2], i)
        return context.get_dummy_value()

    return types.void(real, products, weights, moves, count), generate


@intrinsic
def fetch(context, address, size):
    """Bring a cache line into the second cache for every 64 bytes; addresses that are not the program's do no harm."""

    def generate(context, builder, signature, arguments):
        address, size = arguments
        with cgutils.for_range_slice(builder, INDEX(0), size, INDEX(CACHE_LINE), INDEX) as (line, _):
            llvm.fetch(builder, builder.add(address, line))
        return context.get_dummy_value()

    return types.void(address, size), generate


@intrinsic
def transpose(context, real, a, c):
    """c[i + j across] = a[i down + j], for i and j < LANES; a is (address, down), c (address, across)."""

    def generate(context, builder, signature, arguments):
        (a, down), (c, across) = llvm.unpack(builder, arguments[1:])
        kind = context.get_value_type(signature.args[0].dtype)
        rows = [llvm.load(builder, kind, a, builder.mul(INDEX(i), down)) for i in range(LANES)]
        half = 1
        while half < LANES:  # of all blocks of 2 half x 2 half, swap upper right and lower left
            for i in range(LANES):
                if not i & half:
                    upper = [j if not j & half else LANES + (j ^ half) for j in range(LANES)]
                    lower = [j | half if not j & half else LANES + j for j in range(LANES)]
                    pair = rows[i], rows[i | half]
                    rows[i], rows[i | half] = (llvm.pick(builder, *pair, lanes) for lanes in (upper, lower))
            half *= 2
        for j, row in enumerate(rows):
            llvm.store(builder, row, c, builder.mul(INDEX(j), across))
        return context.get_dummy_value()

    return types.void(real, a, c), generate


def _define_product(adding: bool) -> Callable[..., None]:
    @intrinsic
    def tile(context, real, a, b, c, depth, columns, ahead):
        def generate(context, builder, signature, arguments):
            kind = context.get_value_type(signature.args[0].dtype)
            a, b, c, ahead = llvm.unpack(builder, [*arguments[1:4], arguments[6]])
            depth, columns = arguments[4:6]
            with builder.if_else(builder.icmp_signed(">", columns, INDEX(LANES))) as (whole, half):
                with whole:
                    _multiply_tile(builder, kind, a, b, c, depth, WIDTH, ahead, adding)
                with half:
                    _multiply_tile(builder, kind, a, b, c, depth, LANES, ahead, adding)
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
    adding: bool,
) -> None:
    (a, row, step), (b, across), (c, down) = a, b, c
    starts = [builder.gep(llvm.pointer(builder, kind, a), [builder.mul(INDEX(r), row)]) for r in range(ROWS)]
    vectors = [(r, v) for r in range(ROWS) for v in range(width // LANES)]
    targets = [builder.add(builder.mul(INDEX(r), down), INDEX(v * LANES)) for r, v in vectors]
    first = [llvm.zeros(kind) for _ in targets]
    before, body, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", depth, INDEX(0)), body, after)
    builder.position_at_end(body)
    k, *sums = llvm.phis(builder, {before: [INDEX(0), *first]})
    if ahead:
        places, place = ahead
        llvm.fetch_pair(builder, places, place, k)
    here = builder.mul(k, across)
    right = [llvm.load(builder, kind, b, builder.add(here, INDEX(v))) for v in range(0, width, LANES)]
    there = [builder.mul(k, step)]
    left = [llvm.all_lanes(builder, llvm.unaligned(builder.load(builder.gep(start, there)))) for start in starts]
    new = [llvm.multiply_add(builder, left[r], right[v], s) for (r, v), s in zip(vectors, sums, strict=True)]
    following = builder.add(k, INDEX(1))
    for phi, value in zip((k, *sums), (following, *new), strict=True):
        phi.add_incoming(value, body)
    builder.cbranch(builder.icmp_signed("<", following, depth), body, after)
    builder.position_at_end(after)
    for total, target in zip(llvm.phis(builder, {before: first, body: new}), targets, strict=True):
        sum_ = builder.fadd(llvm.load(builder, kind, c, target), total) if adding else total
        llvm.store(builder, sum_, c, target)


product = _define_product(adding=False)
"""product(real, (a, row, step), (b, across), (c, down), depth, columns, ahead): a tile of a matrix product.

c[r down + j] = sum over k < depth of a[r row + k step] b[k across + j], for r < ROWS and j < WIDTH, or j < LANES where
`columns` are at most LANES; a, b and c are addresses of numbers of the type `real`.

Memory is idle meanwhile. So where `ahead` is not empty but two addresses, of `depth` numbers of bytes (int64) and of
what they are counted from, the two lines at each are brought into the second cache, one pair for each k.
"""
add_product = _define_product(adding=True)
"""The same, added to what is in c: sums of sums lose fewer bits than one long sum."""
