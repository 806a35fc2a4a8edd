"""The detector: walk the layers of a model file, decode what the head says."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.akconv import AKConv
from models.config import load_model_config
from models.head import Detect
from models.layers import Conv
from models.parser import LayerSpec, build_layers
from utils.errors import UserError

_PROBE = 256
"""Side in pixels of the empty image that shows the strides; a multiple of every stride up to 256."""


class Model(nn.Module):
    """A detector built from a model file, with random weights.

    Attributes:
        cfg: The complete model mapping, plain values, with `nc` and `anchors` as built.
        names: Class index to name.
        nc: Number of classes.
        head: The last layer, with `anchors` (L, A, 2) in grid units and `stride` (L,).
        model: The layers; state-dict names are `model.<i>.` as in published checkpoints.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any],
        *,
        nc: int | None = None,
        names: Mapping[int, str] | None = None,
        anchors: int | Sequence[Sequence[float]] | None = None,
        ch: int = 3,
    ) -> None:
        """Build the model.

        Args:
            cfg: Name of a model file (also `<base>-ak<N>.yaml` without a file), or its content.
            nc: Number of classes, instead of the file's.
            names: Names of the classes, instead of "0", "1", ...
            anchors: Rows in pixels, or anchors per level still to be found, instead of the file's.
            ch: Channels of the input image, unless the file says.

        Raises:
            UserError: If the file does not describe a model; names the file and the layer.
        """
        super().__init__()
        self.cfg = copy.deepcopy(dict(cfg)) if isinstance(cfg, Mapping) else load_model_config(cfg)
        if nc is None and names is not None:
            nc = len(names)
        self.cfg.update({k: v for k, v in (("nc", nc), ("anchors", anchors)) if v is not None})
        self.cfg.setdefault("ch", ch)
        try:
            self.nc: int = self.cfg["nc"]
            if type(self.nc) is not int or self.nc < 1:
                raise UserError(f"nc: expected a number of classes of at least 1, found {self.nc!r}")
            self.names = dict(names) if names is not None else {i: str(i) for i in range(self.nc)}
            if sorted(self.names) != list(range(self.nc)):
                raise UserError(f"names: expected one name for each class 0 to {self.nc - 1}, found {self.names}")
            self.model, self.specs = build_layers(self.cfg, self.cfg["ch"])
            self._needed = {s for spec in self.specs for s in spec.sources if s != -1}
            for module in self.modules():
                if type(module) is nn.BatchNorm2d:
                    module.eps, module.momentum = 1e-3, 0.03
            self.head.set_stride(self._probe_stride())
        except UserError as error:
            raise error if isinstance(cfg, Mapping) else UserError(f"{cfg}: {error}") from error

    @property
    def head(self) -> Detect:
        """The last layer."""
        head = self.model[-1]
        assert isinstance(head, Detect)
        return head

    @property
    def stride(self) -> Tensor:
        """(L,) input pixels per cell of each level."""
        return self.head.stride

    def forward(self, images: Tensor) -> list[Tensor]:
        """Raw outputs of the head.

        Args:
            images: (B, 3, H, W) in [0, 1]; H and W multiples of the largest stride.

        Returns:
            One (B, A, h, w, 5 + nc) tensor of logits per level.
        """
        x: Any = images
        kept: dict[int, Tensor] = {}
        for spec, layer in zip(self.specs, self.model, strict=True):
            inputs = [x if s == -1 else kept[s] for s in spec.sources]
            x = layer(inputs if spec.several else inputs[0])
            if spec.index in self._needed:
                kept[spec.index] = x
        return x

    def decode(self, raw: list[Tensor]) -> Tensor:
        """Boxes and probabilities of raw outputs, (B, P, 5 + nc); see `Detect.decode`."""
        return self.head.decode(raw)

    def predict(self, images: Tensor) -> Tensor:
        """`decode` of `forward`: (B, 3, H, W) images to (B, P, 5 + nc) boxes and probabilities."""
        return self.decode(self(images))

    def fuse(self, *, akconv: bool = True) -> "Model":
        """Fold BatchNorms into the convolutions before them, in place, for inference.

        Args:
            akconv: Also those inside AKConv, which published parameter counts leave alone.
        """
        for module in self.modules():
            if isinstance(module, Conv) or (akconv and isinstance(module, AKConv)):
                module.fuse()
        return self

    @torch.no_grad()
    def _probe_stride(self) -> Tensor:
        image = torch.zeros(1, self.cfg["ch"], _PROBE, _PROBE)
        training = self.training
        reached: list[LayerSpec] = []
        hooks = [
            layer.register_forward_pre_hook(lambda *_, spec=spec: reached.append(spec))
            for spec, layer in zip(self.specs, self.model, strict=True)
        ]
        try:
            raw = self.eval()(image)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"{reached[-1]}: does not fit the layers it reads; correct one of them: {error}") from error
        finally:
            for hook in hooks:
                hook.remove()
        self.train(training)
        return torch.tensor([_PROBE / level.shape[2] for level in raw])
