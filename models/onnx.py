"""A detector in an .onnx file, computed by OpenCV."""

import logging
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.onnx_file import read_header
from utils.errors import UserError

logger = logging.getLogger(__name__)

STRIDE = 32
"""Pixels, if the file does not say."""

_OUTPUT = "output0"


class OnnxModel(nn.Module):
    """A detector whose input is `images` (1, 3, H, W) in 0..1 and whose output is `output0` (1, P, 5 + nc).

    It computes on the CPU.

    Attributes:
        names: Class index to name; "0", "1", ... if the file has none.
        nc: Number of classes.
        stride: (1,) the largest stride in pixels.
    """

    def __init__(self, path: Path) -> None:
        """Read a file, and run it once.

        Args:
            path: An .onnx file.

        Raises:
            UserError: If OpenCV cannot read or compute it, or it is no such detector.
        """
        super().__init__()
        header = read_header(path)
        self.path, self.shape = path, header.shape
        if header.shape[0] not in (1, None):
            raise UserError(f"{path}: takes batches of {header.shape[0]} images; export it with batch size 1")
        if header.stride is None:
            logger.info("%s: has no stride in its metadata, taking %d", path, STRIDE)
        # A parameter: it tells where the model is.
        self.stride = nn.Parameter(torch.tensor([float(header.stride or STRIDE)]), requires_grad=False)
        try:
            self._net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise self._unusable(error) from error
        outputs = self._net.getUnconnectedOutLayersNames()
        if _OUTPUT not in outputs:
            raise UserError(f"{path}: expected an output called {_OUTPUT}, found {', '.join(outputs)}")
        h, w = (side or 2 * int(self.stride) for side in header.shape[2:])
        found = self(torch.zeros(1, 3, h, w))[0].shape
        if len(found) != 3 or found[2] < 6:
            raise UserError(f"{path}: {_OUTPUT} has shape {tuple(found)}, expected (1, P, 5 + classes)")
        self.nc = found[2] - 5
        if not header.names:
            logger.warning("%s: has no class names in its metadata; those of --data have to be the right ones", path)
        elif len(header.names) != self.nc:
            raise UserError(f"{path}: its metadata names {len(header.names)} classes, but it finds {self.nc}")
        self.names = header.names or {index: str(index) for index in range(self.nc)}

    def check_size(self, h: int, w: int) -> None:
        """Refuse a size of images that the file does not take.

        Args:
            h: Pixels.
            w: Pixels.

        Raises:
            UserError: If the file was exported for another size.
        """
        taken = tuple(side or given for side, given in zip(self.shape[2:], (h, w), strict=True))
        if taken != (h, w):
            raise UserError(
                f"{self.path}: takes images of {taken[0]} x {taken[1]} pixels, not of {h} x {w}; "
                "give its size with --imgsz, or export it for this one"
            )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Predictions.

        Args:
            images: (1, 3, H, W) in [0, 1], of a size that `check_size` accepts.

        Returns:
            One (1, P, 5 + nc): cx, cy, w, h in pixels, objectness, class probabilities.

        Raises:
            UserError: If OpenCV cannot compute it.
        """
        try:
            self._net.setInput(np.ascontiguousarray(images.float().numpy()), "images")
            return [torch.from_numpy(self._net.forward(_OUTPUT))]
        except cv2.error as error:
            raise self._unusable(error) from error

    def decode(self, raw: list[Tensor]) -> Tensor:
        """The predictions, (1, P, 5 + nc)."""
        return raw[0]

    def _unusable(self, error: cv2.error) -> UserError:
        return UserError(
            f"{self.path}: OpenCV {cv2.__version__} cannot compute it ({error.err}); "
            "export it for one size of images, batch size 1 and float32"
        )
