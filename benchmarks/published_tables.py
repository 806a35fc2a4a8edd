"""The published tables of AKConv, as printed (https://arxiv.org/abs/2311.11587), and what identifies their rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedRow:
    """One model.

    Attributes:
        model: Stem of its model file.
        n: Points of its AKConvs; "-" where there are none.
        metrics: Percent, in the order of the table's metrics.
        gflops: At 640 x 640.
        parameters: Millions.
        remark: Why a figure of ours differs.
    """

    model: str
    n: str
    metrics: tuple[str, ...]
    gflops: str
    parameters: str
    remark: str = ""


@dataclass(frozen=True)
class PublishedTable:
    """One table.

    Attributes:
        title: The data set, as its publishers call it.
        dataset: Stem of its YAML below data/.
        nc: Number of its classes.
        metrics: Names of the columns of percentages.
        rows: In the published order.
    """

    title: str
    dataset: str
    nc: int
    metrics: tuple[str, ...]
    rows: tuple[PublishedRow, ...]


_UNFUSED = "the published 5.5 is the cost before BatchNorm is folded into the convolutions (5.52)"

_COCO = PublishedTable(
    title="COCO2017",
    dataset="coco",
    nc=80,
    metrics=("AP", "AP50", "AP75", "APs", "APm", "APl"),
    rows=(
        PublishedRow("yolov5n", "-", ("27.5", "45.6", "28.9", "13.5", "31.5", "35.9"), "4.5", "1.87"),
        PublishedRow("yolov5n-ak3", "3", ("29.8", "47.8", "31", "14.5", "33.2", "41"), "3.8", "1.51"),
        PublishedRow("yolov5n-ak5", "5", ("31", "48.8", "32.6", "14.6", "34.1", "43.2"), "4.1", "1.65"),
        PublishedRow("yolov5n-ak9", "9", ("32.3", "50.5", "33.9", "14.9", "36.1", "44.1"), "4.8", "1.94"),
        PublishedRow("yolov5n-ak13", "13", ("33", "51.2", "34.5", "15.7", "36.3", "45.6"), "5.5", "2.23", _UNFUSED),
        PublishedRow("yolov5s", "-", ("37.1", "57", "39.9", "20.9", "42.4", "47.8"), "16.4", "7.23"),
        PublishedRow("yolov5s-ak4", "4", ("39.2", "58.2", "41.9", "21.4", "43.2", "53.4"), "14.1", "6.01"),
        PublishedRow("yolov5s-ak6", "6", ("39.9", "59.2", "42.6", "21.5", "44.2", "54.7"), "15.3", "6.55"),
        PublishedRow("yolov5s-ak7", "7", ("40.4", "59.4", "43.2", "21.5", "44.6", "55.1"), "15.9", "6.82"),
    ),
)

# Printed without a title. The authors' repository heads it VisDrone-DET2021, and only 10 classes give its parameters.
_VISDRONE = PublishedTable(
    title="VisDrone-DET2021",
    dataset="VisDrone",
    nc=10,
    metrics=("P", "R", "mAP50", "mAP"),
    rows=(
        PublishedRow("yolov5n", "-", ("38.5", "28", "26.4", "13.4"), "4.2", "1.77"),
        PublishedRow("yolov5n-ak3", "3", ("37.9", "27.4", "25.9", "13.2"), "3.5", "1.41"),
        PublishedRow("yolov5n-ak5", "5", ("40", "28", "26.9", "13.7"), "3.8", "1.56"),
        PublishedRow("yolov5n-ak6", "6", ("38.1", "28.1", "26.8", "13.6"), "4", "1.63"),
        PublishedRow("yolov5n-ak7", "7", ("39.8", "28.2", "27.5", "14.2"), "4.2", "1.7"),
        PublishedRow("yolov5n-ak9", "9", ("39.7", "28.9", "27.7", "14.3"), "4.5", "1.84"),
        PublishedRow("yolov5n-ak11", "11", ("40.4", "28.8", "27.7", "14.2"), "4.8", "1.99"),
        PublishedRow("yolov5n-ak14", "14", ("40", "28.8", "27.9", "14.3"), "5.3", "2.2"),
    ),
)

PUBLISHED = {"coco": _COCO, "visdrone": _VISDRONE}
"""Table by the name that stands before the colon in --row."""
