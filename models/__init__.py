"""The network: from a model file to raw predictions and decoded boxes."""

from models.akconv import AKConv, LDConv
from models.loading import load_model
from models.model import Model

__all__ = ["AKConv", "LDConv", "Model", "load_model"]
