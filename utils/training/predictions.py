"""Pictures of what a model finds, told every so many epochs (--bbox-interval)."""

from pathlib import Path

from utils.evaluation.consumers import BatchResult
from utils.nms import Detections
from utils.training.events import Events

_MOST = 16
_CONF = 0.25


def shows_predictions(epoch: int, epochs: int, interval: int) -> bool:
    """Whether pictures of an epoch are wanted.

    Args:
        epoch: From 0.
        epochs: Length of the training.
        interval: Epochs from one to the next; 0 for none, below 0 for ten times in a training.
    """
    if interval < 0:
        interval = max(epochs // 10, 1)
    return interval > 0 and (epoch + 1) % interval == 0


class PredictionPictures:
    """Draws the detections on the first images of an evaluation, which are the same in every epoch."""

    def __init__(self, events: Events, epoch: int, names: dict[int, str]) -> None:
        """Begin with the first image.

        Args:
            events: Where the pictures go, as "predictions/<number>_<stem of the file>".
            epoch: From 0.
            names: Class index -> name.
        """
        self.events = events
        self.epoch = epoch
        self.names = names
        self.count = 0

    def update(self, result: BatchResult) -> None:
        """Draw the images of a batch, as long as there are few."""
        if not self.events.trackers:
            return
        from utils.show.draw import draw_detections

        for pixels, found, image in zip(result.pixels, result.detections, result.images, strict=True):
            if self.count == _MOST:
                return
            keep = found.conf > _CONF
            confident = Detections(found.xyxy[keep], found.conf[keep], found.cls[keep])
            bgr = pixels.flip(0).permute(1, 2, 0).contiguous().cpu().numpy()
            drawn = draw_detections(bgr, confident, self.names, line_thickness=2, hide_labels=False, hide_conf=False)
            name = f"predictions/{self.count:02}_{Path(image.path).stem}"
            self.events.images(self.epoch, name, drawn[..., ::-1].copy())
            self.count += 1

    def finish(self) -> None:
        """Nothing is left to draw."""
