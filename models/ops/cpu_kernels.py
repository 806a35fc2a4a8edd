"""AKConv on a CPU as loops compiled by numba: forward and backward pass.

They work on `TILE` output cells at a time, whose samples stay in the first caches, and multiply them there
(`models.ops.cpu_products`).

Offsets may lead anywhere, so where the samples of a tile lie is found before the tile before it is multiplied: while
processors multiply, the memory that is needed next is on its way.

Where weights are many, the backward pass keeps samples until all threads have taken theirs; `weigh` multiplies them.

`models.ops.cpu_calls` calls them. Machine code is kept in __pycache__.
"""

from numba import carray, types

from models.ops.cpu_jit import ADDRESSES, KEPT, SHARES, SIZES, jit, pointer, share_of, thread, threads, wait_for_all
from models.ops.cpu_llvm import LANES
from models.ops.cpu_products import DEPTH, lay_out, multiply, row_step, still_to_fetch, to_fetch, weigh
from models.ops.cpu_vectors import ROWS, WIDTH, add, add_product, blend, corners, fetch, slopes, spread, taps
from models.ops.taps import BORDERS

SOURCES = "4f00dc25d215b6af"
"""Digest of the files that these loops are made of, kept right by a test: numba compiles this file anew when it
changes, and does not see what changes in those it imports.
"""
TILE = 48
"""Output cells whose samples are taken before they are multiplied."""
TILES = 64
"""Most tiles whose products are added up one by one: sums of sums lose fewer bits."""
TABLES = 20
"""Most numbers of `_tables` for a point."""
APART = 1024
"""Numbers between the scratch of two threads: processors bring lines behind those asked for, too, and would take them
from the thread that writes there.
"""

_PUBLISHED, _ZEROS = BORDERS.index("published"), BORDERS.index("zeros")


@jit()
def levels_of(cells, shares):
    """2 where the products of a share's last tiles are added up apart, else 1, which takes half the memory."""
    return 2 if cells > shares * TILES * TILE else 1


@jit()
def convolve_scratch(n, depth, columns):
    """Numbers that a share of the forward pass works in."""
    return TILE * (depth + columns + TABLES * n) + APART


@jit()
def differentiate_scratch(n, depth, columns, kept):
    """Numbers that a share of the backward pass works in."""
    wide, narrow = row_step(depth), row_step(columns)
    samples = wide if kept else TILE * (wide + narrow)
    return 2 * DEPTH + TILE * ((TABLES + 4) * n + wide) + samples + APART


@jit()
def _locate(address, moves, starts, n, start, stop, grid, real, bytes):
    """Fill the tables of a tile at an address (see `_tables`): output cells from `start` to `stop`."""
    w, height, width, stride, border, cell_bytes = grid
    h = (height - 1) // stride + 1
    i, j = start // w % h, start % w
    for cell in range(start, stop):
        row, move = address + (cell - start) * n * bytes, moves + cell * 2 * n * bytes
        column = row + TILE * n * bytes
        add(real, row, (starts, real(i * stride), move), n)
        add(real, column, (starts + n * bytes, real(j * stride), move + n * bytes), n)
        j += 1
        if j == w:
            i, j = (i + 1) % h, 0
    margin = real(1 if border == _ZEROS else 0)
    outside = real(2 if border == _PUBLISHED else 1)
    points, cells = TILE * n, address + 4 * TILE * n * bytes
    for axis, size in enumerate((height, width)):
        w0, c0 = address + axis * points * bytes, cells + axis * points * 4
        results = w0, w0 + 2 * points * bytes, c0, c0 + 8 * points, c0 + 16 * points, c0 + 24 * points
        taps(size - 1, margin, outside, results, (stop - start) * n)
    rows, columns, first = (cells, cells + 8 * points), (cells + 4 * points, cells + 12 * points), cells + 32 * points
    results = first, first + 8 * points, first + 16 * points, first + 24 * points
    corners(results, rows, columns, width, cell_bytes, (stop - start) * n)


@jit(inline="always")
def _tables(address, n, real, bytes):
    """Of the points of a tile, rows before columns: lower weights, upper weights: (2, TILE, N).

    And where their cells are, as `corners` says, (4, TILE, N). Between them are the cells along both axes, lower and
    upper, from which these are made, and whether each weight moves.
    """
    shape, points = (2, TILE, n), TILE * n
    cells = address + 4 * points * bytes
    return (
        carray(pointer(address, real), shape),
        carray(pointer(address + 2 * points * bytes, real), shape),
        carray(pointer(cells + 32 * points, types.int64), (4, TILE, n)),
    )


