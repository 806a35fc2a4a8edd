import pytest
import torch

from utils.device import describe_device, select_device
from utils.errors import UserError


def test_cpu_and_default():
    assert select_device("cpu") == torch.device("cpu")
    assert select_device("").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert "torch" in describe_device(torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "message"), [("0,1", "several"), ("gpu", "expected cpu"), ("99", "CUDA devices are visible")]
)
def test_mistakes(name, message):
    with pytest.raises(UserError, match=message):
        select_device(name)
