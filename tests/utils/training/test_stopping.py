import pytest

from utils.training.stopping import EarlyStopper


def run(stopper, fitness, start=0):
    for epoch, value in enumerate(fitness, start):
        stopper.update(epoch, value)
        if stopper.stopped:
            return epoch
    return None


@pytest.mark.parametrize(
    ("patience", "fitness", "stops_at"),
    [
        (2, [0.1, 0.2, 0.2, 0.2, 0.2], 3),  # equal is no progress
        (2, [0.1, 0.2, 0.1, 0.3, 0.1, 0.1], 5),
        (3, [0, 0, 0, 0, 0], 3),  # zero in the first epoch is the best so far
        (0, [0.5] + [0.1] * 50, None),
        (1, [0.1, 0.2, 0.3, 0.3], 3),
    ],
)
def test_stops_when_patience_ends(patience, fitness, stops_at):
    assert run(EarlyStopper(patience), fitness) == stops_at


def test_tells_one_epoch_ahead():
    stopper = EarlyStopper(3)
    told = []
    for epoch, value in enumerate([0.3, 0.1, 0.1, 0.1]):
        stopper.update(epoch, value)
        told.append(stopper.may_stop_next)
    assert told == [False, False, True, True]


def test_goes_on_from_its_state():
    first = EarlyStopper(3)
    assert run(first, [0.3, 0.1]) is None
    second = EarlyStopper(3)
    second.load_state_dict(first.state_dict())
    assert run(second, [0.2, 0.3], start=2) == 3
    assert second.best_epoch == 0
