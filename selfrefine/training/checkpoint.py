"""Checkpoints to resume from: adapter, Adam's moments, the step and the best value so far; nothing pickled.

No random state needs saving: data order, dropout and samples are functions of (seed, step) or (seed, question).
A checkpoint is written into a draft folder, synced and renamed, so that it is there whole or not at all.
"""

import json
import math
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from selfrefine import ranks
from selfrefine.files import write_whole

KEPT = 2


@dataclass
class Progress:
    """How far a run is: optimizer steps done, and the lowest validation loss with the step it was seen at."""

    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None

    def improves(self, validation_loss: float) -> bool:
        """Note a validation loss; whether it is the lowest so far. NaN never is."""
        if math.isnan(validation_loss) or (self.best_loss is not None and validation_loss >= self.best_loss):
            return False
        self.best_loss, self.best_step = validation_loss, self.step
        return True


def save_checkpoint(
    folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write `folder`/checkpoints/step-N and keep the last two; all ranks have the same, the first writes it."""
    if ranks.RANK:
        return
    tensors = {}
    for name, parameter in parameters.items():
        tensors[name] = parameter.detach()
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}.{moment}"] = torch.as_tensor(value)
    root = folder / "checkpoints"
    draft = root / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    state = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    write_whole(draft / "state.safetensors", state)
    write_whole(draft / "progress.json", json.dumps(asdict(progress)).encode())
    target = root / f"step-{progress.step:08d}"
    shutil.rmtree(target, ignore_errors=True)
    os.rename(draft, target)
    descriptor = os.open(root, os.O_RDONLY)
    os.fsync(descriptor)  # the renaming too
    os.close(descriptor)
    for old in _found(folder)[KEPT:]:
        shutil.rmtree(old)


def restore(folder: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Progress:
    """Load the newest checkpoint that is whole into `parameters` and `optimizer`; a fresh Progress where none is."""
    newest = ranks.from_first(lambda: _newest(folder, parameters))
    if newest is None:
        print(f"--resume: no checkpoint in {folder}; starting afresh.")
        return Progress()
    checkpoint, tensors, progress = newest
    for name, parameter in parameters.items():
        with torch.no_grad():
            parameter.copy_(tensors[name])
        prefix = f"{name}."
        moments = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        on = {key: value if key == "step" else value.to(parameter.device) for key, value in moments.items()}
        optimizer.state[parameter] = on
    print(f"resuming after step {progress.step} from {checkpoint}")
    return progress


def _newest(folder: Path, parameters: dict[str, nn.Parameter]) -> tuple[Path, dict[str, torch.Tensor], Progress] | None:
    """The newest checkpoint that is whole and fits `parameters`, and what it holds."""
    for checkpoint in _found(folder):
        try:
            tensors = load_file(checkpoint / "state.safetensors")
            progress = Progress(**json.loads((checkpoint / "progress.json").read_text(encoding="utf-8")))
            for name, parameter in parameters.items():
                if tensors[name].shape != parameter.shape:
                    raise ValueError(f"{name} has another shape")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            print(f"warning: {checkpoint} is broken ({error}); taking the one before it.", file=sys.stderr)
        else:
            return checkpoint, tensors, progress
    return None


def _found(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted((folder / "checkpoints").glob("step-" + 8 * "[0-9]"), reverse=True)
