"""What all loops share: how numba compiles them, the block of their arguments, their threads."""

import functools

from numba import njit, types
from numba.extending import intrinsic

SIZES, ADDRESSES = 11, 12
"""How many sizes and addresses there are in the block of arguments (`models.ops.cpu_calls.run`)."""
SHARES, KEPT, ADDING = 8, 9, 10
"""Where the block says how many shares there are, and what becomes of the samples of a backward pass."""
ARGUMENT = types.CPointer(types.int64)
"""What a loop is called with: the block."""

thread = types.ExternalFunction("omp_get_thread_num", types.int32())
threads = types.ExternalFunction("omp_get_num_threads", types.int32())
wait_for_all = types.ExternalFunction("GOMP_barrier", types.void())


def _has_cache() -> bool:
    """Whether numba finds a folder for machine code; without one every process compiles."""
    try:
        njit(cache=True)(_has_cache)
    except RuntimeError:
        return False
    return True


CACHE = _has_cache()
# Sums may be fused and reordered; NaN and infinity keep their meaning. Not cached by themselves, but in the loops that
# they become part of.
jit = functools.partial(njit, fastmath={"contract", "reassoc"}, error_model="numpy")


@intrinsic
def pointer(context, address, real):
    """An address as a pointer to numbers of type `real`."""
    kind = types.CPointer(real.dtype)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(address, real), generate


@jit(inline="always")
def share_of(items, share, shares):
    """First and last item of a share."""
    return items * share // shares, items * (share + 1) // shares
