"""A lowering as one PyTorch operator, so that autograd, torch.compile and torch.export take it as a single step.

Operators of `torch.library.custom_op` can be captured, but their Python code costs a training step 0.1 to 0.2 ms a
layer more than an `autograd.Function` that calls plain operators, which is taken where nobody watches.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from models.ops.shapes import Shape
from models.ops.taps import Border, output_size


class Forward(Protocol):
    """(B, C, H, W), (B, 2N, h, w), (O, C, N, 1), (O,) or None -> (B, O, h, w), channels-last in memory."""

    def __call__(  # noqa: D102
        self, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
    ) -> Tensor: ...


class Backward(Protocol):
    """Gradient of the output (B, O, h, w), and the inputs -> gradients of x, offset, weight, channels-last."""

    def __call__(  # noqa: D102
        self, grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor, stride: int, shape: Shape, border: Border
    ) -> tuple[Tensor, Tensor, Tensor]: ...


# Schemas written out: torch 2.6 cannot infer one from list[float].
_OPTIONS = "int stride, float[] shape, str border"
_FORWARD = f"(Tensor x, Tensor offset, Tensor weight, Tensor? bias, {_OPTIONS}) -> Tensor"
_BACKWARD = f"(Tensor grad, Tensor x, Tensor offset, Tensor weight, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
_LIBRARY = torch.library.Library("akconv", "FRAGMENT")


def define(name: str, forward: Forward, backward: Backward) -> Callable[..., Tensor]:
    """Register `akconv::name` and `akconv::name_backward`, and `_forward` and `_gradients` that autograd does not see.

    The backward pass gets the inputs, not what the forward pass computed: samples are taken again, so that nothing of
    size N * C * h * w outlives a call.

    Args:
        name: Name of the lowering.
        forward: Computes the output.
        backward: Computes the gradients of x, offset and weight; that of the bias is a sum and is added here.

    Returns:
        A function with the arguments of `Forward`; it raises `ValueError` in forward mode differentiation, and its
        backward pass where it is differentiated again.
    """

    def run(x, offset, weight, bias, stride, shape, border):  # type: ignore[no-untyped-def]
        return forward(x, offset, weight, bias, stride, _points(shape), border)

    def run_backward(grad, x, offset, weight, stride, shape, border):  # type: ignore[no-untyped-def]
        return backward(grad, x, offset, weight, stride, _points(shape), border)

    def run_captured(grad, x, offset, weight, stride, shape, border):  # type: ignore[no-untyped-def]
        return _as_captured(*run_backward(grad, x, offset, weight, stride, shape, border))

    operator = torch.library.custom_op(f"akconv::{name}", run, mutates_args=(), schema=_FORWARD)
    gradient = torch.library.custom_op(f"akconv::{name}_backward", run_captured, mutates_args=(), schema=_BACKWARD)
    operator.register_fake(_fake)
    gradient.register_fake(lambda *inputs: _as_captured(*_fake_backward(*inputs)))
    plain_forward = _define_plain(f"{name}_forward", _FORWARD, run, _fake)
    plain_gradient = _define_plain(f"{name}_gradients", _BACKWARD, run_backward, _fake_backward)

    def differentiate(ctx, grad):  # type: ignore[no-untyped-def]
        if not torch.compiler.is_compiling():
            refuse_derivatives(name, grad)
        compute = gradient if torch.is_grad_enabled() or _watched() else plain_gradient
        grads = compute(grad, *ctx.saved_tensors, ctx.stride, ctx.shape, ctx.border)
        return *grads, grad.sum((0, 2, 3)) if ctx.needs_input_grad[3] else None, None, None, None

    def refuse(ctx, *grads):  # type: ignore[no-untyped-def]
        raise ValueError(f"impl={name!r} has no second derivatives; use impl='reference' or 'grid'")

    operator.register_autograd(differentiate, setup_context=_remember)
    gradient.register_autograd(refuse)

    def run_and_remember(ctx, *inputs):  # type: ignore[no-untyped-def]
        _remember(ctx, inputs, None)
        return plain_forward(*inputs)

    members = {"forward": staticmethod(run_and_remember), "backward": staticmethod(differentiate)}
    function = type(f"akconv_{name}", (Function,), members)  # profilers show its name

    def call(
        x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, stride: int, shape: Shape, border: Border
    ) -> Tensor:
        tensors = x, offset, weight, bias
        if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):
            refuse_derivatives(name, *tensors)
        if _watched():
            compute: Callable[..., Tensor] = operator
        elif torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            compute = function.apply  # type: ignore[attr-defined]
        else:
            compute = plain_forward
        return compute(*tensors, stride, [coordinate for point in shape for coordinate in point], border)

    return call


def _define_plain(name: str, schema: str, compute: Callable[..., object], fake: Callable[..., object]) -> Callable:
    _LIBRARY.define(name + schema)
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")
    torch.library.register_fake(f"akconv::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.akconv, name).default


def _watched() -> bool:
    """Whether calls are written down, to be repeated later, perhaps for gradients, or are changed by torch.func."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or is_in_torch_dispatch_mode()
        or torch._C._are_functorch_transforms_active()
    )


