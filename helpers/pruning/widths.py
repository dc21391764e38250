"""From a budget of MACs to the channels that each convolution keeps."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from helpers import models, settings

RULES = ("uniform", "he", "marginal")
HE_RATIO, HE_SHALLOW_BLOCKS = 1.5, 3  # later blocks keep so many times the share of these first ones (He et al. 2017, 4.1.1)
MAX_ERROR = 0.999  # a layer that explains nothing would cost infinitely much

Widths = tuple[int | str, ...]


def macs_with_batch_norm(network: models.VGG, widths: Sequence[int | str] | None = None) -> int:
    """What ptflops counts with backend="aten" for one image, the original report's counter, at the given widths.

    Multiply-adds of convolutions and linear layers, one operation an output of a batch norm and one a bias of a linear layer.
    """
    total, channels, side = 0, 3, network.image_size
    for width in widths or network.widths:
        if isinstance(width, str):
            side //= 2
        else:
            total += side * side * width * (9 * channels + 1)
            channels = width
    inputs = channels * side * side
    for outputs in (*network.hidden, network.num_classes):
        total += outputs * (inputs + 1)
        inputs = outputs
    return total


def with_conv_widths(widths: Sequence[int | str], convs: Sequence[int]) -> Widths:
    """The width list with its numbers replaced in order."""
    numbers = iter(convs)
    return tuple(width if width == "M" else next(numbers) for width in widths)


def for_budget(
    network: models.VGG, macs: int, *, rule: str = "uniform", multiple: int = 8, errors: Mapping[str, Tensor] | None = None
) -> Widths:
    """The widths that a rule gives under a budget of `macs` (`macs_with_batch_norm`), never above it.

    Args:
        rule: "uniform", the same share of every convolution; "he", blocks 1 to 3 and the later ones at 1 : 1.5, block 5 pruned
            like block 4 because the budget is out of reach otherwise; "marginal", channels taken from the dense network step
            by step, always where the error grows least for a MAC saved.
        multiple: widths are multiples of it (or a layer's full width).
        errors: for "marginal": `channels.error_curves`, convolution name → relative error at 0 … c channels.

    Raises ValueError when even the narrowest network is above the budget, naming its MACs. Hidden linear layers stay.
    """
    models.require_vgg(network)
    settings.choose("rule", rule, RULES)
    if multiple < 1:
        raise ValueError(f"widths are multiples of 1 or more, not of {multiple}")
    full = [width for width in network.widths if isinstance(width, int)]
    lowest = [min(multiple, width) for width in full]

    def excess(convs: Sequence[int]) -> int:
        return macs_with_batch_norm(network, with_conv_widths(network.widths, convs)) - macs

    if excess(lowest) > 0:
        raise ValueError(
            f"{macs:,} MACs cannot be reached with widths in multiples of {multiple}: "
            f"the narrowest network has {macs + excess(lowest):,}"
        )
    if rule == "marginal":
        return with_conv_widths(network.widths, _marginal(full, lowest, multiple, _objectives(network, errors), excess))
    blocks = [network.widths[:i].count("M") for i, width in enumerate(network.widths) if width != "M"]
    shares = [HE_RATIO if rule == "he" and block >= HE_SHALLOW_BLOCKS else 1.0 for block in blocks]

    def scaled(ratio: float) -> list[int]:
        """Every width times its share and `ratio`, rounded."""
        wanted = [min(1.0, ratio * share) * width for share, width in zip(shares, full, strict=True)]
        return [
            width if w >= width else min(width, max(low, multiple * int(w / multiple + 0.5)))
            for w, low, width in zip(wanted, lowest, full, strict=True)
        ]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(scaled(middle)) <= 0 else (low, middle)
    return with_conv_widths(network.widths, scaled(low))


def _objectives(network: models.VGG, errors: Mapping[str, Tensor] | None) -> list[list[float]]:
    """−log(1 − e) at every count: shares of the signal multiply from layer to layer, so their logarithms add."""
    convs = {name: layer for name, layer in models.weight_layers(network).items() if isinstance(layer, nn.Conv2d)}
    if not errors or any(len(errors.get(name, ())) != layer.out_channels + 1 for name, layer in convs.items()):
        raise ValueError('the rule "marginal" needs the errors of this network: channels.error_curves(network, images)')
    return [(-(1 - errors[name].double().clamp(0, MAX_ERROR)).log()).tolist() for name in convs]


def _marginal(
    full: list[int], lowest: list[int], multiple: int, curves: list[list[float]], excess: Callable[[list[int]], int]
) -> list[int]:
    """Step by step take channels where the error grows least for a MAC saved; then give back what still fits."""
    convs = list(full)

    def steps(sign: int) -> list[tuple[float, int, list[int]]]:
        """(error for a MAC, layer, widths after it) of one step in each layer that can take it."""
        found = []
        for i, width in enumerate(convs):
            count = width // multiple * multiple if sign < 0 and width % multiple else width + sign * multiple
            count = min(max(count, lowest[i]), full[i])
            if count != width:
                changed = [*convs[:i], count, *convs[i + 1 :]]
                found.append(((curves[i][count] - curves[i][width]) / (excess(convs) - excess(changed)), i, changed))
        return found

    while excess(convs) > 0:
        convs = min(steps(-1))[2]
    while larger := [step for step in steps(1) if excess(step[2]) <= 0]:
        convs = max(larger)[2]
    return convs
