"""Train a detector: `python train.py --data coco128.yaml --cfg yolov5n-ak5.yaml --weights ""`."""

import dataclasses
import json
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from models import Model, load_model
from models.summary import cost, cost_line
from utils.checkpoint import Checkpoint, open_checkpoint, read_checkpoint, save_checkpoint, strip_training, transfer
from utils.cli import run_command
from utils.data.config import load_dataset_config
from utils.data.loader import Batch, DetectionLoader, make_loader
from utils.data.scan import Sample, scan_samples
from utils.device import describe_device, select_device
from utils.errors import UserError
from utils.evaluation.evaluate import Evaluation, evaluate
from utils.files import write_text, write_yaml
from utils.training.anchors import anchor_fit, object_sizes
from utils.training.ema import ModelEMA
from utils.training.hyp import Hyp, load_hyp, parse_hyp
from utils.training.loop import Training, fit
from utils.training.loss import DetectionLoss, loss_gains
from utils.training.multiscale import resize_randomly
from utils.training.optim import build_optimizer
from utils.training.options import TrainOptions, change_options, parse_train_options, resumed_options
from utils.training.run_files import find_checkpoint, new_run_directory
from utils.training.schedule import Schedule
from utils.training.seed import seed_everything
from utils.training.state import TrainingState
from utils.training.stopping import EarlyStopper
