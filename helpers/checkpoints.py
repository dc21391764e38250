"""The whole state of a training between two epochs, in one checksummed file: weights, momentum, hook, logs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from helpers import files, progress


class Hook(Protocol):
    """What a caller may do inside `fit`: prune before an epoch, hold masks after a step, survive an interruption."""

    def before_epoch(self, network: nn.Module, epoch: int) -> None: ...
    def after_step(self, network: nn.Module) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None: ...


def write(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.SGD,
    hook: Hook | None,
    recipe: Mapping,
    logs: Sequence[Mapping],
    *,
    made_with: str = "",
    made_by: Mapping[str, str] = {},
) -> None:
    """Store the state after the epochs in `logs`; `recipe` and `made_with` say what it may be continued with.

    `made_with` stands for all that decided the network before its training and is in neither the recipe nor its shapes;
    `made_by` is who made the epochs, in words.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, parameter in network.named_parameters():
        tensors[f"momentum.{name}"] = optimizer.state[parameter].get("momentum_buffer", torch.zeros_like(parameter))
    for name, tensor in (hook.state_dict() if hook else {}).items():
        tensors[f"hook.{name}"] = tensor
    described = {"recipe": json.dumps(dict(recipe)), "made_with": made_with, "logs": json.dumps(list(logs))}
    described["made_by"] = json.dumps(dict(made_by))
    files.save_tensors(path, tensors, described)


def resume(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.SGD,
    hook: Hook | None,
    recipe: Mapping,
    *,
    made_with: str = "",
    made_by: dict[str, str] = {},
) -> list[dict]:
    """Restore the state in place and return the logs of the epochs that are done.

    `made_by`, who goes on with it, becomes in place who makes all of it ("a; b"), with one line where they are others.

    A damaged file, or one of another recipe, other settings (`made_with`) or another network, is named and not used: no
    logs, nothing restored.
    """
    try:
        tensors, described = files.load_tensors(path)
        logs, before = json.loads(described["logs"]), json.loads(described.get("made_by", "{}"))
        same = json.loads(described["recipe"]) == dict(recipe) and described["made_with"] == made_with
    except KeyError as error:
        progress.say(f"{path} does not say its {error}; training starts again")
        return []
    except ValueError as error:  # files.CorruptFile is one
        progress.say(f"{error}; training starts again")
        return []
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}, "hook": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    shapes = {name: tensor.shape for name, tensor in parts["network"].items()}
    if not same or shapes != {name: tensor.shape for name, tensor in network.state_dict().items()}:
        progress.say(f"{path} belongs to another recipe, other settings or another network; training starts again")
        return []
    network.load_state_dict(parts["network"])
    for name, parameter in network.named_parameters():
        buffer = torch.empty_like(parameter)  # in the parameter's memory format, as the optimizer's own would be
        optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(parts["momentum"][name])
    if hook is not None:
        hook.load_state_dict(parts["hook"])
    together = {what: "; ".join(dict.fromkeys([*before.get(what, now).split("; "), now])) for what, now in made_by.items()}
    if others := [both for what, both in together.items() if both != made_by[what]]:
        progress.say(f"{path.name} was begun by others; the row names both: {', '.join(others)}")
    made_by.update(together)
    return logs