@jit()
def _convolve(block, share, real, bytes):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, out, shares = block[5], block[6], block[7], block[SHARES]
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells, depth, columns = b * h * w, n * channels, -(-out // LANES) * LANES
    x, matrix, cell_bytes = block[SIZES], (block[SIZES + 3], WIDTH, depth * WIDTH * bytes), channels * bytes
    map_bytes, grid = height * width * cell_bytes, (w, height, width, stride, border, cell_bytes)
    moves, starts = block[SIZES + 1], block[SIZES + 2]
    bias, result = block[SIZES + 4], block[SIZES + 5]
    samples = block[SIZES + 6] + share * convolve_scratch(n, depth, columns) * bytes
    products = samples + TILE * depth * bytes
    tables = products + TILE * columns * bytes
    taken = carray(pointer(samples, real), (TILE, depth))
    lower, upper, places = _tables(tables, n, real, bytes)
    first, last = share_of(cells, share, shares)
    _locate(tables, moves, starts, n, first, min(first + TILE, last), grid, real, bytes)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for cell in range(stop - start):
            image = x + (start + cell) // (h * w) * map_bytes
            sample = samples + cell * depth * bytes
            for k in range(n):
                u0, u1, v0, v1 = lower[0, cell, k], upper[0, cell, k], lower[1, cell, k], upper[1, cell, k]
                weights = u0 * v0, u0 * v1, u1 * v0, u1 * v1
                blend(sample + k * cell_bytes, _cells(image, places, cell, k), weights, channels)
        for cell in range(stop - start, -(-(stop - start) // ROWS) * ROWS):
            taken[cell] = 0  # else left over from others: denormal numbers cost a lot
        end = min(stop + TILE, last)
        _locate(tables, moves, starts, n, stop, end, grid, real, bytes)
        ahead = to_fetch(places, end > stop, x + stop // (h * w) * map_bytes, cell_bytes)
        multiply((samples, depth), stop - start, matrix, depth, (products, columns), columns, 0, ahead, real, bytes)
        for cell in range(stop - start):
            row = result + (start + cell) * out * bytes
            if start + cell + TILE < last:  # what is behind is written by other threads
                fetch(row + TILE * out * bytes, out * bytes)
            add(real, row, (products + cell * columns * bytes, bias), out)


@jit()
def _differentiate(block, share, real, bytes):
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    border, n, out, shares, kept = block[5], block[6], block[7], block[SHARES], block[KEPT]
    h, w = (height - 1) // stride + 1, (width - 1) // stride + 1
    cells, columns, depth = b * h * w, -(-out // ROWS) * ROWS, n * channels
    x, grad_x, cell_bytes = block[SIZES], block[SIZES + 3], channels * bytes
    map_bytes, grid = height * width * cell_bytes, (w, height, width, stride, border, cell_bytes)
    moves, starts = block[SIZES + 1], block[SIZES + 2]
    first_place = carray(pointer(block[SIZES + 4], types.int64), (shares,))[share]
    grad_moves, grad, matrix = block[SIZES + 5], block[SIZES + 6], (block[SIZES + 8], depth, WIDTH * bytes)
    scratch = block[SIZES + 7] + share * differentiate_scratch(n, depth, columns, kept) * bytes
    lines = scratch if kept else 0  # few weights stay in the second cache and need no fetching
    rows = carray(pointer(scratch, types.int64), (DEPTH,))  # bytes from the first row of weights to each
    for o in range(DEPTH):
        rows[o] = o * depth * bytes
    tables = scratch + 8 * DEPTH
    products = tables + TILE * TABLES * n * bytes  # of a gradient with four cells, for each point
    grad_samples = products + TILE * 4 * n * bytes
    wide, narrow = row_step(depth), row_step(columns)
    samples, step = grad_samples + TILE * wide * bytes, 0 if kept else wide * bytes
    size, levels = columns * depth, levels_of(cells, shares)
    total = block[SIZES + 9] + share * levels * size * bytes
    grad_weights = total + (levels - 1) * size * bytes
    lower, upper, places = _tables(tables, n, real, bytes)
    first, last = share_of(cells, share, shares)
    first_image = first // (h * w)
    if first % (h * w):
        add(real, first_place, (real(0),), height * width * channels)
    _locate(tables, moves, starts, n, first, min(first + TILE, last), grid, real, bytes)
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        grads = block[SIZES + 11] + start * narrow * bytes if kept else samples + TILE * wide * bytes
        for cell in range(stop - start):
            row = grad + (start + cell) * out * bytes
            fetch(row + TILE * out * bytes, out * bytes)
            add(real, grads + cell * narrow * bytes, (row,), out)
        for image in range(-(-start // (h * w)), -(-stop // (h * w))):  # whose first cell is one of these
            add(real, grad_x + image * map_bytes, (real(0),), height * width * channels)
        image = start // (h * w)
        grad_image = grad_x + image * map_bytes if image > first_image else first_place
        ahead = to_fetch(places, True, grad_image, cell_bytes)
        target = grad_samples, wide
        multiply((grads, narrow), stop - start, matrix, out, target, depth, lines, ahead, real, bytes)
        for cell in range(stop - start):
            image = (start + cell) // (h * w)
            x_image = x + image * map_bytes
            grad_image = grad_x + image * map_bytes if image > first_image else first_place
            for k in range(n):
                read, written = _cells(x_image, places, cell, k), _cells(grad_image, places, cell, k)
                u0, u1, v0, v1 = lower[0, cell, k], upper[0, cell, k], lower[1, cell, k], upper[1, cell, k]
                weights = u0 * v0, u0 * v1, u1 * v0, u1 * v1
                place = (cell * wide + k * channels) * bytes
                blend(samples + cell * step + k * cell_bytes, read, weights, channels)
                spread(grad_samples + place, read, written, weights, products + (cell * n + k) * 4 * bytes, channels)
            if kept:
                _keep(real, samples, block[SIZES + 10] + (start + cell) * WIDTH * bytes, depth, cells, bytes)
        moving = tables + 4 * TILE * n * (bytes + 4)
        slopes(real, products, (tables, TILE * n * bytes), (moving, TILE * n * 4), (stop - start) * n)
        for cell in range(stop - start):
            found, move = tables + (2 * TILE + cell) * n * bytes, grad_moves + (start + cell) * 2 * n * bytes
            add(real, move, (found,), n)
            add(real, move + n * bytes, (found + TILE * n * bytes,), n)
        end = min(stop + TILE, last)
        _locate(tables, moves, starts, n, stop, end, grid, real, bytes)
        if kept:
            continue
        ahead = to_fetch(places, end > stop, x + stop // (h * w) * map_bytes, cell_bytes)
        for o in range(0, columns, ROWS):
            for k in range(0, depth, WIDTH):
                left, right = (grads + o * bytes, 1, narrow), (samples + k * bytes, wide)
                target = grad_weights + (o * depth + k) * bytes, depth
                if ahead[0] >= stop - start:
                    add_product(real, left, right, target, stop - start, depth - k, ahead[1:3])
                    ahead = still_to_fetch(ahead, stop - start)
                else:
                    add_product(real, left, right, target, stop - start, depth - k, ())
        if levels > 1 and ((stop - first) % (TILES * TILE) == 0 or stop == last):
            add(real, total, (total, grad_weights), size)
            add(real, grad_weights, (real(0),), size)


@jit()
def _gather(block, real, bytes):
    """Add gradients of x that shares which began within an image have found to those of that image; all threads."""
    b, height, width, channels, stride, shares = block[0], block[1], block[2], block[3], block[4], block[SHARES]
    image_cells, map_cells = ((height - 1) // stride + 1) * ((width - 1) // stride + 1), height * width
    places = carray(pointer(block[SIZES + 4], types.int64), (shares,))
    begin, end = share_of(map_cells, thread(), threads())
    for share in range(shares):
        first, _ = share_of(b * image_cells, share, shares)
        if first % image_cells:
            part = begin * channels * bytes
            target = block[SIZES + 3] + first // image_cells * map_cells * channels * bytes + part
            add(real, target, (target, places[share] + part), (end - begin) * channels)


@jit(inline="always")
def _keep(real, sample, place, depth, cells, bytes):
    """Write the samples of a cell where `weigh` expects them: (panels, cells, WIDTH), of the first panel at `place`."""
    for k in range(0, depth, WIDTH):
        blend(place + k * cells * bytes, (sample + k * bytes,), (real(1),), min(WIDTH, depth - k))


@jit(inline="always")
def _cells(image, places, cell, k):
    """Addresses of the four cells that a point reads, or of their gradients: upper row first."""
    return (
        image + places[0, cell, k],
        image + places[2, cell, k],
        image + places[1, cell, k],
        image + places[3, cell, k],
    )


# OpenMP may give fewer threads than it was asked for.


def convolve_float32(block):
    """Forward pass; `cpu_calls.run` says what `block` holds."""
    numbers = carray(block, (SIZES + ADDRESSES,))
    lay_out(numbers, types.float32, 4)
    for share in range(thread(), numbers[SHARES], threads()):
        _convolve(numbers, share, types.float32, 4)


def convolve_float64(block):
    """Forward pass; `cpu_calls.run` says what `block` holds."""
    numbers = carray(block, (SIZES + ADDRESSES,))
    lay_out(numbers, types.float64, 8)
    for share in range(thread(), numbers[SHARES], threads()):
        _convolve(numbers, share, types.float64, 8)


def differentiate_float32(block):
    """Backward pass; `cpu_calls.run` says what `block` holds."""
    numbers = carray(block, (SIZES + ADDRESSES,))
    for share in range(thread(), numbers[SHARES], threads()):
        _differentiate(numbers, share, types.float32, 4)
    wait_for_all()
    _gather(numbers, types.float32, 4)
    if numbers[KEPT]:
        weigh(numbers, thread(), threads(), types.float32, 4)


def differentiate_float64(block):
    """Backward pass; `cpu_calls.run` says what `block` holds."""
    numbers = carray(block, (SIZES + ADDRESSES,))
    for share in range(thread(), numbers[SHARES], threads()):
        _differentiate(numbers, share, types.float64, 8)
    wait_for_all()
    _gather(numbers, types.float64, 8)
    if numbers[KEPT]:
        weigh(numbers, thread(), threads(), types.float64, 8)
