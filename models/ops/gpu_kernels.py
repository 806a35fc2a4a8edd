"""The Triton kernels of AKConv; `models.ops.gpu` launches them. Imports triton, so import it only where it is there.

Letters as elsewhere: x (B, H, W, C), out and its gradient (B * h * w, O), weight (N, C, O), all dense in this order;
offset (B, 2N, h, w) with any strides. A tile is BM output positions, by BC channels in or BO channels out.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton gives the arguments their types when it compiles.

import triton
import triton.language as tl

# Numbers that change from layer to layer: a kernel must not be compiled anew for those that 16 divides.
_RUNTIME = ["n", "height", "width", "h", "w", "stride", "image_stride", "point_stride", "row_stride", "column_stride"]


@triton.jit
def _axis(p, size, BORDER: tl.constexpr):
    """`axis_taps` of models/ops/taps.py: two cells, their weights, and the derivatives of the weights in p."""
    low = -1.0 if BORDER == "zeros" else 0.0
    high = size.to(tl.float32) if BORDER == "zeros" else size.to(tl.float32) - 1.0
    inside = (p >= low) & (p < high)
    q = tl.where(inside | (p != p), p, tl.where(p < low, low, high))  # a NaN stays one
    floor = tl.floor(q)
    first_weight = 1.0 - (q - floor)
    second_weight = q - floor
    first = tl.where(q == q, floor, 0.0).to(tl.int32)
    second = first + 1
    second_slope = tl.where(inside, 1.0, 0.0)
    first_slope = -second_slope
    if BORDER == "published":
        factor = tl.where(inside, 1.0, 2.0)
        first_weight *= factor
        second_weight *= factor
    if BORDER == "zeros":
        first_there = (first >= 0) & (first < size)
        second_there = second < size
        first_weight = tl.where(first_there, first_weight, 0.0)
        second_weight = tl.where(second_there, second_weight, 0.0)
        first_slope = tl.where(first_there, first_slope, 0.0)
        second_slope = tl.where(second_there, second_slope, 0.0)
    first = tl.minimum(tl.maximum(first, 0), size - 1)
    second = tl.minimum(second, size - 1)
    return first, second, first_weight, second_weight, first_slope, second_slope


@triton.jit
def _place(
    m, k, there, offset, points, n, height, width, h, w, stride,
    image_stride, point_stride, row_stride, column_stride, BORDER: tl.constexpr,
):  # fmt: skip
    """Point k at the output positions m: the four cells as rows of the table (BHW, C), and both axes of `_axis`."""
    j = m % w
    i = (m // w) % h
    image = m // (w * h)
    cell = offset + image.to(tl.int64) * image_stride + i.to(tl.int64) * row_stride + j.to(tl.int64) * column_stride
    cell += k.to(tl.int64) * point_stride
    move_row = tl.load(cell, mask=there, other=0.0).to(tl.float32)
    move_column = tl.load(cell + n.to(tl.int64) * point_stride, mask=there, other=0.0).to(tl.float32)
    p = move_row + ((i * stride).to(tl.float32) + tl.load(points + 2 * k))
    q = move_column + ((j * stride).to(tl.float32) + tl.load(points + 2 * k + 1))
    top, bottom, top_weight, bottom_weight, top_slope, bottom_slope = _axis(p, height, BORDER)
    left, right, left_weight, right_weight, left_slope, right_slope = _axis(q, width, BORDER)
    top = (image * height + top) * width
    bottom = (image * height + bottom) * width
    return (
        top + left, top + right, bottom + left, bottom + right,
        top_weight, bottom_weight, left_weight, right_weight,
        top_slope, bottom_slope, left_slope, right_slope,
    )  # fmt: skip


@triton.jit
def _tile(table, row, column, columns, there):
    """Pointers to a tile of a row-major table, and which of them are inside; int64: tables may pass 2^31 numbers."""
    return table + (row.to(tl.int64) * columns)[:, None] + column[None, :], there[:, None] & (column < columns)[None, :]


@triton.jit
def _read(table, row, column, columns, there):
    pointers, mask = _tile(table, row, column, columns, there)
    return tl.load(pointers, mask=mask, other=0.0)


@triton.jit
def _sample(
    x, c_index, c, m, k, there, offset, points, n, height, width, h, w, stride,
    image_stride, point_stride, row_stride, column_stride, BORDER: tl.constexpr,
):  # fmt: skip
    """Samples (BM, BC) of point k, summed in float32, in the type of x."""
    cell00, cell01, cell10, cell11, top, bottom, left, right, _, _, _, _ = _place(
        m, k, there, offset, points, n, height, width, h, w, stride,
        image_stride, point_stride, row_stride, column_stride, BORDER,
    )  # fmt: skip
    samples = _read(x, cell00, c_index, c, there).to(tl.float32) * (top * left)[:, None]
    samples += _read(x, cell01, c_index, c, there).to(tl.float32) * (top * right)[:, None]
    samples += _read(x, cell10, c_index, c, there).to(tl.float32) * (bottom * left)[:, None]
    samples += _read(x, cell11, c_index, c, there).to(tl.float32) * (bottom * right)[:, None]
    return samples.to(x.dtype.element_ty)


@triton.jit(do_not_specialize=["count", *_RUNTIME])
def forward(
    x, offset, points, weight, bias, out, count, c, o, n, height, width, h, w, stride,
    image_stride, point_stride, row_stride, column_stride,
    BORDER: tl.constexpr, BIAS: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One program: BM positions by BO channels out. Neighbours in the grid share the samples of their positions."""
    tiles = tl.cdiv(o, BO)
    m = tl.program_id(0) // tiles * BM + tl.arange(0, BM)
    o_index = tl.program_id(0) % tiles * BO + tl.arange(0, BO)
    there = m < count
    blocks = tl.cdiv(c, BC)
    total = tl.zeros((BM, BO), dtype=tl.float32)
    for step in range(n * blocks):  # one loop, not two: Triton overlaps the loads of an innermost loop only
        k = step // blocks
        c_index = step % blocks * BC + tl.arange(0, BC)
        samples = _sample(
            x, c_index, c, m, k, there, offset, points, n, height, width, h, w, stride,
            image_stride, point_stride, row_stride, column_stride, BORDER,
        )  # fmt: skip
        part = _read(weight, k * c + c_index, o_index, o, c_index < c)  # (BC, BO)
        total = tl.dot(samples, part, total, input_precision="ieee")
    if BIAS:
        total += tl.load(bias + o_index, mask=o_index < o, other=0.0).to(tl.float32)[None, :]
    pointers, mask = _tile(out, m, o_index, o, there)
    tl.store(pointers, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["count", *_RUNTIME])
