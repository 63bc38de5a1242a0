"""Which part of a picture a place in a layer's output can depend on, followed through the graph.

Ref: Araujo, Norris & Sim 2019, "Computing Receptive Fields of Convolutional Neural Networks", Distill,
doi:10.23915/distill.00021. Nothing here knows Keras; `window.py` says what each layer reads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

Pair = tuple[float, float]
"""Along the height and the width."""


@dataclass(frozen=True)
class Window:
    """What one place of a layer's output reads of the layer's input.

    Attributes:
        kernel: How many places in a row, holes of a dilation included.
        stride: How many places the next window is further on; below 1 where the layer enlarges.
        before: By how many places the first window begins before the first place.
        is_local: Off where every place reads the whole input, as after global pooling.
        sees_all: Whether it reads something of the whole input besides, as statistics over all places are.
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    before: Pair = (0, 0)
    is_local: bool = True
    sees_all: bool = False


POINT = Window()
WHOLE = Window(is_local=False, sees_all=True)


@dataclass(frozen=True)
class Span:
    """What the first place of an output sees of the picture, pixels from its edge, and how far the next is away."""

    stride: float = 1
    first: float = 0
    last: float = 0


@dataclass(frozen=True)
class Field:
    """What each place of an output sees.

    Attributes:
        spans: Along height and width, by way of convolutions and pools; None where no place is nearer than another.
        sees_all: Whether it depends on the whole picture, be it only by way of a gate as in squeeze-and-excitation.
    """

    spans: tuple[Span, Span] | None = (Span(), Span())
    sees_all: bool = False

    @property
    def stride(self) -> Pair | None:
        """Pixels of the picture from one place to the next."""
        return self.spans and (self.spans[0].stride, self.spans[1].stride)

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of what one place sees, pixels; more than the picture has where it reaches over its edge."""
        if self.spans is None:
            return None
        height, width = (math.ceil(span.last - span.first) + 1 for span in self.spans)
        return height, width


PICTURE = Field()


def through(window: Window | None, below: Field | None) -> Field | None:
    """The field of a layer's output; None where what the layer reads, or what lies below, is not known."""
    if window is None or below is None:
        return None
    if not window.is_local or below.spans is None:
        return Field(None, sees_all=True)
    height, width = (_moved(span, window, axis) for axis, span in enumerate(below.spans))
    return Field((height, width), below.sees_all or window.sees_all)


def join(fields: Sequence[Field | None]) -> Field | None:
    """The field of what is computed from several inputs, place by place. One that sees all is a gate for the others."""
    known = [field for field in fields if field is not None]
    if not known or len(known) < len(fields):
        return None
    local = [field.spans for field in known if field.spans is not None]
    if not local:
        return known[0]
    height, width = (_around([spans[axis] for spans in local]) for axis in (0, 1))
    return replace(known[0], spans=(height, width), sees_all=any(field.sees_all for field in known))


def _moved(span: Span, window: Window, axis: int) -> Span:
    first = span.first - window.before[axis] * span.stride
    last = span.last + (window.kernel[axis] - 1 - window.before[axis]) * span.stride
    return Span(span.stride * window.stride[axis], first, last)


def _around(spans: Sequence[Span]) -> Span:
    return Span(max(span.stride for span in spans), min(span.first for span in spans), max(span.last for span in spans))