def refuse_derivatives(name: str, *inputs: Tensor | None) -> None:
    """PyTorch would drop tangents without a word: a custom operator has no place for a forward mode derivative.

    Nor can torch.func differentiate it, which PyTorch says in words for authors of operators.

    Args:
        name: Name of the lowering.
        inputs: Its inputs.

    Raises:
        ValueError: If one of them carries a tangent, or is differentiated by torch.func.
    """
    given = [t for t in inputs if t is not None]
    if any(forward_ad.unpack_dual(t).tangent is not None for t in given):
        raise ValueError(f"impl={name!r} has no forward mode derivative; use impl='reference'")
    if torch._C._are_functorch_transforms_active() and any(_is_tracked(t) for t in given):
        raise ValueError(
            f"impl={name!r} cannot be differentiated by torch.func (grad, vjp, jacrev); use torch.autograd.grad, or "
            "impl='reference' or 'grid'"
        )


def _is_tracked(t: Tensor) -> bool:
    """Whether a transform of torch.func differentiates with respect to a tensor, perhaps inside or around a vmap."""
    wrapped = torch._C._functorch
    while wrapped.is_functorch_wrapped_tensor(t):
        if wrapped.is_gradtrackingtensor(t):
            return True
        t = wrapped.get_unwrapped(t)
    return False


def _points(flat_shape: list[float]) -> Shape:
    return tuple(zip(flat_shape[::2], flat_shape[1::2], strict=True))


def _remember(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, offset, weight, _, ctx.stride, ctx.shape, ctx.border = inputs
    ctx.save_for_backward(x, offset, weight)


def empty_output(x: Tensor, weight: Tensor, stride: int, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for the result of an operator.

    Args:
        x: (B, C, H, W).
        weight: (O, C, N, 1).
        stride: Input pixels per output cell.
        dtype: Type of the result, by default that of x.

    Returns:
        (B, O, h, w), channels-last and no view: PyTorch lets nobody overwrite a view that an operator returns, such as
        an activation in place.
    """
    # Not len(): torch.compile and torch.export would take it for a constant.
    size = x.shape[0], weight.shape[0], output_size(x.shape[2], stride), output_size(x.shape[3], stride)
    return torch.empty(size, dtype=dtype or x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake(x, offset, weight, bias, stride, shape, border) -> Tensor:  # type: ignore[no-untyped-def]
    return empty_output(x, weight, stride)


def _fake_backward(grad, x, offset, weight, stride, shape, border):  # type: ignore[no-untyped-def]
    return _empty_channels_last(x), _empty_channels_last(offset), _empty_channels_last(weight)


def _as_captured(grad_x: Tensor, grad_offset: Tensor, grad_weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as graphs expect them that PyTorch compiled and kept: it would not see that their layout changed."""
    return grad_x, grad_offset, grad_weight.contiguous()


def _empty_channels_last(t: Tensor) -> Tensor:
    b, c, height, width = t.shape
    return t.new_empty((b, height, width, c)).permute(0, 3, 1, 2)
