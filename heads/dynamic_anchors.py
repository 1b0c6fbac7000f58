"""Moments by anchors that move: the decoder of QD-DETR (Moon et al., 2023) and CG-DETR (Moon et al., 2023).

It is DAB-DETR's (Liu et al., 2022) in one dimension. A query is a content x, 0 at first, and an anchor a = (centre,
width), learned. In every layer the queries talk, look at the clips and feed forward, normalised after each:

    place = perceptron(sines(a))
    aim   = sines(a) * scale(x) * sigmoid(width(x)) / a_width       scale(x) is 1 in the first layer
    talk:   attention of x among themselves, with the places projected and added to queries and keys
    look:   queries [Wq x; Wa aim], keys [Wk clip; Wp place of clip], head by head, and in the first layer alone the
            places are also added to the left halves
    a     = sigmoid(logit(a) + move(x)), and the next layer looks from there, without a gradient
    span  = sigmoid(logit(a) + refine(norm(x))), with the anchor that the layer looked from

So where a query looks is learned by how well it judges, and where it moves by the span that the next layer says. `move`
and `refine` are two perceptrons; all layers share them. DAB-DETR starts `move` at 0. The originals mean to, and then
draw its last matrix anew with all the others (Xavier), as is done here.

Dimensions: B sequences, T clips, Q queries, D hidden, H heads, E = D / H.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .moment import MomentOutput, perceptron

EPSILON = 1e-3  # shares below it count as it, in a logit


class DropPath(nn.Dropout):
    """Stochastic depth (Huang et al., 2016), CG-DETR's: a sequence's whole branch [Q, D] is dropped or kept."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout2d(x[:, None], self.p, self.training)[:, 0]


def sines(x: Tensor, width: int) -> Tensor:
    """Shares [...] in [0, 1] -> [..., width]: sines and cosines in turn, wavelengths from 1 to 10000. DETR's."""
    channel = torch.arange(width, device=x.device)
    angle = 2 * math.pi * x[..., None] / 10000.0 ** (2 * (channel // 2) / width)
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The originals': in x < EPSILON it is not quite the logit of EPSILON, and has a gradient."""
    return (x.clamp(min=EPSILON) / (1 - x).clamp(min=EPSILON)).log()


def span_perceptron(hidden: int) -> nn.Sequential:
    """[..., D] -> [..., 2], three layers."""
    return nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), *perceptron(hidden, hidden, 2))


def verdict(hidden: int, iou_head: bool) -> nn.Linear:
    """[..., D] -> the class logit (, the IoU's). It stands for the difference of two classes' logits: so it starts."""
    linear, two = nn.Linear(hidden, 2 if iou_head else 1), nn.Linear(hidden, 2)
    with torch.no_grad():
        linear.weight[0] = two.weight[0] - two.weight[1]
        linear.bias[0] = two.bias[0] - two.bias[1]
    return linear


def read_off(judge: nn.Module, x: Tensor, spans: Tensor) -> MomentOutput:
    """What a layer says: its queries x [B, Q, D] judged (class logit, then the IoU's if there is one), and spans."""
    class_logits, *iou_logits = judge(x).unbind(-1)
    return MomentOutput(class_logits, spans, iou_logits[0] if iou_logits else None)


