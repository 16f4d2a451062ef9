"""Loading a causal LM without ever holding it in 16 bits: built on the meta device, filled from its safetensors.

Each block linear is quantised as it arrives (NF4, double quantisation); embeddings, norms and the head stay in the
compute dtype. transformers' own 4-bit loader would need accelerate.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers import PreTrainedModel as Student
from transformers import PreTrainedTokenizerBase as Tokenizer

from selfrefine.errors import UserError
from selfrefine.model.lora import NF4Linear

# dense models whose checkpoint keys are their parameter names and whose logits are the plain head's
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_SAFELY = {"local_files_only": True, "trust_remote_code": False}


def find(name: str) -> Path:
    """The local folder of a model: a folder, or a Hub id (its files are downloaded)."""
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"{name}: there is no such folder; give a model's folder or a Hub id.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "tokenizer*"]))
    except GatedRepoError:
        why = "is gated: accept its licence on its Hub page and set HF_TOKEN, or give a local folder"
    except (RepositoryNotFoundError, HFValidationError):
        why = "is neither a folder here nor a model on the Hub; check the name"
    except Exception as error:
        why = f"could not be had from the Hub ({type(error).__name__}): check the network, or give a local folder"
    raise UserError(f"{name} {why}.")


def read_config(folder: Path, *, any_family: bool = False):
    """The model's configuration; unless `any_family`, refuses those whose loss here would be silently wrong."""
    try:
        config = AutoConfig.from_pretrained(folder, **_SAFELY)
    except Exception as error:
        raise UserError(f"{folder}: no model configuration that transformers can read ({_line(error)}).") from None
    if config.model_type not in FAMILIES and not any_family:
        raise UserError(
            f"{folder}: a {config.model_type} model cannot be loaded in 4 bits here: its family is not one of "
            f"{', '.join(FAMILIES)}; as a teacher it can answer through a server."
        )
    return config


def context(config) -> int:
    """Tokens that a prompt and its response may have; within a sliding window (Mistral), attention is the plain one."""
    positions = getattr(config, "max_position_embeddings", None) or math.inf  # some families have no limit
    return min(positions, getattr(config, "sliding_window", None) or math.inf)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The model's own tokenizer; nothing is added to it."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **_SAFELY)
    except Exception as error:
        raise UserError(f"{folder}: no tokenizer that transformers can read ({_line(error)}).") from None
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: its tokenizer has no end-of-sequence token, so no answer could ever end.")
    return tokenizer


def load_student(
    folder: Path, device: torch.device, dtype: torch.dtype, *, gradient_checkpointing: bool = False
) -> Student:
    """The frozen model in eval mode on `device`: block linears in NF4, all else in `dtype`.

    Raises UserError where a tensor is missing, unexpected, of another shape or unreadable.
    """
    student = build(read_config(folder), _tensors(folder, device), device, dtype, str(folder))
    if (folder / "generation_config.json").exists():
        student.generation_config = GenerationConfig.from_pretrained(folder)
    if gradient_checkpointing:
        student.activation_checkpointing_enable({"use_reentrant": False})
    return student


def build(
    config, tensors: Iterable[tuple[str, torch.Tensor]], device: torch.device, dtype: torch.dtype, name: str
) -> Student:
    """A frozen model filled tensor by tensor, each block linear quantised as it arrives; `name` is for complaints."""
    config.attention_dropout = 0.0  # the adapters' own dropout is the only one
    with torch.device("meta"):
        student = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    head = student.get_output_embeddings()
    blocks = {path for path, module in student.named_modules() if isinstance(module, nn.Linear) and module is not head}
    wanted = {path: parameter.shape for path, parameter in student.named_parameters(remove_duplicate=False)}
    tied = set(student.all_tied_weights_keys)
    found: set[str] = set()
    biases: dict[str, torch.Tensor] = {}

    for key, tensor in tensors:
        if key.endswith("rotary_emb.inv_freq"):  # old Llama checkpoints carry it; it follows from the config
            continue
        if key not in wanted or tensor.shape != wanted[key]:
            raise UserError(
                f"{name}: tensor {key} {tuple(tensor.shape)} does not fit this {config.model_type} model; only "
                "dense models whose checkpoint keys are their parameter names can be loaded in 4 bits."
            )
        found.add(key)
        path, _, kind = key.rpartition(".")
        if path in blocks and kind == "bias":
            biases[path] = tensor
        elif path in blocks:
            student.set_submodule(path, NF4Linear(tensor, None, dtype, device))
        elif key not in tied:
            setattr(student.get_submodule(path), kind, nn.Parameter(tensor.to(device, dtype), requires_grad=False))
    missing = sorted(set(wanted) - found - tied)
    if missing:
        raise UserError(f"{name}: {len(missing)} tensors are missing, the first is {missing[0]}.")
    for path, bias in biases.items():
        student.get_submodule(path).bias = nn.Parameter(bias.to(device, dtype), requires_grad=False)

    student.model.rotary_emb = type(student.model.rotary_emb)(config).to(device)  # its buffers are in no file
    student.tie_weights()
    student.requires_grad_(False)
    return student.eval()


