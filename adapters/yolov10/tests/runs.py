"""Small training runs and what they leave."""

import json

import torch

SMALL = {"image_size": 64, "epochs": 2, "batch": 2, "eval_every": 1, "warmup_steps": 1, "ema_steps": 1, "threads": 1}


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def last(out):
    return torch.load(out / "last.pt", weights_only=True)


def equal(one, two):
    assert one.keys() == two.keys()
    return all(torch.equal(one[key], two[key]) for key in one)


class Cut(Exception):
    """Stands for a kill."""
