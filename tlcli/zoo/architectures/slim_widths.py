"""How TF-Slim rounds the channels of networks that are wider or narrower than in their paper."""

from collections.abc import Callable, Mapping

# The multipliers of published checkpoints, the common ones first.
PUBLISHED = (1.0, 0.75, 0.5, 0.25, 0.35, 1.3, 1.4)


def mobilenet_v1_width(channels: int, multiplier: float) -> int:
    """Channels of a layer of MobileNet V1 at a width: rounded down, at least 8."""
    return max(int(channels * multiplier), 8)


def mobilenet_v2_width(channels: float, multiplier: float) -> int:
    """Channels of a layer of MobileNet V2 at a width: a multiple of 8, at most a tenth below the exact one."""
    exact = channels * multiplier
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def inception_width(channels: int, multiplier: float) -> int:
    """Channels of a layer of Inception V2 and V3 at a width: rounded down, at least 16."""
    return max(int(channels * multiplier), 16)


def find_multiplier(widths: Mapping[int, int], width: Callable[[int, float], int]) -> float | None:
    """The depth multiplier of a network.

    Args:
        widths: Channels of some layers at the multiplier 1, and their channels in this network.
        width: How the network rounds.

    Returns:
        A published multiplier if one fits, else one that gives the same channels; None if none does.
    """
    ratios = [found / base for base, found in widths.items()]
    for multiplier in (*PUBLISHED, *ratios):
        if all(width(base, multiplier) == found for base, found in widths.items()):
            return multiplier
    return None