def additive(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to attention's scores, of the shape of `visible` (bool): 0 where a token is seen, else the least
    number, which is as good as −∞ and makes no NaN of a padding row that sees nothing."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, torch.finfo(dtype).min)


def load_unquantised(folder: Path, device: torch.device, dtype: torch.dtype) -> Student:
    """A model of any family in `dtype`, as transformers loads it: for teachers and baselines, never to be trained.

    Raises UserError where it cannot be loaded, or where its logits are not its head's of its hidden states (they are
    scaled or capped), which is what sampling takes.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **_SAFELY)
    except Exception as error:
        raise UserError(f"{folder}: transformers cannot load this model ({_line(error)}).") from None
    model = model.to(device).eval()
    with torch.inference_mode():
        ids, positions = torch.tensor([[1, 2, 3]], device=device), torch.tensor([[0, 1, 2]], device=device)
        causal = additive(torch.ones(1, 1, 3, 3, dtype=torch.bool, device=device).tril(), dtype)
        try:
            plain = model.base_model(input_ids=ids).last_hidden_state
            alike = torch.equal(model.get_output_embeddings()(plain), model(input_ids=ids).logits)
            masked = model.base_model(input_ids=ids, attention_mask=causal, position_ids=positions).last_hidden_state
            alike = alike and torch.allclose(masked, plain, rtol=0.05, atol=0.05)
        except Exception:  # whatever its code makes of arguments that it does not know
            alike = False
    if not alike:
        kind = model.config.model_type
        raise UserError(f"{folder}: a {kind} is not sampled right here: serve it, and ask it as a teacher by --server.")
    return model


def fingerprint(folder: Path) -> str:
    """SHA-256 over every tensor's name, shape, dtype and first row: tells models apart in well under a second."""
    rows = {}
    for shard in _shards(folder):
        with _opened(shard, "cpu") as tensors:
            for name in tensors.keys():  # noqa: SIM118, the handle is not a dict
                part = tensors.get_slice(name)
                row = part[:1] if part.get_shape() else tensors.get_tensor(name)
                content = row.reshape(-1).view(torch.uint8).numpy().tobytes()
                rows[name] = f"{name} {part.get_shape()} {part.get_dtype()}".encode() + content
    return hashlib.sha256(b"".join(row for _, row in sorted(rows.items()))).hexdigest()


def _tensors(folder: Path, device: torch.device) -> Iterator[tuple[str, torch.Tensor]]:
    shards = _shards(folder)
    with tqdm(total=sum(shard.stat().st_size for shard in shards), desc="loading", unit="B", unit_scale=True) as bar:
        for shard in shards:
            with _opened(shard, str(device)) as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    tensor = tensors.get_tensor(name)
                    yield name, tensor
                    bar.update(tensor.nbytes)


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a model, in the order of their names; an index cannot lead outside the folder."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index} is not an index of safetensors shards: download the model again.") from None
    else:
        names = ["model.safetensors"]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index} names a shard outside its folder: {name!r}; do not use this model.")
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing: the model needs its weights in safetensors.")
    return [folder / name for name in names]


def _opened(shard: Path, device: str):
    try:
        return safe_open(shard, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{shard} cannot be read ({_line(error)}): download it again.") from None


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
