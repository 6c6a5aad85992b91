"""rtdetr_pose on the shared engine: its options, its truth, and runs that repeat."""

import dataclasses
import hashlib
import json

import pytest
import torch

from adapters._shared.training.recipe import run
from adapters.rtdetr_pose import adapter
from adapters.rtdetr_pose.train import (
    PoseTrainConfig,
    RtDetrPoseRecipe,
    keypoint_names,
    mirrored,
    symmetries,
    two_sided,
)
from bench.errors import InputError, UsageError
from bench.fixtures import resolve
from bench.registry import load_adapter

SMALL = {
    "fixtures": "shapes",
    "image_size": 64,
    "max_images": 8,
    "epochs": 1,
    "batch": 4,
    "eval_every": 1,
    "warmup_steps": 1,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def restore_threads_and_random_state():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def train(out, **options):
    return run(RtDetrPoseRecipe(adapter), {**SMALL, **options}, out)


def line(out):
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.mark.slow
def test_two_deterministic_runs_give_the_same_checkpoint(tmp_path):
    hashes = []
    for name in ("one", "two"):
        best = train(tmp_path / name, deterministic=True, seed=7, export=False)
        weights = torch.load(best, weights_only=True)["model"]
        hashes.append({k: hashlib.sha256(v.numpy().tobytes()).hexdigest() for k, v in weights.items()})
    assert hashes[0] == hashes[1]


def test_a_run_learns_boxes_and_every_pose_term_and_its_weights_load(tmp_path):
    best = train(tmp_path / "run")
    found = line(tmp_path / "run")
    wanted = {"box", "giou", "classes", "rotation", "log_z", "offsets", "keypoints", "translation", "proposals"}
    assert wanted <= set(found)
    assert all(found[name] > 0 for name in ("box", "rotation", "log_z", "keypoints"))
    fitted = load_adapter(f"rtdetr_pose::{best}")
    assert fitted.spec.image_hw == (64, 64)
    fitted.build(best)


def test_the_original_recipe_has_neither_giou_nor_auxiliary_losses(tmp_path):
    train(tmp_path / "run", recipe="original", export=False)
    assert not {"giou", "auxiliary", "keypoints", "denoising"} & set(line(tmp_path / "run"))


def test_an_unknown_recipe_or_network_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'original'"):
        train(tmp_path / "run", recipe="orginal")
    with pytest.raises(UsageError, match="Did you mean 'tiny'"):
        train(tmp_path / "run", network="tinny")
    with pytest.raises(UsageError, match="Did you mean 'recipe'"):
        PoseTrainConfig.parse({"recpie": "default"})


def test_the_set_says_symmetries_and_keypoints(tmp_path):
    shapes = resolve("shapes", split="val").take(1)
    orders = symmetries(shapes, adapter.spec.class_names)
    assert orders == tuple(c["symmetry"] for c in shapes.categories)
    whole = resolve("shapes", split="val")
    seen = dict(zip(adapter.spec.class_names, two_sided(whole, adapter.spec.class_names), strict=True))
    assert seen == {**dict.fromkeys(adapter.spec.class_names, False), "quadruped": True}
    names = keypoint_names(shapes)
    assert len(names) == 17
    swap = mirrored(names)
    assert [names[k] for k in swap] == [
        n.replace("L_", "#").replace("R_", "L_").replace("#", "R_") if n[:2] in ("L_", "R_") else n for n in names
    ]
    assert mirrored(()) is None
    other = {**shapes.categories[0], "keypoints": ["tip"]}
    with pytest.raises(InputError, match="2 different lists of keypoints"):
        keypoint_names(dataclasses.replace(shapes, categories=(other, *shapes.categories[1:])))
