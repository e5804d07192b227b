"""The way of the word: lengths, angles and planes that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import tiny_pipeline

from sarnb.errors import InputError
from sarnb.model.inspect import path_plane, path_rows, path_table, start_comparison
from sarnb.model.token import embedding_table


def files(folder, name, rows):
    """A way along ``rows`` [n, D], the same for both encoders but for their widths (16 and 24)."""
    found = {}
    for step, row in enumerate(rows):
        path = folder / f"{name}-{step}.safetensors"
        wide = torch.zeros(24)
        wide[:16] = row
        save_file({"clip_l": row[None].contiguous(), "clip_g": wide[None].contiguous()}, path)
        found[10 * step] = path
    return found


def test_lengths_angles_and_the_nearest_word(tmp_path):
    pipe = tiny_pipeline()
    city, forest = (embedding_table(pipe.text_encoder)[pipe.tokenizer.convert_tokens_to_ids(f"{word}</w>")] for word in ("city", "forest"))
    way = files(tmp_path, "a", torch.stack([city, 0.1 * city + 0.9 * forest, 3 * forest]))
    table = path_table(pipe, way)
    first = table[table["encoder"] == "text_encoder"]
    assert first["step"].tolist() == [0, 10, 20] and first["word"].tolist() == ["city", "forest", "forest"]
    assert first["distance"].iloc[0] == 0 and first["distance"].iloc[2] == pytest.approx(float((3 * forest - city).norm()), rel=1e-5)
    assert first["cosine"].tolist()[0] == pytest.approx(1.0)
    assert first["cosine"].iloc[2] == pytest.approx(float(city @ forest / city.norm() / forest.norm()), abs=1e-5)
    assert first["norm"].iloc[2] == pytest.approx(3 * float(forest.norm()), rel=1e-5) and first["word cosine"].iloc[2] == pytest.approx(1.0)
    assert len(table) == 6


def test_a_plane_keeps_the_distances_of_what_lies_in_it(tmp_path):
    rng = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(16, 2, generator=rng))[0]
    flat = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0], [5.0, 5.0], [4.0, 5.0]])
    rows = flat @ axes.T + 3.0
    plane = path_plane({"image": files(tmp_path, "a", rows[:3]), "radar": files(tmp_path, "b", rows[3:])})
    for _, part in plane.groupby("encoder"):
        assert part["start"].tolist() == ["image"] * 3 + ["radar"] * 2 and part["step"].tolist() == [0, 10, 20, 0, 10]
        points = part[["x", "y"]].to_numpy()
        between = np.linalg.norm(points[:, None] - points[None], axis=2)
        np.testing.assert_allclose(between, torch.cdist(flat, flat).numpy(), atol=1e-4)
        assert part["shown"].iloc[0] == pytest.approx(1.0)
    bent = torch.eye(16)[:4] * 2
    shown = path_plane({"x": files(tmp_path, "c", bent)})["shown"].iloc[0]
    assert shown == pytest.approx(2 / 3)  # four corners of a simplex: three axes alike
    still = path_plane({"x": files(tmp_path, "d", torch.ones(2, 16))})
    assert still[["x", "y"]].abs().to_numpy().max() < 1e-6 and still["shown"].tolist() == [1.0] * 4


def test_ways_that_meet(tmp_path):
    one, two = torch.eye(16)[0], torch.eye(16)[1]
    paths = {"image": files(tmp_path, "a", torch.stack([one, one + two])), "radar": files(tmp_path, "b", torch.stack([two, one + two]))}
    table = start_comparison(paths)
    assert table["pair"].tolist() == ["image and radar"] * 2
    assert table["at start"].tolist() == pytest.approx([0.0, 0.0]) and table["learned"].tolist() == pytest.approx([1.0, 1.0])
    with pytest.raises(InputError, match="no file"):
        path_rows({}, "clip_l")
