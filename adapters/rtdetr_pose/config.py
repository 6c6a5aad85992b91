"""What a network and its loss can be told; importing it needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bench.errors import InputError, UsageError, did_you_mean

STRIDES_PX = (8, 16, 32)
"""Of the three feature levels, finest first."""
FLOAT32_BYTES = 4
ATTENTION_COPIES = 2
"""Score matrices alive at once where a runtime does not fuse attention: before and after the softmax."""
BINS = 16
"""Of the distance from a cell's centre to a side of the box that it proposes, 0 to 15 cells (arXiv 2006.04388)."""
BOX_WIDTH = 64
"""Channels of the branch that proposes boxes."""
TRAINING_PREFIXES = ("denoise.",)
"""State-dict keys that only training needs (`denoise.Denoising`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """One network. ``base`` has the official keys; ``tiny`` is our own, for training on a CPU."""

    name: str
    """``base`` or ``tiny``; part of messages."""
    classes: int
    """Foreground classes; the background comes after them."""
    queries: int
    """Learned queries, or cells of the query grid (``query_grid`` squared)."""
    hidden: int
    """Width of the tokens."""
    heads: int
    """Attention heads."""
    feedforward: int
    """Width of the layers between two attentions."""
    encoder_layers: int
    decoder_layers: int
    stem: tuple[int, int]
    """Channels of the first two convolutions, and of the third."""
    stages: tuple[int, int, int]
    """Channels of the levels at strides 8, 16, 32."""
    bottlenecks: tuple[int, int, int]
    """Residual blocks per level."""
    token_levels: tuple[int, ...]
    """Levels whose cells become tokens; the others reach the tokens through the pyramid only."""
    proposals: bool = False
    """Queries are the cells of a square grid and start from the class and the box that their own cell tells."""
    query_level: int = 1
    """Level that lies under that grid."""
    keypoints: int = 0
    """Keypoints per object; 0 for no such head."""
    log_sigma: bool = False
    """Two more heads: log standard deviation of depth and of rotation."""
    attention_limit_mb: float = 6000.0
    """Largest attention matrix of one image, in MB of float32, that is let through (see ``check_image_hw``)."""

    def __post_init__(self) -> None:
        if self.classes < 1 or self.queries < 1:
            raise UsageError(f"network {self.name}: classes and queries must be at least 1")
        if self.hidden % self.heads or self.hidden % 4:
            raise UsageError(
                f"network {self.name}: hidden {self.hidden} must be a multiple of 4 and of heads ({self.heads})"
            )
        if self.proposals and self.query_grid**2 != self.queries:
            raise UsageError(f"network {self.name}: proposed queries must be a square number, got {self.queries}")
        if not self.token_levels or set(self.token_levels) - {0, 1, 2}:
            raise UsageError(f"network {self.name}: token_levels must name levels 0, 1, 2, got {self.token_levels}")

    @property
    def query_grid(self) -> int:
        """Cells per side of the query grid."""
        return round(self.queries**0.5)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the graph's outputs, in order."""
        keypoints = ("keypoints",) if self.keypoints else ()
        sigmas = ("log_sigma_z", "log_sigma_rot") if self.log_sigma else ()
        return ("logits", "bbox", "log_z", "rot6d", "offsets", "k_delta", *keypoints, *sigmas)

    @property
    def parameters(self) -> int:
        """Parameters at inference, batch norms folded into convolutions."""
        first, last = self.stem
        d, inner = self.hidden, self.feedforward

        def convolution(c_in: int, c_out: int, kernel: int = 1) -> int:
            return c_in * c_out * kernel**2 + c_out

        total = convolution(3, first, 3) + convolution(first, first, 3) + convolution(first, last, 3)
        for c_in, c, blocks in zip((last, *self.stages), self.stages, self.bottlenecks, strict=False):
            half = c // 2
            total += convolution(c_in, c, 3) + 2 * convolution(c, half) + convolution(2 * half, c)
            total += blocks * (convolution(half, half) + convolution(half, half, 3)) + convolution(c, d)
        deepest = self.stages[-1]
        total += convolution(deepest, deepest) + convolution(4 * deepest, deepest)
        total += len(STRIDES_PX) * (convolution(d, d) + d) + 7 * convolution(d, d, 3)
        attention, norm = 4 * convolution(d, d), 2 * d
        between = convolution(d, inner) + convolution(inner, d)
        total += self.encoder_layers * (attention + between + 2 * norm)
        total += self.decoder_layers * (2 * attention + between + 3 * norm) + self.queries * d
        if self.proposals:
            total += convolution(d, BOX_WIDTH, 3) + convolution(BOX_WIDTH, 4 * BINS)
            total += convolution(d, d, 3) + convolution(d, self.classes) + convolution(4, d) + convolution(d, d)
        outputs = self.classes + 1 + 4 + 1 + 6 + 2 + 4 + 2 * self.keypoints + 2 * self.log_sigma
        return total + convolution(d, outputs)

    def tokens(self, image_hw: tuple[int, int]) -> int:
        """Tokens of one image: the cells of every token level."""
        return sum((image_hw[0] // STRIDES_PX[k]) * (image_hw[1] // STRIDES_PX[k]) for k in self.token_levels)

    def attention_mb(self, image_hw: tuple[int, int]) -> float:
        """Size in MB of the largest attention of one image where a runtime writes it out in float32.

        Tokens grow with the square of the side, pairs of tokens with its fourth power. torch and other runtimes with a
        fused attention need far less, but the exported graph runs everywhere, so the bound is the one without fusion.
        """
        tokens = self.tokens(image_hw)
        keys = tokens if self.encoder_layers else 0
        pairs = max(tokens * keys, self.queries * tokens, self.queries**2)
        return ATTENTION_COPIES * self.heads * pairs * FLOAT32_BYTES / 1e6

    def largest_side_px(self) -> int:
        """Largest square image within the limit."""
        side = STRIDES_PX[-1]
        while self.attention_mb((side + STRIDES_PX[-1],) * 2) <= self.attention_limit_mb:
            side += STRIDES_PX[-1]
        return side

    def check_image_hw(self, image_hw: tuple[int, int]) -> None:
        """Refuse an image size before anything is computed.

        Raises:
            InputError: a side that is not a multiple of 32, or attention above ``attention_limit_mb``.
        """
        height, width = image_hw
        stride = STRIDES_PX[-1]
        if min(height, width) < stride or height % stride or width % stride:
            raise InputError(
                f"rtdetr_pose {self.name}: image {height}x{width} px: both sides must be multiples of {stride}, "
                f"at least {stride}"
            )
        needed = self.attention_mb(image_hw)
        if needed > self.attention_limit_mb:
            tokens = self.tokens(image_hw)
            raise InputError(
                f"rtdetr_pose {self.name}: image {height}x{width} px gives {tokens} tokens, whose attention needs "
                f"about {needed:.0f} MB per image (it grows with the fourth power of the side); the limit is "
                f"{self.attention_limit_mb:.0f} MB. Use at most {self.largest_side_px()} px, a config with fewer "
                "tokens (tiny), or raise attention_limit_mb"
            )


_BASE = NetworkConfig(
    name="base",
    classes=80,
    queries=300,
    hidden=256,
    heads=8,
    feedforward=1024,
    encoder_layers=1,
    decoder_layers=3,
    stem=(32, 64),
    stages=(64, 128, 256),
    bottlenecks=(1, 2, 2),
    token_levels=(0, 1, 2),
)
_TINY = NetworkConfig(
    name="tiny",
    classes=8,
    queries=400,
    hidden=96,
    heads=4,
    feedforward=256,
    encoder_layers=1,
    decoder_layers=1,
    stem=(16, 32),
    stages=(64, 128, 256),
    bottlenecks=(1, 2, 2),
    token_levels=(2,),
    proposals=True,
    keypoints=17,
)
NETWORKS: Mapping[str, NetworkConfig] = {"base": _BASE, "tiny": _TINY}


def config_of(shapes: Mapping[str, tuple[int, ...]], source: str) -> NetworkConfig:
    """Return the config that a state dict belongs to, from its shapes.

    Args:
        shapes: key -> shape, under official names.
        source: where they came from, for the error message.

    Raises:
        InputError: no rtdetr_pose state dict, or one of no known config.
    """
    bias, embedding = shapes.get("head.cls.bias"), shapes.get("query_embed.weight")
    if bias is None or embedding is None:
        absent = "head.cls.bias" if bias is None else "query_embed.weight"
        raise InputError(f"{source} have no entry {absent}: not an rtdetr_pose state dict under official names")
    for config in NETWORKS.values():
        if embedding == (config.queries, config.hidden):
            points = shapes.get("keypoint_head.keypoints.bias", (0,))[0] // 2
            sigma = "head.log_sigma_z.bias" in shapes
            return replace(config, classes=bias[0] - 1, keypoints=points, log_sigma=sigma)
    known = ", ".join(f"{c.name} {c.queries} of {c.hidden}" for c in NETWORKS.values())
    raise InputError(f"{source} have {embedding[0]} queries of width {embedding[-1]}: no known config ({known})")


def network_config(name: str, *, classes: int | None = None) -> NetworkConfig:
    """Return a config by name, with another number of classes when given.

    Raises:
        UsageError: unknown name.
    """
    if name not in NETWORKS:
        raise UsageError(f"rtdetr_pose has no network {name!r}.{did_you_mean(name, NETWORKS)}")
    config = NETWORKS[name]
    return config if classes is None else replace(config, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """Weights of one loss; a weight of 0 switches the part off."""

    recipe: str
    """``original`` or ``default``; part of messages and records."""
    match_class: float = 1.0
    """Matching: of minus the log of the class probability."""
    match_box: float = 5.0
    """Matching: of the L1 distance of boxes (cx cy w h, shares of the image)."""
    match_giou: float = 0.0
    """Matching: of 1 - generalised IoU."""
    classes: float = 1.0
    """Cross entropy over classes and background."""
    background: float = 1.0
    """Weight of queries without an object in that cross entropy; 1 lets them drown the others."""
    soft_classes: bool = False
    """A matched query is to be as sure as its box is right (its IoU), and the cross entropy is a sum per object."""
    focal_gamma: float = 0.0
    """Focusing exponent of that cross entropy."""
    box: float = 1.0
    """L1 of boxes, summed over cx cy w h."""
    giou: float = 0.0
    """1 - generalised IoU."""
    log_z: float = 1.0
    """L1 of the log depth."""
    rotation: float = 1.0
    """Geodesic angle in radians, up to the symmetry of the class."""
    offsets: float = 1.0
    """L1 from box centre to object centre, in box sizes."""
    k_delta: float = 1.0
    """L1 of the camera correction; its truth is 0 where the camera is known."""
    translation: float = 0.1
    """L1 between the translations that depth, centre and camera give."""
    translation_relative: bool = False
    """Divide that by the true depth, so that far objects do not outweigh the rest."""
    keypoints: float = 0.0
    """L1 of keypoints, in roots of the box area."""
    auxiliary: float = 0.0
    """Weight of the same loss on every earlier decoder layer."""
    proposals: float = 1.0
    """Weight of the loss of the proposals, of a network that has them."""
    proposals_top_k: int = 10
    """Cells that each object teaches there."""
    decoder_gradient: float = 1.0
    """Share of the decoder's gradient that reaches the features of a network with proposals."""
    denoising_groups: int = 0
    """Groups of noised truths that the decoder must restore (arXiv 2203.01305); needs a network built for it."""
    denoising_box: float = 0.4
    """Their box noise, share of half the size."""
    denoising_label: float = 0.2
    """Their share of random labels."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not isinstance(value, str) and not value >= 0:
                raise UsageError(f"loss option {name} must be 0 or more, got {value}")


LOSSES: Mapping[str, LossConfig] = {
    "original": LossConfig(recipe="original"),
    "default": LossConfig(
        recipe="default",
        match_giou=2.0,
        background=0.1,
        box=5.0,
        giou=2.0,
        log_z=0.1,
        rotation=0.1,
        offsets=0.1,
        k_delta=0.1,
        translation=0.02,
        translation_relative=True,
        keypoints=0.1,
        auxiliary=1.0,
        denoising_groups=3,
    ),
}
"""``original`` is the upstream recipe: background at full weight, no GIoU, last layer only, no denoising.

With learned queries ``default`` keeps the background at a tenth and restores noised truths. Queries that start from
proposals need neither: their scores and boxes are near from the start.
"""
_PROPOSED = replace(
    LOSSES["default"],
    background=1.0,
    soft_classes=True,
    denoising_groups=0,
    decoder_gradient=0.1,
    rotation=1.0,
    offsets=1.0,
    keypoints=1.0,
)
"""``default`` of a network with proposals."""


def loss_config(recipe: str, *, proposals: bool = False) -> LossConfig:
    """Return a loss by the name of its recipe, for a network with or without proposals.

    Raises:
        UsageError: unknown name.
    """
    if recipe not in LOSSES:
        raise UsageError(f"rtdetr_pose has no recipe {recipe!r}.{did_you_mean(recipe, LOSSES)}")
    return _PROPOSED if proposals and recipe == "default" else LOSSES[recipe]
