"""studies/superres.py on the tiny pipeline."""

import numpy as np
import pytest

from eval.metrics.pixels import Fidelity
from hdpainter.console import finish
from studies import superres


def test_the_rows_are_what_they_say(painter):
    rows = superres.study(painter, 2, 1)
    assert list(rows) == ["bicubic", *superres.WAYS, "autoencoder", "the scene itself"]
    assert all(len(found) == 2 for found in rows.values())
    for with_it, without in zip(rows["Eq. 10"], rows["without Eq. 10"], strict=True):
        assert with_it["PSNR"] != without["PSNR"] and with_it["seam"] > 0
    lines = superres.table(rows)
    assert len(lines) == 2 + len(rows) + 1 and lines[-1].startswith("| Eq. 10 less without | ")


def test_figures_are_of_the_mask_and_of_what_is_around_it():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (32, 32, 3), np.uint8)
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    off = truth.copy()
    off[mask] = np.clip(truth[mask].astype(int) + 10, 0, 255)
    found = superres.figures(off, truth, mask, Fidelity())
    error = np.mean((off[mask].astype(float) - truth[mask]) ** 2)
    assert found["PSNR"] == pytest.approx(10 * np.log10(255**2 / error)) and found["PSNR outside"] == np.inf
    assert 0.5 < found["SSIM"] < 1
    same = superres.figures(truth, truth, mask, Fidelity())
    assert same["PSNR"] == np.inf and same["SSIM"] == pytest.approx(1)


def test_a_mistake_is_told_before_the_model_loads(capsys):
    assert finish("studies.superres", ["--scenes", "0"], superres.main) == 2
    assert capsys.readouterr().err == "studies.superres: error: --scenes must be at least 1, not 0\n"
