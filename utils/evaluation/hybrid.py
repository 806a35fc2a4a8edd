"""Labels and predictions taken together, as a first step to labelling more objects of a data set."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def with_labels(decoded: Tensor, targets: Tensor, shape: tuple[int, int]) -> Tensor:
    """Predictions followed by the labels, as predictions that are certain: the suppression keeps each label.

    Args:
        decoded: (B, P, 5 + nc) cx, cy, w, h in pixels, objectness, class probabilities.
        targets: (T, 6) image index, class, cx, cy, w, h as fractions of the network input.
        shape: (h, w) of the network input in pixels.

    Returns:
        (B, P + n, 5 + nc), n being the most labels of an image; images with fewer have rows of zeros.
    """
    if not len(targets):
        return decoded
    h, w = shape
    targets = targets.to(decoded.device)
    rows = decoded.new_zeros(len(targets), decoded.shape[-1])
    rows[:, :4] = targets[:, 2:] * targets.new_tensor((w, h, w, h))
    rows[:, 4] = 1
    rows[torch.arange(len(rows)), 5 + targets[:, 1].long()] = 1
    mine = [rows[targets[:, 0] == image] for image in range(len(decoded))]
    return torch.cat((decoded, pad_sequence(mine, batch_first=True)), 1)
