"""The model that a training starts with."""

import logging

from models.loading import build_from
from models.model import Model
from utils.checkpoint import open_checkpoint, transfer
from utils.errors import UserError
from utils.legacy import LegacyCheckpoint

log = logging.getLogger(__name__)


def start_model(cfg: str, weights: str, names: dict[int, str], *, anchors: int = 0, find_anchors: bool = True) -> Model:
    """A new model for the classes of a data set, with what fits of the weights to start from.

    Args:
        cfg: Model YAML; empty takes the architecture of `weights`.
        weights: Checkpoint; empty starts from random weights.
        names: Class index -> name.
        anchors: Anchors of each level, which are still to be found; 0 for those of the YAML or the checkpoint.
        find_anchors: Whether anchors will be looked for.

    Raises:
        UserError: If model and weights do not fit, or it cannot be trained on images.
    """
    model = _from_weights(cfg, weights, names, anchors) if weights else _new(cfg, names, anchors)
    source = cfg or weights
    if model.cfg["ch"] != 3:
        raise UserError(f"{source}: the model takes ch {model.cfg['ch']} channels, but images have 3; set ch to 3")
    if not (find_anchors or (model.head.anchors > 0).all()):
        raise UserError(
            f"{source}: anchors {model.cfg['anchors']!r} says only how many there are; leave --noautoanchor out to "
            "find them, or give them as rows of widths and heights in pixels, one row a level"
        )
    return model


def _new(cfg: "str | dict[str, object]", names: dict[int, str], anchors: int) -> Model:
    return Model(cfg, names=names, anchors=anchors) if anchors else Model(cfg, names=names)


def _from_weights(cfg: str, weights: str, names: dict[int, str], anchors: int) -> Model:
    checkpoint = open_checkpoint(weights)
    if isinstance(checkpoint, LegacyCheckpoint) and checkpoint.fused:
        raise UserError(f"--weights {weights}: its BatchNorms are folded away, so it cannot be trained further")
    source = build_from(checkpoint, weights)
    model = _new(cfg or source.cfg, names, anchors)
    found = transfer(model.state_dict(), source.state_dict(), exclude=("anchor",) if cfg or anchors else ())
    if not any(tensor.ndim for tensor in found.taken.values()):  # the counters of BatchNorms fit everywhere
        raise UserError(
            f'--weights {weights}: no weight of it fits into {cfg}; give those of such a model, or "" for none'
        )
    model.load_state_dict(found.taken, strict=False)
    log.info("%s: %s", weights, found.summary())
    return model
