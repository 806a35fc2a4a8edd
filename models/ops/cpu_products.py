"""Matrix products of the loops of `models.ops.cpu_kernels`, and how weights are laid out for the forward pass.

Memory is idle meanwhile, so products bring what is needed next into the second cache.
"""

from numba import carray, types

from models.ops.cpu_jit import ADDING, SIZES, jit, pointer, share_of, thread, threads, wait_for_all
from models.ops.cpu_llvm import CACHE_LINE, LANES
from models.ops.cpu_vectors import ROWS, WIDTH, add_product, product, transpose

DEPTH = 512
"""Most channels of samples whose products are added up one by one: sums of sums lose fewer bits."""


@jit()
def lay_out(block, real, bytes):
    """Weights as panels for `multiply`: (ceil(O / WIDTH), N * C, WIDTH), zeros behind the last; all threads."""
    depth, out = block[6] * block[3], block[7]
    many = -(-out // WIDTH)
    panels = carray(pointer(block[SIZES + 3], real), (many, depth, WIDTH))
    matrix = carray(pointer(block[SIZES + 7], real), (out, depth))
    for panel in range(thread(), many, threads()):
        for first in range(0, WIDTH, LANES):
            o = panel * WIDTH + first
            for d in range(0, depth, LANES):
                if o + LANES <= out:
                    source = block[SIZES + 7] + (o * depth + d) * bytes, depth
                    transpose(real, source, (block[SIZES + 3] + ((panel * depth + d) * WIDTH + first) * bytes, WIDTH))
                else:
                    for i in range(LANES):
                        for lane in range(LANES):
                            given = o + lane < out
                            panels[panel, d + i, first + lane] = matrix[o + lane, d + i] if given else real(0)
    wait_for_all()


@jit(inline="always")
def to_fetch(places, located, image, cell_bytes):
    """What products are to fetch for a tile: how many pairs of lines, from where, and from which address they count.

    All cells count from one image: in tiles of several, which are small maps, some pairs are nobody's. Cells of one
    line are side by side in a pair, so the left ones are enough. Wider cells are fetched in rounds: the first pair of
    all, then the second. Where outputs are fewer than channels, products may end before all is fetched.
    """
    pairs, first = places.size // 2 if cell_bytes <= CACHE_LINE else places.size, types.int64(places.ctypes.data)
    return (pairs if located else 0), first, image, pairs, first, image + cell_bytes


@jit(inline="always")
def still_to_fetch(ahead, steps):
    """What is left after a product of as many steps: nothing, or pairs for another such product at least."""
    left, place, image, pairs, first, end = ahead
    if left > steps:
        again = max(0, 2 * steps - left)  # the last product of a round begins where it ends with the last pair
        return left - steps + again, place + 8 * (steps - again), image, pairs, first, end
    image += 2 * CACHE_LINE
    return (pairs if image < end else 0), first, image, pairs, first, end


@jit(inline="always")
def multiply(a, rows, b, depth, c, columns, lines, ahead, real, bytes):
    """c (rows, columns) = a (rows, depth) times b (depth, columns), fetching what is ahead.

    Of a and c are given the address, and the numbers from one row to the next; of b that, and bytes from one panel of
    WIDTH columns to the next. Columns are a multiple of LANES.

    Rows of a panel may lie apart, where processors do not see which comes next: then `lines` is the address of bytes
    (int64) from the first to each row, at most DEPTH, and two lines of each row of a panel, all of them in float32, are
    fetched while the panel before is first multiplied. Else it is 0.
    """
    (a, step), (b, across, apart), (c, down) = a, b, c
    for o in range(0, columns, WIDTH):
        panel = b + o // WIDTH * apart
        for r in range(0, rows, ROWS):
            target = c + (r * down + o) * bytes, down
            for d in range(0, depth, DEPTH):
                part = panel + d * across * bytes
                left, right = (a + (r * step + d) * bytes, step, 1), (part, across)
                steps, many = min(DEPTH, depth - d), columns - o
                if r == 0 and lines:
                    _multiply_rows(d, real, left, right, target, steps, many, (lines, part + apart))
                elif d == 0 and ahead[0] >= steps:
                    product(real, left, right, target, steps, many, ahead[1:3])
                    ahead = still_to_fetch(ahead, steps)
                else:
                    _multiply_rows(d, real, left, right, target, steps, many, ())


@jit(inline="always")
def _multiply_rows(adding, real, a, b, c, depth, columns, ahead):
    if adding:
        add_product(real, a, b, c, depth, columns, ahead)
    else:
        product(real, a, b, c, depth, columns, ahead)


@jit(inline="always")
def row_step(numbers):
    """From one row of samples or gradients to the next: rows of a power of two would share few places of a cache."""
    return numbers + LANES


@jit()
def weigh(block, share, shares, real, bytes):
    """Gradients of a share of the weights' columns, from the samples and gradients that `_differentiate` has kept.

    Samples are (panels, cells, WIDTH): so each thread reads what it multiplies as it lies.
    """
    b, height, width, channels, stride = block[0], block[1], block[2], block[3], block[4]
    n, out, adding = block[6], block[7], block[ADDING]
    cells, columns = b * ((height - 1) // stride + 1) * ((width - 1) // stride + 1), -(-out // ROWS) * ROWS
    depth, narrow = n * channels, row_step(columns)
    total, samples, grads = block[SIZES + 9], block[SIZES + 10], block[SIZES + 11]
    first, last = share_of(-(-depth // WIDTH), share, shares)
    for panel in range(first, last):
        k = panel * WIDTH
        for start in range(0, cells, DEPTH):
            steps, right = min(DEPTH, cells - start), (samples + (panel * cells + start) * WIDTH * bytes, WIDTH)
            for o in range(0, columns, ROWS):
                left, target = (
                    (grads + (start * narrow + o) * bytes, 1, narrow),
                    (total + (o * depth + k) * bytes, depth),
                )
                _multiply_rows(start or adding, real, left, right, target, steps, depth - k, ())
