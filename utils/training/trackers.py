"""Trackers: each package is imported only when its tracker is asked for, and only its public interface is used."""

import importlib
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.files import write_text

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Run:
    """What trackers are told at the start.

    Attributes:
        directory: Of the run.
        project: What belongs together.
        name: Of the run.
        config: Options and hyperparameters.
        first_step: Epoch at which the training begins or goes on.
    """

    directory: Path
    project: str
    name: str
    config: dict[str, Any]
    first_step: int


class Tracker(Protocol):
    """Takes what a training tells; see `utils.training.events.Events`."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record finite numbers."""

    def images(self, step: int, name: str, picture: Picture) -> None:
        """Record a picture, (h, w, 3) RGB."""

    def close(self) -> None:
        """Write what is left."""


class _Package(ABC):
    """A tracker made of a package.

    Attributes:
        module: What is imported.
        package: What is installed with pip.
    """

    module: ClassVar[str]
    package: ClassVar[str]

    @abstractmethod
    def __init__(self, api: Any, run: Run) -> None: ...

    @classmethod
    def load(cls) -> ModuleType:
        """The package; ImportError if it is not installed."""
        return importlib.import_module(cls.module)

    @classmethod
    def open(cls, run: Run) -> Any:
        """A tracker of this run; ImportError if the package is not installed."""
        return cls(cls.load(), run)


class TensorBoard(_Package):
    """https://pytorch.org/docs/stable/tensorboard.html."""

    module, package = "torch.utils.tensorboard", "tensorboard"

    def __init__(self, api: Any, run: Run) -> None:
        """Write into the folder of the run; what is there of this and later epochs is hidden."""
        self.writer = api.SummaryWriter(log_dir=str(run.directory), purge_step=run.first_step or None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def images(self, step: int, name: str, picture: Picture) -> None:
        """Record a picture."""
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class Wandb(_Package):
    """https://docs.wandb.ai/ref/python."""

    module, package = "wandb", "wandb"

    def __init__(self, api: Any, run: Run) -> None:
        """Begin a run, or go on with the one of this folder."""
        self.api = api
        api.init(**self.settings(run))

    @staticmethod
    def settings(run: Run) -> dict[str, Any]:
        """What `init` is told."""
        names = {"project": run.project, "name": run.name, "config": run.config}
        return names | {"dir": str(run.directory), "resume": "allow", "id": _own_id(run)}

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers."""
        self.api.log(dict(values), step=step)

    def images(self, step: int, name: str, picture: Picture) -> None:
        """Record a picture."""
        self.api.log({name: self.api.Image(picture)}, step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        self.api.finish()


def _own_id(run: Run) -> str:
    """A name that no other run has, kept in the folder of the run."""
    file = run.directory / "tracker_id.txt"
    if not (run.first_step and file.exists()):
        write_text(file, uuid.uuid4().hex + "\n")
    return file.read_text(encoding="utf-8").strip()


class Trackio(Wandb):
    """https://huggingface.co/docs/trackio: keeps runs on this machine and has the interface of W&B."""

    module, package = "trackio", "trackio"

    @staticmethod
    def settings(run: Run) -> dict[str, Any]:
        """What `init` is told."""
        go_on = "allow" if run.first_step else "never"  # runs of one name in other folders are others
        return {"project": run.project, "name": run.name, "config": run.config, "resume": go_on}


class MLflow(_Package):
    """https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html."""

    module, package = "mlflow", "mlflow"

    def __init__(self, api: Any, run: Run) -> None:
        """Begin a run on the server that MLFLOW_TRACKING_URI names, or without one on this machine."""
        self.api = api
        api.set_experiment(run.project)
        api.start_run(run_name=run.name)
        api.log_params(run.config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers; colons, which not every store takes, become dashes."""
        self.api.log_metrics({name.replace(":", "-"): value for name, value in values.items()}, step=step)

    def images(self, step: int, name: str, picture: Picture) -> None:
        """Record a picture."""
        self.api.log_image(picture, f"{name}/{step:05}.png")

    def close(self) -> None:
        """End the run."""
        self.api.end_run()


class ClearML(_Package):
    """https://clear.ml/docs/latest/docs/references/sdk/task."""

    module, package = "clearml", "clearml"

    def __init__(self, api: Any, run: Run) -> None:
        """Begin a task that records what it is told; ClearML itself adds the versions and changes of the checkout."""
        self.task = api.Task.init(
            project_name=run.project,
            task_name=run.name,
            reuse_last_task_id=False,
            auto_connect_arg_parser=False,
            auto_connect_frameworks=False,
            auto_connect_streams=False,
            auto_resource_monitoring=False,
        )
        self.task.connect(run.config)
        self.logger = self.task.get_logger()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers: "train/box_loss" is the series "box_loss" of the graph "train"."""
        for name, value in values.items():
            title, _, series = name.rpartition("/")
            self.logger.report_scalar(title=title or series, series=series, value=value, iteration=step)

    def images(self, step: int, name: str, picture: Picture) -> None:
        """Record a picture."""
        title, _, series = name.rpartition("/")
        self.logger.report_image(title=title or series, series=series, iteration=step, image=picture)

    def close(self) -> None:
        """Wait until all is sent."""
        self.task.close()


class Comet(_Package):
    """https://www.comet.com/docs/v2/api-and-sdk/python-sdk/reference/start/."""

    module, package = "comet_ml", "comet_ml"

    def __init__(self, api: Any, run: Run) -> None:
        """Begin an experiment that records what it is told and nothing else."""
        settings = api.ExperimentConfig(
            log_code=False,
            log_graph=False,
            log_env_details=False,
            log_git_metadata=False,
            log_git_patch=False,
            auto_param_logging=False,
            auto_metric_logging=False,
            auto_output_logging=False,
            parse_args=False,
        )
        self.experiment = api.start(project_name=run.project, experiment_config=settings)
        self.experiment.set_name(run.name)
        self.experiment.log_parameters(run.config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers."""
        self.experiment.log_metrics(dict(values), step=step)

    def images(self, step: int, name: str, picture: Picture) -> None:
        """Record a picture."""
        self.experiment.log_image(picture, name=name, step=step)

    def close(self) -> None:
        """Wait until all is sent."""
        self.experiment.end()


TRACKERS: dict[str, type[_Package]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": MLflow,
    "clearml": ClearML,
    "comet": Comet,
    "trackio": Trackio,
}
"""What --tracker can name."""
