"""`python -m models.yolo --cfg yolov5n-ak5.yaml --nc 80`: the layers of a model, its size and its cost."""

import json
import sys
from dataclasses import asdict, dataclass

from models.model import Model
from models.summary import cost, cost_line, layer_table
from utils.cli import run_command
from utils.config import option, parse_options
from utils.errors import UserError


@dataclass(frozen=True)
class SummaryOptions:
    """Options of `python -m models.yolo`."""

    cfg: str = option("yolov5n-ak5.yaml", "model file, or <base>-ak<N>.yaml")
    nc: int | None = option(None, "number of classes; by default that of the model file")
    imgsz: int = option(640, "image size in pixels for GFLOPs", flags=("--img", "--img-size"))
    json: bool = option(False, "print one JSON object instead of text")


def main() -> None:
    """Print a model's layers and cost."""
    options = parse_options(SummaryOptions, prog="models.yolo", description="Print the layers and cost of a model.")
    model = Model(options.cfg, nc=options.nc)
    stride = int(model.stride.max())
    if not 1 <= options.imgsz <= 8192 or options.imgsz % stride:
        raise UserError(f"--imgsz {options.imgsz}: expected a multiple of the stride {stride} up to 8192")
    unfused, fused = cost(model, options.imgsz), cost(model, options.imgsz, fused=True)
    if options.json:
        summary = {"cfg": options.cfg, "nc": model.nc, "imgsz": options.imgsz, "stride": model.stride.tolist()}
        print(json.dumps(summary | {"unfused": asdict(unfused), "fused": asdict(fused)}))
        return
    print(layer_table(model))
    print(cost_line(f"{options.cfg}, as trained", unfused))
    print(cost_line(f"{options.cfg}, fused by the published rule", fused))
    print(f"GFLOPs at {options.imgsz} x {options.imgsz}; interpolation inside AKConv is not counted, as published")


if __name__ == "__main__":
    sys.exit(run_command(main))
