import re
import time

import torch

from utils.training.stopwatch import Stopwatch


def slow_batches():
    for number in range(2):
        time.sleep(0.05)
        yield number


def test_shares():
    watch = Stopwatch(torch.device("cpu"))
    for _ in watch.waiting(slow_batches()):
        with watch.stage("forward"):
            time.sleep(0.1)
    text = watch.summary()
    shares = {name: int(share) for name, share in re.findall(r"(\w+) (\d+)%", text)}
    assert shares.keys() == {"loader", "forward"}
    assert 20 <= shares["loader"] <= 50 <= shares["forward"] <= 80
    assert float(text.split()[0]) >= 0.3
