"""One run in several processes, which torchrun started, on one machine or on several.

Each process, a *rank*, holds the whole student. Rows, prompts and questions are dealt over the ranks; sums of gradients
and gathered values make each rank know what one process would, so that all take the same step to the bit. The first
rank alone speaks and writes. CPUs talk by gloo; between GPUs NCCL carries the gradients, and gloo all else, for its
sockets tell at once that a process is gone. With one process there is no group, and nothing here does anything.
"""

import glob
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from selfrefine.errors import RunError
from selfrefine.files import write_whole

T = TypeVar("T")

STARTED = "RANK" in os.environ and "WORLD_SIZE" in os.environ  # by torchrun, which sets these
RANK, COUNT = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if STARTED else (0, 1)
LOCAL_RANK, LOCAL_COUNT = (int(os.environ.get(f"LOCAL_{name}", 0)) for name in ("RANK", "WORLD_SIZE"))
RESTARTED = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # torchrun has started the run again
PATIENCE = timedelta(days=1)  # a rank whose answers are short waits for one whose are long
SEED_STRIDE = 104_729  # between the seeds of ranks


def join() -> None:
    """Meet the other ranks."""
    global RESTARTED
    if COUNT > 1:
        from torch import distributed

        with _others():
            distributed.init_process_group("gloo", store=_store(), rank=RANK, world_size=COUNT, timeout=PATIENCE)
        RESTARTED = any(gathered(RESTARTED))  # each machine counts for itself


def leave() -> None:
    """Part from the others where all is done."""
    if COUNT > 1:
        from torch import distributed

        distributed.destroy_process_group()


def mine(items: Sequence[T], block: int = 1) -> list[T]:
    """This rank's of `items`: blocks of so many neighbours are dealt in turn."""
    return [item for place, item in enumerate(items) if place // block % COUNT == RANK]


def share(indices: Iterable[int], widths: Sequence[int]) -> list[int]:
    """This rank's of a step's indices: of the widest first, a run of neighbours with its part of all tokens, so that no
    rank waits long for another and each one's micro-batches are full. Where rows are few, it may have none."""
    if COUNT == 1:
        return list(indices)
    order = sorted(indices, key=lambda index: -widths[index])
    own, before, total = [], 0, sum(widths[index] for index in order)
    for index in order:
        middle = before + widths[index] / 2
        if int(COUNT * middle / total) == RANK:
            own.append(index)
        before += widths[index]
    return own


def own_seed(seed: int) -> int:
    """A seed for what each rank draws by itself, dropout's masks; the first rank's is the one process's."""
    return seed + SEED_STRIDE * RANK


def sum_gradients(parameters: Iterable) -> None:
    """Make each parameter's gradient the sum over all ranks, in one flat float32 bucket; the same bits on each rank."""
    if COUNT == 1:
        return
    import torch
    from torch import distributed

    parameters = list(parameters)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    bucket = torch.cat([gradient.flatten() for gradient in gradients])
    if bucket.is_cuda:
        torch.cuda.synchronize()
        gathered(None)  # all are here: NCCL would wait for a rank that is not
    with _others():
        distributed.all_reduce(bucket, group=_gpus() if bucket.is_cuda else None)
    for parameter, summed in zip(parameters, bucket.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = summed.view_as(parameter)


def gathered(value: T) -> list[T]:
    """Each rank's value, in their order; it also waits for all."""
    values = [value] * COUNT
    if COUNT > 1:
        from torch import distributed

        with _others():
            distributed.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first rank, the only one to call it."""
    made = [make() if RANK == 0 else None]
    if COUNT > 1:
        from torch import distributed

        with _others():
            distributed.broadcast_object_list(made)
    return made[0]


def own(path: Path) -> Path:
    """Where this rank appends what goes into the file `path` in the end: the first rank there, others beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)  # the first rank's may be another machine's
    return path.with_name(f"{path.stem}.rank{RANK}{path.suffix}") if RANK else path


def parts(path: Path) -> list[Path]:
    """What there is of a file that ranks append to, however many they were."""
    others = sorted(path.parent.glob(f"{glob.escape(path.stem)}.rank*{path.suffix}"))
    return [path, *others] if path.exists() else others


def put_together(path: Path, lines: Iterable[str], *, always: bool = False) -> None:
    """Write all ranks' `lines` whole in place of the parts of `path`, where it has more than one, or `always`."""
    if RANK == 0 and (always or COUNT > 1 or parts(path) != [path]):
        write_whole(path, "".join(lines).encode())
    gathered(None)  # only what is written may go
    for part in parts(path):
        if part != path:
            part.unlink(missing_ok=True)


@contextmanager
def one_voice() -> Iterator[None]:
    """Only the first rank prints and shows progress."""
    if RANK == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def first_end(code: int) -> int | None:
    """Note that this rank ends with `code`. The code of the rank that ended before it, and said why; None where there
    is none."""
    if COUNT == 1:
        return None
    try:
        ended = _store().compare_set("ended", "", f"{RANK} {code}").decode().split()
    except RuntimeError:  # whoever kept the note is gone too
        return None
    return None if int(ended[0]) == RANK else int(ended[1])


@cache
def _store():
    """What torchrun keeps for the ranks, also when one of them is gone; under a name of this start's own, for what
    earlier starts wrote is still there. The first rank makes the name; others take it once they are heard."""
    from torch import distributed

    store, _, _ = next(distributed.rendezvous("env://"))
    name = own = uuid4().hex
    if RANK == 0:
        store.set("start", name)
        store.set(f"{name} heard", b" ".join(store.get(f"{name} {rank}") for rank in range(1, COUNT)))
    while RANK and not (store.check([f"{name} heard"]) and own.encode() in store.get(f"{name} heard")):
        name = store.get("start").decode()
        store.set(f"{name} {RANK}", own)
        time.sleep(0.05)
    return distributed.PrefixStore(name, store)


@cache
def _gpus():
    """The GPUs' group. All ranks begin to use it together, so it need not wait longer than for the transfer."""
    from torch import distributed

    return distributed.new_group(backend="nccl", timeout=timedelta(minutes=1))


@contextmanager
def _others() -> Iterator[None]:
    """Around what all ranks do together: RunError where one is gone."""
    try:
        yield
    except RuntimeError as error:
        told = re.sub(r"^\[.*?\] ", "", str(error)).splitlines()[0].split(". ")[0]
        raise RunError(
            f"another process of this run is gone ({told}): what was written is kept, the last checkpoint too; the "
            "same command goes on from there, training with --resume."
        ) from None
