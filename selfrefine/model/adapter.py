"""Adapter folders in PEFT's format: `adapter_config.json` + `adapter_model.safetensors`, float32.

PEFT, vLLM (its `--max-lora-rank`, 16 where it is not given, must be r at least) and others load such a folder as it is.
`selfrefine.json` beside them notes what training knew and PEFT's format has no place for: the student's fingerprint and
whether its chat template was used, and how.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from selfrefine import ranks
from selfrefine.errors import UserError
from selfrefine.files import write_json, write_whole
from selfrefine.model import LINEARS
from selfrefine.model.lora import add_lora, lora_layers, lora_parameters
from selfrefine.model.template import ChatTemplate

_PREFIX = "base_model.model."  # PEFT's own, before the bare model's path
# what PEFT's LoRA can have besides A and B with one r and α, or in part of the layers alone
_BESIDES = "use_rslora use_dora use_qalora alpha_pattern rank_pattern bias lora_bias modules_to_save layer_replication "
_BESIDES += "layers_to_transform exclude_modules trainable_token_indices target_parameters alora_invocation_tokens"
_BASE_CHANGED = ("pissa", "olora", "corda", "loftq")  # inits that need another base than the student's weights


@dataclass(frozen=True)
class AdapterSettings:
    """What is needed to use an adapter: its shape (LoRA's r, α, dropout, layers) and how its student was prompted."""

    rank: int
    alpha: float
    dropout: float
    student: str
    fingerprint: str
    chat_template: ChatTemplate | None  # None: not noted
    targets: tuple[str, ...] = LINEARS


def save_adapter(student: nn.Module, folder: Path, settings: AdapterSettings) -> None:
    """Write the adapter of `student` into `folder`; the files appear whole or not at all. All ranks have the same, the
    first writes it."""
    if ranks.RANK:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {_PREFIX + name: p.detach().cpu().contiguous() for name, p in lora_parameters(student).items()}
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": settings.student}
    config |= {"r": settings.rank, "lora_alpha": settings.alpha, "lora_dropout": settings.dropout, "bias": "none"}
    config |= {"target_modules": sorted({path.rpartition(".")[2] for path in lora_layers(student)})}
    config |= {"fan_in_fan_out": False, "inference_mode": True}
    write_whole(folder / "adapter_model.safetensors", save(tensors, metadata={"format": "pt"}))
    write_json(folder / "selfrefine.json", asdict(settings))
    write_json(folder / "adapter_config.json", config)


def read_settings(folder: Path) -> AdapterSettings:
    """The settings of an adapter folder, without its tensors.

    An adapter made by PEFT has no `selfrefine.json`: then the fingerprint is empty, and how it was prompted unknown.
    UserError where the configuration is missing, broken, or of more than a plain LoRA (rsLoRA, DoRA, patterns, biases).
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        noted = folder / "selfrefine.json"
        known = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
        extras = {name: config[name] for name in _BESIDES.split() if config.get(name) not in (None, "none", [], {})}
        unknown = [name for name, value in extras.items() if value is not False]  # 0 is a layer
        unknown += [init] if (init := str(config.get("init_lora_weights"))).startswith(_BASE_CHANGED) else []
        unknown += [kind] if (kind := config.get("peft_type", "LORA")) != "LORA" else []
        if unknown:
            raise UserError(f"{folder}: one with {', '.join(unknown)}: only plain LoRA, one r and α, is read here.")
        settings = AdapterSettings(
            rank=config["r"],
            alpha=config["lora_alpha"],
            dropout=config.get("lora_dropout", 0.0),
            student=config.get("base_model_name_or_path") or "",
            fingerprint=known.get("fingerprint", ""),
            chat_template=known.get("chat_template"),
            targets=_targets(config["target_modules"], folder),
        )
        wrong = _wrong(settings)
    except FileNotFoundError:
        raise UserError(f"{folder}: no adapter_config.json; give what train_it.py or train_dpo.py wrote.") from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError, SafetensorError) as error:
        wrong = f"{type(error).__name__} {error}"
    if wrong:
        raise UserError(f"{folder}: its adapter configuration is broken ({wrong}); train or copy it again.")
    return settings


def _targets(modules: list[str] | str, folder: Path) -> tuple[str, ...]:
    """PEFT's target_modules, names or ends of paths, in the order of a block; UserError where they are none of its
    linear layers. A pattern's ("all-linear") are those that the file has."""
    if isinstance(modules, str):
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            found = {key.rsplit(".", 3)[-3] for key in file.keys() if ".lora_" in key}  # noqa: SIM118
        modules = sorted(found) or modules
    if isinstance(modules, list):
        modules = [str(name).rpartition(".")[2] for name in modules]
    if not isinstance(modules, list) or not modules or not set(modules) <= set(LINEARS):
        raise UserError(f"{folder}: target_modules {modules!r}: only lists of {', '.join(LINEARS)} are read here.")
    return tuple(name for name in LINEARS if name in modules)


def _wrong(settings: AdapterSettings) -> str | None:
    """What in the settings of a file cannot be, if anything."""
    if type(settings.rank) is not int or not 1 <= settings.rank <= 2**16:
        return f"r is {settings.rank!r}"
    if type(settings.alpha) not in (int, float) or not 0 < settings.alpha < math.inf:
        return f"lora_alpha is {settings.alpha!r}"
    if type(settings.dropout) not in (int, float) or not 0 <= settings.dropout < 1:
        return f"lora_dropout is {settings.dropout!r}"
    if not isinstance(settings.fingerprint, str) or not isinstance(settings.chat_template, bool | dict | None):
        return "the fingerprint or chat_template of selfrefine.json"
    return None


def require_student(folder: Path, settings: AdapterSettings, fingerprint: str) -> None:
    """Raise UserError where the adapter of `folder` notes another student than the one with this fingerprint."""
    if settings.fingerprint and settings.fingerprint != fingerprint:
        raise UserError(f"{folder} was trained on another student ({settings.student}): give that one as --student.")


def load_adapter(student: nn.Module, folder: Path, fingerprint: str, *, dropout: float | None = None) -> None:
    """Put the adapter of `folder` over `student`, in place, with `dropout` in place of the stored one if given.

    UserError for another student's adapter, and for missing, unexpected, misshapen, non-finite or all-zero tensors.
    """
    settings = read_settings(folder)
    require_student(folder, settings, fingerprint)
    if settings.chat_template is None:
        print(
            f"{folder} does not note how its student was prompted: --chat-template auto takes the tokenizer's chat "
            "template where there is one, always and none choose"
        )
    dropout = settings.dropout if dropout is None else dropout
    add_lora(student, rank=settings.rank, alpha=settings.alpha, dropout=dropout, seed=0, targets=settings.targets)
    path = folder / "adapter_model.safetensors"
    try:
        stored = load_file(path)
    except (FileNotFoundError, SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); train or copy it again.") from None
    wanted = {_PREFIX + name: parameter for name, parameter in lora_parameters(student).items()}
    for name in [*wanted, *stored]:
        if name not in stored or name not in wanted:
            what = "is missing" if name in wanted else "has no place in this student"
            raise UserError(f"{path}: tensor {name} {what}: an adapter for another model, or for some layers alone.")
    for name, parameter in wanted.items():
        if stored[name].shape != parameter.shape:
            raise UserError(
                f"{path}: {name} is {tuple(stored[name].shape)}, this student needs {tuple(parameter.shape)}: "
                "it is an adapter for another model."
            )
        if not stored[name].isfinite().all() or not stored[name].any():
            raise UserError(f"{path}: {name} is all zero or not finite: the adapter was never trained or is broken.")
        with torch.no_grad():
            parameter.copy_(stored[name])
