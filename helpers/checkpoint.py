"""All that a training carries from one epoch to the next, and its file: an interrupted training goes on bit for bit."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from helpers import files, progress


@dataclass(frozen=True)
class EpochLog:
    """One epoch: the loss and accuracy of the (augmented) training batches as they came, validation after it."""

    epoch: int
    lr: float
    train_loss: float
    train_top1_pct: float
    val_top1_pct: float | None
    seconds: float


class Hook(Protocol):
    """What a caller may do inside `fit`: prune before an epoch, hold masks after a step, survive an interruption."""

    def before_epoch(self, network: nn.Module, epoch: int) -> None: ...
    def after_step(self, network: nn.Module) -> None: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the state back; KeyError, ValueError or TypeError when it is not one of this network's."""


@dataclass(frozen=True)
class State:
    """All that a training carries from one epoch to the next, and its checkpoint: one checksummed file."""

    network: nn.Module
    optimizer: torch.optim.SGD
    hook: Hook | None
    recipe: dict
    made_with: str
    made_by: dict[str, str]

    def write(self, path: Path, logs: Sequence[EpochLog]) -> None:
        """Store the state after the epochs in `logs`."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            tensors[f"momentum.{name}"] = self.optimizer.state[parameter].get("momentum_buffer", torch.zeros_like(parameter))
        tensors |= {f"hook.{name}": tensor for name, tensor in (self.hook.state_dict() if self.hook else {}).items()}
        described = {"recipe": self.recipe, "logs": [asdict(log) for log in logs], "made_by": self.made_by}
        files.save_tensors(path, tensors, {k: json.dumps(v) for k, v in described.items()} | {"made_with": self.made_with})

    def resume(self, path: Path) -> list[EpochLog]:
        """Restore the state in place and return the logs of the epochs that are done.

        A damaged file, or one of another recipe, other settings (`made_with`) or another network, is named and not used.
        """
        try:
            tensors, described = files.load_tensors(path)
            logs = [EpochLog(**log) for log in json.loads(described["logs"])]
            parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}, "hook": {}}
            for name, tensor in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = tensor
            shapes = {name: tensor.shape for name, tensor in parts["network"].items()}
            same = json.loads(described["recipe"]) == self.recipe and described["made_with"] == self.made_with
            if not same or shapes != {name: tensor.shape for name, tensor in self.network.state_dict().items()}:
                raise ValueError("it belongs to another recipe, other settings or another network")
            made_by = json.loads(described["made_by"])
            if self.hook is not None:
                self.hook.load_state_dict(parts["hook"])
            self._complete(made_by, path.name)
        except (KeyError, TypeError, ValueError) as error:  # files.CorruptFile is one
            progress.say(f"{path} is not continued from ({error}); training starts again")
            return []
        self.network.load_state_dict(parts["network"])
        for name, parameter in self.network.named_parameters():
            buffer = torch.empty_like(parameter)  # in the parameter's memory format, as the optimizer's own would be
            self.optimizer.state[parameter]["momentum_buffer"] = buffer.copy_(parts["momentum"][name])
        return logs

    def _complete(self, before: Mapping[str, str], name: str) -> None:
        """Put those who made the epochs so far before those who go on."""
        for what, now in self.made_by.items():
            both = "; ".join(dict.fromkeys([*before.get(what, now).split("; "), now]))
            if both != now:
                self.made_by[what] = both
                progress.say(f"{name} was begun by others; the result names both: {both}")
