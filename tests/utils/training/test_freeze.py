import pytest
from torch import nn

from utils.errors import UserError
from utils.training.freeze import freeze


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(*(nn.Linear(1, 2) for _ in range(12)))


def test_only_the_named_layers():
    net = Net()
    net.model[5].weight.requires_grad = False
    freeze(net, [1, 11])
    assert [layer.weight.requires_grad for layer in net.model] == [i not in (1, 11) for i in range(12)]
    assert not net.model[11].bias.requires_grad


@pytest.mark.parametrize(("number", "frozen"), [(0, 0), (3, 3), (11, 11)])
def test_a_single_number_freezes_the_first_layers(number, frozen):
    net = Net()
    freeze(net, (number,))
    assert [layer.weight.requires_grad for layer in net.model] == [i >= frozen for i in range(12)]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([0, 12], "layer 12 does not exist"),
        ([13], "--freeze 13"),
        ([10**18], "only 12 layers"),
        (range(12), "every layer"),
        ([12], "every"),
    ],
)
def test_mistakes(layers, message):
    with pytest.raises(UserError, match=message):
        freeze(Net(), list(layers))
