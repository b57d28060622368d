# SPDX-License-Identifier: Apache-2.0
"""DRL Post-Fusion (section III-B1): view and map pass through separate streams; a head fuses their last features."""

from torch import Tensor, nn

from geoloc_models.backbones.cvt import CvtStream
from geoloc_models.backbones.timm_backbone import TimmStream
from geoloc_models.drl.heads import Enlarge
from geoloc_models.drl.necks import queries_per_map

Stream = CvtStream | TimmStream
"""Image (B, 3, H, W), RGB in 0..1 -> pyramid, finest level first; has `channels` and `multiple_px`."""


class PostFusion(nn.Module):
    """Query views (B, 3, h, w) and maps (B, 3, H, W), RGB 0..255 -> logits (B, 1, H_out, W_out).

    Nodes lie as in Mix-Fusion. K B views on B maps give K B results, and one view on B maps gives B. Map features
    depend on no view and vice versa, so both can be cached.
    """

    def __init__(
        self,
        query_backbone: Stream,
        map_backbone: Stream | None,
        query_neck: nn.Module,
        map_neck: nn.Module,
        head: nn.Module,
        enlarge: Enlarge | None = None,
    ) -> None:
        """map_backbone: None if the query's serves both (weight sharing; the necks never share). head: maps
        (template, map features) to logits. enlarge: how to enlarge the logits, or not at all.
        """
        super().__init__()
        self.query_backbone = query_backbone
        self.map_backbone = map_backbone
        self.multiple_px = query_backbone.multiple_px
        self.query_neck = query_neck
        self.map_neck = map_neck
        self.head = head
        self.enlarge = enlarge

    def encode_query(self, z: Tensor) -> Tensor:
        """Template (B, C, h', w') of views, for any number of maps."""
        template: Tensor = self.query_neck(self.query_backbone(z.float() / 255.0))
        return template

    def forward_map(self, template: Tensor, x: Tensor) -> Tensor:
        """Logits of maps given templates."""
        if template.shape[0] == 1:
            template = template.expand(x.shape[0], -1, -1, -1)
        else:
            queries_per_map(template.shape[0], x.shape[0])
        backbone = self.query_backbone if self.map_backbone is None else self.map_backbone
        logits: Tensor = self.head(template, self.map_neck(backbone(x.float() / 255.0)))
        return logits if self.enlarge is None else self.enlarge(logits, x.shape[-2:])

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.forward_map(self.encode_query(z), x)
