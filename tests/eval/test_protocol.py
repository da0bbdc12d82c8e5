"""The authors' protocol: decoded results, joined again, masks of objects themselves, and what guidance does."""

import json

import numpy as np
import pytest
from PIL import Image

from eval.coco import Coco
from eval.grids import grids
from eval.neglect import neglect
from eval.rows import read_rows, write_rows
from eval.runs import MANIFEST, Run
from eval.summary import summarise
from hdpainter.blend import blend
from hdpainter.explain import explain
from hdpainter.files import file_sha256
from hdpainter.masks import shrink
from hdpainter.prompts import token_indices
from ldm.util import UserError
from tests.eval.fake_run import fake_run, write_scores
from tests.eval.running import made


def test_decoded_is_stage_1_as_it_is_and_joined_is_what_the_method_would_have_made(
    write_config, painter, tiny_pipeline
):
    methods = {
        "decoded": {"method": "painta", "steps": 2, "known_region": "decoded"},
        "exact": {"method": "painta", "steps": 2},
        "joined": {"kind": "joined", "of": "decoded"},
        "blended": {"kind": "joined", "of": "decoded", "known_region": "blended"},
    }
    path = write_config(methods, model=str(tiny_pipeline), batch_size=6)
    run, _ = made(path, limit=2)
    for i in range(2):
        image, mask = run.image(i), run.mask(i)
        decoded, exact, joined, blended = (run.result(name, i) for name in methods)
        assert np.array_equal(joined, exact) and np.array_equal(exact[~mask], image[~mask])
        assert np.mean(decoded[~mask] != image[~mask]) > 0.5
        assert np.array_equal(blended, blend(image, decoded, mask, "blended"))
    seeds = [row["seed"] for row in run.manifest("decoded").values()]
    prompts = [run.triplets[i].prompt for i in range(2)]
    images, masks = ([getattr(run, kind)(i) for i in range(2)] for kind in ("image", "mask"))
    plain = painter(images, masks, prompts, method="painta", steps=2, seed=seeds, size=64, superres=False)
    for i, result in enumerate(plain):
        assert np.array_equal(run.result("decoded", i), np.array(result.low_res))
    assert made(path, limit=2)[0].manifest("joined") == run.manifest("joined")
    path_of, rows = run.result_path("decoded", 1), run.manifest("decoded")
    Image.fromarray(255 - decoded).save(path_of)
    rows[1]["sha256"] = file_sha256(path_of)
    (run.folder("decoded") / MANIFEST).write_text("".join(f"{json.dumps(row)}\n" for row in rows.values()))
    again, _ = made(path, limit=2)
    assert np.array_equal(again.result("joined", 0), run.result("exact", 0))
    assert np.array_equal(again.result("joined", 1), blend(image, 255 - decoded, mask, "exact")), (
        "joined again"
    )


def test_what_is_joined_stands_before(write_config):
    for of in ("later", "nothing"):
        methods = {"joined": {"kind": "joined", "of": of}, "later": {"kind": "mean"}}
        with pytest.raises(
            UserError, match=f"joined is made from '{of}', which is no method that stands before it"
        ):
            made(write_config(methods))


def test_levels_without_attention_are_told_before_a_model_is_loaded(write_config, tiny_pipeline, monkeypatch):
    monkeypatch.setattr("eval.models.ModelCache.get", lambda *_: pytest.fail("loaded a model"))
    for method, key in (("painta", "painta_levels"), ("rasg", "rasg_levels")):
        path = write_config({"mean": {"kind": "mean"}, method: {key: [3]}}, model=str(tiny_pipeline))
        with pytest.raises(UserError, match="no cross-attention at downsampling factor 3, only at"):
            made(path)


