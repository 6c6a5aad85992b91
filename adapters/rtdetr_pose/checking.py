"""A network's config file beside the network that the weights really have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from adapters.rtdetr_pose.config import NetworkConfig, network_config
from bench.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from bench.types import ModelSpec

ALIASES = {
    "num_classes": "classes",
    "num_queries": "queries",
    "hidden_dim": "hidden",
    "d_model": "hidden",
    "nhead": "heads",
    "num_heads": "heads",
    "dim_feedforward": "feedforward",
    "ffn_dim": "feedforward",
    "num_encoder_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "num_keypoints": "keypoints",
    "config": "name",
    "network": "name",
}
"""Word of other config files -> field of `NetworkConfig`."""
SECTION = "model"
_NOT_OF_WEIGHTS = ("attention_limit_mb",)


def check_config(network: NetworkConfig, spec: ModelSpec, config: Mapping[str, Any], where: str) -> None:
    """Compare the settings of a config file with a network; what stands in its section ``model`` counts as well.

    Words of training and of data are not read.

    Args:
        network: of the weights.
        spec: its classes and input size.
        config: content of the file.
        where: the file, for messages.

    Raises:
        InputError: settings that differ, all of them; or no setting of a network at all.
    """
    section = config.get(SECTION)
    stated = {**config, **(section if isinstance(section, Mapping) else {})}
    known = {field.name for field in fields(NetworkConfig)} - set(_NOT_OF_WEIGHTS)
    found = {ALIASES.get(word, word): (word, value) for word, value in stated.items()}
    wanted = {name: pair for name, pair in found.items() if name in known}
    sizes = {word: stated[word] for word in ("image_size", "imgsz", "image_hw") if word in stated}
    names = stated.get("class_names")
    if not wanted and not sizes and names is None:
        near = did_you_mean(next(iter(stated), ""), {*known, *ALIASES})
        raise InputError(f"{where}: states no setting of an rtdetr_pose network.{near}")
    if isinstance(wanted.get("name", ("", ""))[1], str) and "name" in wanted:
        network_config(wanted["name"][1])  # an unknown name is told with the nearest
    wrong = []
    for name, (word, value) in wanted.items():
        have = _plain(getattr(network, name))
        if _plain(value) != have:
            wrong.append(f"{word} {value}, the weights have {have}")
    for word, value in sizes.items():
        size = [value, value] if isinstance(value, int) else _plain(value)
        if size != list(spec.image_hw):
            wrong.append(f"{word} {value}, the weights are for {list(spec.image_hw)}")
    if names is not None and _plain(names) != list(spec.class_names):
        wrong.append(f"class_names {names!r:.60}, the weights have {', '.join(spec.class_names)!r:.60}")
    if wrong:
        raise InputError(f"{where} is the config of another network: {'; '.join(wrong)}. Give the checkpoint's own.")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
