"""From a budget of MACs to the channels each convolution keeps.

Two counters, both in closed form: `macs` counts convolutions and linear layers; `macs_with_batch_norm` is what ptflops
counts with backend="aten" (it adds one operation an output of a batch norm and one a bias of a linear layer), the
write-up's counter. A budget is in the second unless asked otherwise.
"""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from helpers import models

RULES = ("uniform", "he", "marginal")
HE_RATIO = 1.5  # deep layers keep this many times the share of shallow ones (He et al. 2017, section 4.1.1)
HE_SHALLOW_BLOCKS = 3  # conv1 to conv3
MAX_ERROR = 0.999  # a layer that explains nothing would cost infinitely much

Widths = tuple[int | str, ...]
Cost = Callable[[Sequence[int]], int]  # channels of each convolution → MACs


def macs(network: models.VGG, widths: Sequence[int | str] | None = None) -> int:
    """Multiply-adds of convolutions and linear layers for one image, at the given widths; as `models.macs`."""
    return _count(network, widths or network.widths, batch_norm=False)


def macs_with_batch_norm(network: models.VGG, widths: Sequence[int | str] | None = None) -> int:
    """What ptflops counts with backend="aten" for one image: `macs`, batch-norm outputs and linear biases."""
    return _count(network, widths or network.widths, batch_norm=True)


def _count(network: models.VGG, widths: Sequence[int | str], *, batch_norm: bool) -> int:
    total, channels, side = 0, 3, network.image_size
    for width in widths:
        if width == "M":
            side //= 2
        else:
            total += side * side * width * (9 * channels + batch_norm)
            channels = width
    inputs = channels * side * side
    for outputs in (*network.hidden, network.num_classes):
        total += outputs * (inputs + batch_norm)
        inputs = outputs
    return total


def for_budget(
    network: models.VGG,
    macs_budget: int,
    *,
    rule: str = "uniform",
    multiple: int = 8,
    errors: Mapping[str, Tensor] | None = None,
    counter: Callable[[models.VGG, Sequence[int | str]], int] = macs_with_batch_norm,
) -> Widths:
    """The widths a rule gives under a budget of MACs, never above it; the hidden linear layers stay.

    Args:
        rule: "uniform", the same share of every convolution; "he", shallow layers (blocks 1 to 3) and deep ones at
            1 : 1.5, with block 5 pruned like block 4 because the budget is out of reach otherwise; "marginal", equal
            marginal reconstruction error for a MAC saved, from `errors`.
        multiple: widths are multiples of it (or a layer's full width).
        errors: for "marginal": `channels.error_curves`, convolution name → relative error at 0 … c channels.
        counter: what the budget is counted with.

    Raises ValueError when even the narrowest network is above the budget, naming its MACs.
    """
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}; got {rule!r}")
    full = [width for width in network.widths if width != "M"]
    lowest = [min(multiple, width) for width in full]

    def cost(convs: Sequence[int]) -> int:
        return counter(network, with_conv_widths(network.widths, convs))

    if cost(lowest) > macs_budget:
        raise ValueError(
            f"{macs_budget:,} MACs cannot be reached with widths in multiples of {multiple}: "
            f"the narrowest network has {cost(lowest):,}"
        )
    if cost(full) <= macs_budget:
        return network.widths
    if rule == "marginal":
        if errors is None:
            raise ValueError('the rule "marginal" needs errors: channels.error_curves(network, images)')
        curves = [_objective(errors[name]) for name in _conv_names(network)]
        convs = _marginal(full, lowest, multiple, curves, cost, macs_budget)
    else:
        shares = [1.0] * len(full) if rule == "uniform" else _he_shares(network.widths)
        convs = _scaled_to(full, lowest, shares, multiple, cost, macs_budget)
    return with_conv_widths(network.widths, convs)


def with_conv_widths(widths: Sequence[int | str], convs: Sequence[int]) -> Widths:
    """The width list with its numbers replaced in order."""
    numbers = iter(convs)
    return tuple(width if width == "M" else next(numbers) for width in widths)


def _conv_names(network: models.VGG) -> list[str]:
    return [name for name, layer in models.weight_layers(network).items() if isinstance(layer, nn.Conv2d)]


def _he_shares(widths: Sequence[int | str]) -> list[float]:
    shares, block = [], 1
    for width in widths:
        if width == "M":
            block += 1
        else:
            shares.append(1.0 if block <= HE_SHALLOW_BLOCKS else HE_RATIO)
    return shares


def _scaled_to(
    full: Sequence[int], lowest: Sequence[int], shares: Sequence[float], multiple: int, cost: Cost, budget: int
) -> list[int]:
    """The largest common ratio r, by bisection, at which rounding r · share · width (at most the width) fits the budget."""

    def rounded(ratio: float) -> list[int]:
        wanted = [min(1.0, ratio * share) * width for share, width in zip(shares, full, strict=True)]
        return [
            width if w >= width else min(width, max(low, multiple * int(w / multiple + 0.5)))
            for w, low, width in zip(wanted, lowest, full, strict=True)
        ]

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(rounded(middle)) <= budget else (low, middle)
    return rounded(low)


def _objective(errors: Tensor) -> list[float]:
    """−log(1 − e) at every count: shares of the signal multiply from layer to layer, so their logarithms add."""
    return (-(1 - errors.double().clamp(0, MAX_ERROR)).log()).tolist()


def _marginal(
    full: Sequence[int], lowest: Sequence[int], multiple: int, curves: Sequence[Sequence[float]], cost: Cost, budget: int
) -> list[int]:
    """Step by step take channels where the error grows least for a MAC saved; then give back what still fits."""
    convs = list(full)

    def step(i: int, sign: int) -> list[int] | None:
        count = convs[i] + sign * multiple
        if sign < 0 and convs[i] % multiple:
            count = convs[i] // multiple * multiple
        count = min(max(count, lowest[i]), full[i])
        return None if count == convs[i] else [*convs[:i], count, *convs[i + 1 :]]

    def price(changed: list[int], i: int) -> float:
        return (curves[i][changed[i]] - curves[i][convs[i]]) / (cost(convs) - cost(changed))

    while cost(convs) > budget:
        options = [(price(changed, i), i, changed) for i in range(len(full)) if (changed := step(i, -1))]
        convs = min(options)[2]
    while options := [
        (price(changed, i), i, changed) for i in range(len(full)) if (changed := step(i, 1)) and cost(changed) <= budget
    ]:
        convs = max(options)[2]
    return convs