def test_what_guidance_does_is_noted(write_config, tiny_pipeline, painter, tmp_path):
    """S is Eq. 9 along the way, by its plain formula, whatever the method; strong guidance lowers it."""
    plain = tmp_path / "plain.yaml"
    plain.write_text("sampler: {steps: 4}")
    methods = {
        "plain": {"method": str(plain)},
        "strong": {"method": "hd-painter-printed", "steps": 4, "eta": 1},
        "weak": {"method": "rasg", "steps": 4},
    }
    run, _ = made(write_config(methods, model=str(tiny_pipeline), batch_size=3), limit=3)
    noted = {name: run.numbers_noted(name) for name in methods}
    for index in range(3):
        sample = run.triplets[index]
        seed = run.manifest("plain")[index]["seed"]
        picture, mask = run.image(index), run.mask(index)
        explained = explain(painter, picture, mask, sample.prompt, [plain], frames=1, seed=seed, size=64)
        trace = explained.methods["plain"].trace
        words = len(token_indices(sample.prompt))
        fill = shrink(mask, (8, 8), "nearest")
        expected = np.mean(trace.objectives["bce"]) / (4 * 4 * words)
        assert noted["plain"]["S"][index] == pytest.approx(expected, abs=2e-5)
        assert noted["plain"]["spread"][index] == pytest.approx(trace.pred_x0[-1][:, fill].std(), rel=1e-3)
        assert noted["strong"]["S"][index] < noted["plain"]["S"][index]
        assert noted["strong"]["spread"][index] > noted["plain"]["spread"][index]
    found = summarise(run, repeats=100).means["strong", "S"]
    assert found.value == pytest.approx(noted["strong"]["S"][:3].mean())


def test_precise_masks_are_the_objects_own(write_config, toy_root):
    hull, _ = made(write_config({"mean": {"kind": "mean"}}), limit=6)
    hulls = [hull.mask(i) for i in range(6)]
    with pytest.raises(UserError, match=r"was made with another config \(mask .*\); give another --out"):
        made(write_config({"mean": {"kind": "mean"}}, benchmark={"mask": "precise"}))
    path = write_config(
        {"mean": {"kind": "mean"}}, benchmark={"mask": "precise"}, out=str(toy_root.parent / "run")
    )
    run, _ = made(path, limit=6)
    assert [t.annotation_id for t in run.triplets] == [t.annotation_id for t in hull.triplets]
    assert run.info["benchmark"]["mask"] == "precise"
    for i, inside in enumerate(hulls):
        mask = run.mask(i)
        assert not (mask & ~inside).any() and run.triplets[i].mask_share == pytest.approx(mask.mean())
        annotation = Coco(toy_root, "val")._coco.anns[run.triplets[i].annotation_id]
        union = np.zeros(mask.shape, bool)
        for polygon in annotation["segmentation"]:
            x, y = np.clip(np.reshape(polygon, (-1, 2)).astype(int), 0, 63).T
            union[y, x] = True
        assert mask[union].all()
    assert sum(inside.sum() for inside in hulls) > sum(run.mask(i).sum() for i in range(6))


def test_failed_fills_are_counted_by_what_they_show(tmp_path):
    run = fake_run(tmp_path / "run", 8, prompts=["kite"], metrics=["clip"])
    rows = [  # found; another object of the picture; nothing; too faint; something else; another, of an old run
        (1, "kite", 0.9),
        (0, "cat", 0.9),
        (0, None, None),
        (0, "cat", 0.2),
        (0, "clock", 0.31),
        (0, "cat", 0.4),
    ]
    table = read_rows(run.path / "triplets.csv", [])
    for i, row in enumerate(table):
        row |= {"category": "boat", "labels": "boat;cat" if i < 5 else "boat"}
    write_rows(run.path / "triplets.csv", list(table[0]), table)
    run = Run.open(run.path)
    columns = ("acc", "best_label", "best_score")
    for name in ("painta", "original"):
        scores = [{"index": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows)]
        write_scores(run, name, "accuracy", scores if name == "painta" else scores[:1])
    counts = neglect(run, ["painta"], range(8))
    assert counts == {"nearby object": 1, "background": 2, "other": 2}
    assert neglect(run, ["painta"], range(8), 0.1)["background"] == 1
    assert neglect(run, ["painta", "painta"], range(2)) == {"nearby object": 2}
    assert neglect(run, ["hd-painter"], range(8)) is None
    (grid,) = [grid for grid in grids(summarise(run, repeats=100)) if grid.key == "neglect"]
    assert grid.head == ("method", "failed", "nearby object", "background", "other")
    cells = {row[0]: row[1:] for section in grid.sections for row in section.rows}
    assert cells["only PAIntA"] == ("5", "1 (20%)", "2 (40%)", "2 (40%)")
    assert cells["original image"] == ("0", "0", "0", "0") and cells["HD-Painter"] == ("–",) * 4


def test_a_picture_s_labels_are_in_the_list_of_samples(write_config, toy_root):
    run, _ = made(write_config({"mean": {"kind": "mean"}}))
    coco = Coco(toy_root, "val")
    for sample in run.triplets:
        labels = sample.labels.split(";")
        assert sample.category in labels and labels == coco.labels(sample.image_id)