def backward_input(
    grad, x, offset, points, weight, grad_x, grad_offset, count, c, o, n, height, width, h, w, stride,
    image_stride, point_stride, row_stride, column_stride,
    BORDER: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One program: BM positions of one point. Adds to grad_x (B, H, W, C) float32, writes grad_offset (Bhw, 2N)."""
    k = tl.program_id(0) % n
    m = tl.program_id(0) // n * BM + tl.arange(0, BM)
    there = m < count
    (
        cell00, cell01, cell10, cell11, top, bottom, left, right, top_slope, bottom_slope, left_slope, right_slope
    ) = _place(
        m, k, there, offset, points, n, height, width, h, w, stride,
        image_stride, point_stride, row_stride, column_stride, BORDER,
    )  # fmt: skip
    grad_row = tl.zeros((BM,), dtype=tl.float32)
    grad_column = tl.zeros((BM,), dtype=tl.float32)
    for c_start in range(0, c, BC):
        c_index = c_start + tl.arange(0, BC)
        grad_samples = tl.zeros((BM, BC), dtype=tl.float32)
        for o_start in range(0, o, BO):
            o_index = o_start + tl.arange(0, BO)
            part = _read(weight, k * c + c_index, o_index, o, c_index < c)  # (BC, BO)
            grad_samples = tl.dot(
                _read(grad, m, o_index, o, there), tl.trans(part), grad_samples, input_precision="ieee"
            )
        x00 = _read(x, cell00, c_index, c, there).to(tl.float32)
        x01 = _read(x, cell01, c_index, c, there).to(tl.float32)
        x10 = _read(x, cell10, c_index, c, there).to(tl.float32)
        x11 = _read(x, cell11, c_index, c, there).to(tl.float32)
        in_row = top_slope[:, None] * (x00 * left[:, None] + x01 * right[:, None])
        in_row += bottom_slope[:, None] * (x10 * left[:, None] + x11 * right[:, None])
        in_column = left_slope[:, None] * (x00 * top[:, None] + x10 * bottom[:, None])
        in_column += right_slope[:, None] * (x01 * top[:, None] + x11 * bottom[:, None])
        grad_row += tl.sum(grad_samples * in_row, axis=1)
        grad_column += tl.sum(grad_samples * in_column, axis=1)
        pointers, mask = _tile(grad_x, cell00, c_index, c, there)
        tl.atomic_add(pointers, grad_samples * (top * left)[:, None], mask=mask, sem="relaxed")
        pointers, mask = _tile(grad_x, cell01, c_index, c, there)
        tl.atomic_add(pointers, grad_samples * (top * right)[:, None], mask=mask, sem="relaxed")
        pointers, mask = _tile(grad_x, cell10, c_index, c, there)
        tl.atomic_add(pointers, grad_samples * (bottom * left)[:, None], mask=mask, sem="relaxed")
        pointers, mask = _tile(grad_x, cell11, c_index, c, there)
        tl.atomic_add(pointers, grad_samples * (bottom * right)[:, None], mask=mask, sem="relaxed")
    target = grad_offset + m.to(tl.int64) * (2 * n) + k
    tl.store(target, grad_row.to(grad_offset.dtype.element_ty), mask=there)
    tl.store(target + n, grad_column.to(grad_offset.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["count", "share", *_RUNTIME])
def backward_weight(
    grad, x, offset, points, partial, count, share, c, o, n, height, width, h, w, stride,
    image_stride, point_stride, row_stride, column_stride,
    BORDER: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """One program: a (BC, BO) tile of one point, summed over `share` positions, into partial (splits, N, C, O)."""
    o_tiles = tl.cdiv(o, BO)
    c_tiles = tl.cdiv(c, BC)
    tile = tl.program_id(0)
    o_index = tile % o_tiles * BO + tl.arange(0, BO)
    c_index = tile // o_tiles % c_tiles * BC + tl.arange(0, BC)
    k = tile // (o_tiles * c_tiles) % n
    split = tile // (o_tiles * c_tiles * n)
    start = split * share
    end = tl.minimum(start + share, count)
    total = tl.zeros((BC, BO), dtype=tl.float32)
    for first in range(start, end, BM):
        m = first + tl.arange(0, BM)
        there = m < end
        samples = _sample(
            x, c_index, c, m, k, there, offset, points, n, height, width, h, w, stride,
            image_stride, point_stride, row_stride, column_stride, BORDER,
        )  # fmt: skip
        total = tl.dot(tl.trans(samples), _read(grad, m, o_index, o, there), total, input_precision="ieee")
    pointers, mask = _tile(partial, (split * n + k) * c + c_index, o_index, o, c_index < c)
    tl.store(pointers, total, mask=mask)
