"""The building blocks of two representation modules: DocuNet's U-Net and KD-DocRE's axial-attention transformer.

Both work on the map of a document's entity pairs, head index by tail index. The layers' names are those of the released
checkpoints.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from hingeabl.errors import UserError
from hingeabl.modeling.precision import as_in_autocast


def max_over_processes(number: int, device: torch.device) -> int:
    """The largest `number` of all processes, which exchange their numbers on `device`."""
    if not dist.is_initialized():
        return number
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest.item())


def double_conv(channels: int, out_channels: int) -> nn.ModuleDict:
    """Two 3x3 convolutions, each with batch norm and ReLU."""
    layers = []
    for source in (channels, out_channels):
        layers += [nn.Conv2d(source, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.ModuleDict({"double_conv": nn.Sequential(*layers)})


class UNet(nn.Module):
    """DocuNet's U-Net over maps of entity pairs: two stages down, two up, with skip connections.

    With d channels: 3 -> d, half the size 2d, a quarter 2d, then half the size d, the full size d/2, and a 1x1
    convolution to the output's channels.
    """

    def __init__(self, channels: int, out_channels: int = 256) -> None:
        """`channels` is d."""
        super().__init__()
        self.inc = nn.ModuleDict({"conv": double_conv(3, channels)})
        self.down1 = nn.ModuleDict({"maxpool_conv": down(channels, 2 * channels)})
        self.down2 = nn.ModuleDict({"maxpool_conv": down(2 * channels, 2 * channels)})
        self.up1 = nn.ModuleDict({"conv": double_conv(4 * channels, channels)})
        self.up2 = nn.ModuleDict({"conv": double_conv(2 * channels, channels // 2)})
        self.outc = nn.ModuleDict({"conv": nn.Conv2d(channels // 2, out_channels, 1)})

    def forward(self, maps: Tensor) -> Tensor:
        """maps [documents, 3, n, n] of any n of at least 4 -> [documents, out channels, n, n]."""
        full = self.inc["conv"]["double_conv"](maps)
        half = self.down1["maxpool_conv"][1]["double_conv"](F.max_pool2d(full, 2))
        quarter = self.down2["maxpool_conv"][1]["double_conv"](F.max_pool2d(half, 2))
        half = self.up1["conv"]["double_conv"](concatenate_skip(half, quarter))
        full = self.up2["conv"]["double_conv"](concatenate_skip(full, half))
        return self.outc["conv"](full)


def down(channels: int, out_channels: int) -> nn.ModuleList:
    """A stage down; its first layer, the pooling, has no weights."""
    return nn.ModuleList([nn.Identity(), double_conv(channels, out_channels)])


def concatenate_skip(skip: Tensor, deeper: Tensor) -> Tensor:
    """[documents, channels, n, n] and a map of half the size, enlarged to n -> both, concatenated along channels.

    Enlarged by 2 with aligned corners; if n is odd, padded with a row and a column of zeros at the end.
    """
    deeper = F.interpolate(deeper, scale_factor=2, mode="bilinear", align_corners=True)
    deeper = F.pad(deeper, (0, skip.shape[3] - deeper.shape[3], 0, skip.shape[2] - deeper.shape[2]))
    return torch.cat([skip, deeper], dim=1)


class SelfAttention(nn.Module):
    """Multi-head attention along one axis of a map, without positions."""

    def __init__(self, hidden: int, heads: int) -> None:
        """Raises UserError unless `heads` divides `hidden`."""
        super().__init__()
        if hidden % heads:
            raise UserError(
                f"--backbone kd_docre: the encoder's hidden size {hidden} is not a multiple of {heads}; use another"
            )
        self.heads = heads
        self.to_q = nn.Linear(hidden, hidden, bias=False)
        self.to_kv = nn.Linear(hidden, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, hidden)

    def forward(self, rows: Tensor, log_counts: Tensor) -> Tensor:
        """rows [documents, n, n, hidden], attending along the third axis; log_counts [documents, n]: the logarithm of
        how many slots each key stands for, -inf for none."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(2, 3)  # [documents, n, heads, n, hidden / heads]
            for part in (self.to_q(rows), *self.to_kv(rows).chunk(2, dim=-1))
        )
        scores = (query * query.shape[-1] ** -0.5) @ key.mT + log_counts[:, None, None, None]
        return self.to_out((scores.softmax(dim=-1).to(value.dtype) @ value).transpose(2, 3).flatten(3))


class AxialTransformer(nn.Module):
    """KD-DocRE's axial attention: each slot of a map attends along its column and along its row, added up.

    A layer is x = norm(linear(x + attention(x))), without activation or dropout.
    """

    def __init__(self, hidden: int, layers: int, heads: int = 8) -> None:
        """Raises UserError unless `heads` divides `hidden`."""
        super().__init__()
        self.axial_attns = nn.ModuleList(
            nn.ModuleDict(
                {"axial_attentions": nn.ModuleList(nn.ModuleDict({"fn": SelfAttention(hidden, heads)}) for _ in "ht")}
            )
            for _ in range(layers)
        )
        self.ffns = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.lns = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(layers))

    def forward(self, maps: Tensor, counts: Tensor) -> Tensor:
        """maps [documents, n, n, hidden], head index first -> the same shape.

        counts [documents, n]: how many equal rows (and columns) of the whole map the one at that index stands for.
        Equal slots stay equal through every layer, so one of them is enough; the softmax counts it that often.
        """
        log_counts = counts.log()
        for attention, linear, norm in zip(self.axial_attns, self.ffns, self.lns, strict=True):
            along_heads, along_tails = (axis["fn"] for axis in attention["axial_attentions"])
            slots = as_in_autocast(maps)  # once, instead of for each query, key and value
            attended = along_heads(slots.transpose(1, 2), log_counts).transpose(1, 2) + along_tails(slots, log_counts)
            changed = linear(maps + attended)
            with torch.autocast(maps.device.type, enabled=False):  # as on GPUs, where autocast normalises in float32
                maps = norm(changed.to(norm.weight.dtype))
        return maps
