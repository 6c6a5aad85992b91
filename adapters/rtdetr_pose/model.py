"""The network: images to raw outputs per query. Learned or proposed queries, dense attention, no selection."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adapters.rtdetr_pose.blocks import FPNPAN, CSPResNet
from adapters.rtdetr_pose.config import STRIDES_PX, NetworkConfig
from adapters.rtdetr_pose.heads import IntrinsicsHead, KeypointHead, MainHead, OffsetHead, Outputs
from adapters.rtdetr_pose.proposals import ProposalHead, Proposals
from adapters.rtdetr_pose.transformer import DecoderStack, EncoderStack, position_encoding
from bench.errors import ContractError

if TYPE_CHECKING:
    from adapters.rtdetr_pose.denoise import Noised

BACKGROUND_PRIOR = 0.9
"""Share of the background in the scores of a fresh network: most queries match nothing."""


class Projector(nn.Module):
    """1x1 convolutions with bias to the width of the tokens."""

    def __init__(self, channels: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.proj = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Three (B, c, h, w) -> three (B, D, h, w)."""
        return [project(level) for project, level in zip(self.proj, levels, strict=True)]


class Encoder(nn.Module):
    """Pyramid, then attention over the cells of the token levels."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.level_embed = nn.Parameter(torch.zeros(len(STRIDES_PX), config.hidden))
        self.projector = Projector(config.stages, config.hidden)
        self.fpn = FPNPAN(config.hidden)
        self.encoder = EncoderStack(config.encoder_layers, config.hidden, config.heads, config.feedforward)
        self.token_levels = config.token_levels

    def pyramid(self, levels: list[Tensor]) -> list[Tensor]:
        """Three levels of the backbone -> three (B, D, h, w)."""
        return self.fpn(self.projector(levels))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Three levels of the pyramid -> memory (B, T, D), finest level first, each row by row."""
        parts = []
        for index in self.token_levels:
            level = pyramid[index]
            # ints, so that a traced graph holds constants: the size is static
            place = position_encoding(int(level.shape[2]), int(level.shape[3]), int(level.shape[1]), level)
            parts.append(level.flatten(2).transpose(1, 2) + (place + self.level_embed[index]))
        return self.encoder(torch.cat(parts, 1))


