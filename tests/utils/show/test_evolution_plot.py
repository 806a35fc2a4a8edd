import cv2
import numpy as np

from utils.show.evolution_plot import save_evolution_plot


def test_one_small_plot_for_each(tmp_path):
    sizes = []
    for count in (1, 5, 7):
        file = tmp_path / f"{count}.png"
        values = {f"key{i}": [0.1 * i, 0.2, 0.3] for i in range(count)}
        save_evolution_plot(file, values, [0.1, 0.5, 0.2], 1)
        picture = cv2.imread(str(file))
        sizes.append(picture.shape[:2])
        amber = np.abs(picture.astype(int) - (6, 119, 217)).max(-1) < 10
        assert amber.any()
    assert sizes[0] == sizes[1]
    assert sizes[2][0] == 2 * sizes[0][0]