class AnchorLayer(nn.Module):
    """Talk, look, feed forward."""

    def __init__(self, hidden: int, heads: int, ffn: int, dropout: float, first: bool, drop_path: bool) -> None:
        super().__init__()
        self.heads, self.weight_dropout, self.first = heads, dropout, first

        def linears(*names: str) -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in names})

        self.talk = linears("query", "query_place", "key", "key_place", "value", "out")
        self.look = linears("query", *["query_place"] * first, "aim", "key", "key_place", "value", "out")
        for attention in (self.talk, self.look):
            nn.init.zeros_(attention["out"].get_parameter("bias"))
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden, ffn), nn.PReLU(), nn.Dropout(dropout), nn.Linear(ffn, hidden)
        )
        self.norm_talk, self.norm_look, self.norm_feed = (nn.LayerNorm(hidden) for _ in range(3))
        self.dropout = DropPath(dropout) if drop_path else nn.Dropout(dropout)

    def forward(self, x: Tensor, place: Tensor, aim: Tensor, clips: Tensor, clip_place: Tensor, seen: Tensor) -> Tensor:
        """x, place, aim [B, Q, D]; clips, clip_place [B, T, D]; seen bool [B, 1, 1, T] -> [B, Q, D]."""
        talk, look = self.talk, self.look
        q = self._split(talk["query"](x) + talk["query_place"](place))  # [B, H, Q, E]
        k = self._split(talk["key"](x) + talk["key_place"](place))
        x = self.norm_talk(x + self.dropout(talk["out"](self._attend(q, k, self._split(talk["value"](x))))))

        query, key, key_place = look["query"](x), look["key"](clips), look["key_place"](clip_place)
        if self.first:
            query, key = query + look["query_place"](place), key + key_place
        q = torch.cat([self._split(query), self._split(look["aim"](aim))], -1)  # [B, H, Q, 2 E]
        k = torch.cat([self._split(key), self._split(key_place)], -1)  # [B, H, T, 2 E]
        x = self.norm_look(x + self.dropout(look["out"](self._attend(q, k, self._split(look["value"](clips)), seen))))
        return self.norm_feed(x + self.dropout(self.feed_forward(x)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
        drop = self.weight_dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, seen, dropout_p=drop).transpose(1, 2).flatten(2)


class DynamicAnchorsHead(nn.Module):
    """Fused clips -> Q candidate moments. The originals have no IoU head; `iou_head` adds one."""

    def __init__(
        self,
        hidden: int = 256,
        queries: int = 10,
        layers: int = 2,
        heads: int = 8,
        dropout: float = 0.1,
        iou_head: bool = False,
        ffn: int | None = None,
        drop_path: bool = False,
    ) -> None:
        """drop_path: whether residual branches are dropped as a whole, as CG-DETR has it, or number by number.

        ffn: width of the feed-forward networks; None: four times hidden, as the originals' are.
        """
        super().__init__()
        if hidden % heads or hidden % 4:
            raise ValueError(f"expected a hidden width divisible by 4 and by {heads} heads, got {hidden}")
        if queries < 1 or layers < 1:
            raise ValueError(f"expected at least 1 query and 1 layer, got {queries} and {layers}")
        self.layers = nn.ModuleList(
            AnchorLayer(hidden, heads, ffn or 4 * hidden, dropout, number == 0, drop_path) for number in range(layers)
        )
        self.place, self.width = perceptron(hidden, hidden, hidden), perceptron(hidden, hidden, 1)
        if layers > 1:  # else there is no next anchor
            self.scale, self.move = perceptron(hidden, hidden, hidden), span_perceptron(hidden)
            nn.init.zeros_(self.move[-1].get_parameter("bias"))
        self.norm = nn.LayerNorm(hidden)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.anchors = nn.Parameter(torch.randn(queries, 2))
        self.refine, self.judge = span_perceptron(hidden), verdict(hidden, iou_head)

    def forward(
        self,
        clips: Tensor,
        mask: Tensor,
        positions: Tensor,
        words: Tensor | None = None,
        word_mask: Tensor | None = None,
        places: Tensor | None = None,
        saliency: Tensor | None = None,
    ) -> MomentOutput:
        """clips [B, T, D]; mask bool [B, T], True = valid; positions [B, T]: the centre of each clip's time as a share.

        places [B, T, D]: the clips' encoding in the fusion; else it is made of positions. Words are for other heads.
        """
        clips = clips.masked_fill(~mask[..., None], 0)
        places = sines(positions, clips.shape[-1]) if places is None else places
        places = places.masked_fill(~mask[..., None], 0).to(clips.dtype)
        seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]  # a row without clips sees padding: no NaN
        anchor = self.anchors.sigmoid().expand(len(clips), -1, -1)  # [B, Q, 2]
        x = clips.new_zeros(*anchor.shape[:2], clips.shape[-1])
        outputs: list[MomentOutput] = []
        looked_from = anchor
        for number, layer in enumerate(self.layers):
            sine = sines(anchor, x.shape[-1] // 2).flatten(2)  # [B, Q, D]
            aim = sine * (self.scale(x) if number else 1) * (self.width(x).sigmoid() / anchor[..., 1:])
            x = layer(x, self.place(sine), aim, clips, places, seen)
            y = self.norm(x)
            outputs.append(read_off(self.judge, y, (self.refine(y) + inverse_sigmoid(looked_from)).sigmoid()))
            if number + 1 < len(self.layers):
                looked_from = (self.move(x) + inverse_sigmoid(anchor)).sigmoid()
                anchor = looked_from.detach()
        *auxiliary, final = outputs
        final.auxiliary = auxiliary
        return final