class Decoder(nn.Module):
    """Queries that look at each other and at the memory."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.decoder = DecoderStack(config.decoder_layers, config.hidden, config.heads, config.feedforward)

    def forward(self, queries: Tensor, memory: Tensor, blocked: Tensor | None = None) -> list[Tensor]:
        """(B, Q, D), (B, T, D) -> one (B, Q, D) per layer."""
        return self.decoder(queries, memory, blocked)


class RtDetrPose(nn.Module):
    """The network of a `NetworkConfig`.

    Args:
        config: sizes; ``base`` gives the official state dict.
        denoising: add the embeddings of noised truths (`denoise.Denoising`), which only training uses.
    """

    def __init__(self, config: NetworkConfig, *, denoising: bool = False) -> None:
        super().__init__()
        self.config = config
        self.backbone = CSPResNet(config.stem, config.stages, config.bottlenecks)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.query_embed = nn.Embedding(config.queries, config.hidden)
        self.head = MainHead(config.hidden, config.classes, log_sigma=config.log_sigma)
        self.offset_head = OffsetHead(config.hidden)
        self.k_head = IntrinsicsHead(config.hidden)
        self.keypoint_head = KeypointHead(config.hidden, config.keypoints) if config.keypoints else None
        self.proposals = ProposalHead(config) if config.proposals else None
        self.denoise: nn.Module | None = None
        if denoising:
            from adapters.rtdetr_pose.denoise import Denoising

            self.denoise = Denoising(config)
        self._initialise()

    @property
    def classes(self) -> int:
        """Foreground classes."""
        return self.config.classes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) RGB in 0..1 -> the last layer's outputs, named by ``config.output_names``.

        Raises:
            InputError: an image size that does not fit, or whose attention exceeds the limit of the config.
        """
        pyramid = self.pyramid(images)
        return tuple(self.layers(pyramid, self.propose(pyramid))[-1].named().values())

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) RGB in 0..1 -> (B, D, h, w) at strides 8, 16, 32.

        Raises:
            InputError: see ``forward``.
        """
        self.config.check_image_hw((int(images.shape[2]), int(images.shape[3])))
        return self.encoder.pyramid(self.backbone(images))

    def propose(self, pyramid: list[Tensor]) -> Proposals | None:
        """Class and box of every cell of the query grid; None where queries are learned."""
        return None if self.proposals is None else self.proposals(pyramid[self.config.query_level])

    def layers(
        self, pyramid: list[Tensor], proposals: Proposals | None = None, noised: Noised | None = None
    ) -> list[Outputs]:
        """Outputs of every decoder layer, the last one last.

        Args:
            pyramid: of the images.
            proposals: of the same; what the network's own queries start from. None where they are learned.
            noised: further queries made from the truth; they come after the network's own, which do not see them.

        Raises:
            ContractError: no proposals for a network that has them.
        """
        if (proposals is None) != (self.proposals is None):
            raise ContractError(f"rtdetr_pose {self.config.name}: give layers() what propose() says of these images")
        memory = self.encoder(pyramid)
        queries = self.query_embed.weight.expand(memory.shape[0], -1, -1)
        logits = anchors = blocked = None
        if proposals is not None and self.proposals is not None:
            logits, anchors = proposals.logits.detach(), proposals.bbox.detach()
            logits = torch.cat((logits, torch.zeros_like(logits[..., :1])), 2)  # nothing about the background
            cells = pyramid[self.config.query_level]
            queries = queries + self.proposals.at_cells(cells) + self.proposals.place(anchors)
        if noised is not None:
            queries, blocked = torch.cat((queries, noised.queries), 1), noised.blocked
            if logits is not None and anchors is not None:
                unknown = logits.new_zeros(len(logits), noised.queries.shape[1], logits.shape[2])
                logits = torch.cat((logits, unknown), 1)
                anchors = torch.cat((anchors, noised.anchors), 1)
        return [self._predict(decoded, logits, anchors) for decoded in self.decoder(queries, memory, blocked)]

    def _predict(self, decoded: Tensor, logits: Tensor | None, anchors: Tensor | None) -> Outputs:
        """Outputs of one layer, relative to class logits (B, Q, C + 1) and raw boxes (B, Q, 4) where there are any."""
        found = self.head(decoded)
        if logits is not None and anchors is not None:
            found["logits"], found["bbox"] = found["logits"] + logits, found["bbox"] + anchors
        if self.keypoint_head is not None:
            found["keypoints"] = self.keypoint_head(decoded, found["bbox"].detach() if anchors is not None else None)
        own = decoded if decoded.shape[1] == self.config.queries else decoded[:, : self.config.queries]
        return Outputs(offsets=self.offset_head(decoded), k_delta=self.k_head(own), **found)

    def _initialise(self) -> None:
        """Values to train from: rare foreground, boxes near their proposals, rotations near the identity."""
        classes = self.config.classes
        nn.init.normal_(self.encoder.level_embed, std=0.02)
        nn.init.zeros_(self.head.cls.bias)
        with torch.no_grad():
            self.head.cls.bias[classes] = math.log(BACKGROUND_PRIOR / ((1 - BACKGROUND_PRIOR) / classes))
            self.head.rot6d.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))
        if self.config.proposals:
            nn.init.normal_(self.query_embed.weight, std=0.02)
            nn.init.normal_(self.head.box.weight, std=0.01)
            nn.init.zeros_(self.head.box.bias)


def spread(network: RtDetrPose) -> None:
    """Give random weights outputs that differ between queries and images.

    With default values the scores of all queries are nearly equal, and rounding alone reorders them: nothing about a
    runtime could be seen. Uses torch's global generator.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(network.query_embed.weight, 0, 1.5 if network.proposals is None else 0.5)
    nn.init.normal_(network.encoder.level_embed, 0, 0.5)
    nn.init.normal_(network.head.cls.weight, 0, 0.25)
    nn.init.normal_(network.head.cls.bias, 0, 0.3)
    for layer in (network.head.box, network.head.rot6d, network.head.log_z, network.offset_head.offset):
        nn.init.normal_(layer.weight, 0, 0.1)
