"""Processes of a run under `torchrun`: their group, the voice of the first, and restarts.

    torchrun --nproc-per-node 2 -m experiments.steer
    torchrun --nproc-per-node 2 --max-restarts 3 -m experiments.steer

All ranks run the script alike and divide draws, scores and rewards. The first rank prints and
writes. A restart by `torchrun` goes on in the run folder of the attempt before.
"""

import atexit
import faulthandler
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
)
from pathlib import Path

import torch

from experiments.shared.run_folder import RunFolder
from model.common import ranks
from model.common.exchange import RankError
from model.prior.division import divided

FOLDER = "run folder"  # key of the run folder in the store of torchrun


class Launch:
    """The launch of a script, which outlives a restart of its processes.

    Attributes:
        earlier: run folder of the attempt before; None in the first attempt.
    """

    def __init__(self, store: torch.distributed.Store | None = None) -> None:
        self._store = store
        known = store is not None and store.check([FOLDER])
        self.earlier = Path(store.get(FOLDER).decode()) if store is not None and known else None

    @contextmanager
    def folder(
        self, open_folder: Callable[[], AbstractContextManager[RunFolder]]
    ) -> Iterator[RunFolder]:
        """The run folder, which the first rank opens, and the others use as well."""
        with ExitStack() as stack:
            path = None
            with ranks.failing_together():
                if ranks.is_first():
                    path = stack.enter_context(open_folder()).path
                    if self._store is not None:
                        self._store.set(FOLDER, str(path))
            yield RunFolder(ranks.of_first(path))


def num_launched() -> int | None:
    """Number of processes that `torchrun` started; None without `torchrun`."""
    is_launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    return int(os.environ["WORLD_SIZE"]) if is_launched else None


@contextmanager
def joined(device: str | None) -> Iterator[Launch]:
    """Join the other processes of `torchrun`, and divide the work with them.

    Without `torchrun` there is one process and nothing to divide.

    Args:
        device: device of the networks; each process has a GPU of its own, unless this is the CPU.
    """
    if num_launched() is None:
        yield Launch()
        return
    faulthandler.enable(2)  # a crash of a silent rank says where
    if torch.cuda.is_available() and device != "cpu":
        _take_gpu(device)
    store = _join()
    with divided():
        yield Launch(store)
    torch.distributed.destroy_process_group()  # after an error the others may be gone


@contextmanager
def first_speaks() -> Iterator[None]:
    """Print nothing on other ranks; `torchrun` prints the error of the rank that failed first."""
    if int(os.environ.get("RANK", "0")) == 0:
        yield
        return
    errors = io.StringIO()
    warnings.simplefilter("ignore")
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(errors):
            yield
    except BaseException as error:
        if getattr(error, "code", 1):
            _record(error, errors.getvalue().strip())
        raise


@contextmanager
def ended_at_once() -> Iterator[None]:
    """End a process of `torchrun` that is done without the finalization of the interpreter.

    A thread of gloo that still frees the tensors of its last exchange aborts an interpreter that
    has begun to finalize (pytorch/pytorch#179291): a finished run would end as one that failed.
    """
    try:
        yield
    except SystemExit as end:
        if "RANK" in os.environ and not end.code:
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        raise


def _record(error: BaseException, message: str) -> None:
    """Leave an error to the summary of `torchrun`: of a refusal the message alone."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    if not message:
        get_error_handler().record_exception(error)
        return
    try:
        raise RankError(message) from None
    except RankError as refusal:
        get_error_handler().record_exception(refusal)


def _take_gpu(device: str | None) -> None:
    """Choose the GPU of this process by its number on the machine."""
    if device is not None and torch.device(device).index is not None and num_launched() != 1:
        raise SystemExit(
            f"--device {device} is one GPU, and each process needs its own: write --device cuda"
        )
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise SystemExit(
            f"--nproc-per-node is more than {number}, and this machine has {count} GPUs: start at "
            "most one process for each GPU, or add --device cpu"
        )
    torch.cuda.set_device(number)


def _join() -> torch.distributed.Store | None:
    """Initialise the process group: NCCL on GPUs, gloo on the CPU. Returns the launch's store.

    The store of `torchrun` still has the addresses of the attempt before, so that each attempt has
    a prefix of its own.
    """
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        torch.distributed.init_process_group()
        return None
    port, size = int(environment["MASTER_PORT"]), int(environment["WORLD_SIZE"])
    whole = torch.distributed.TCPStore(environment["MASTER_ADDR"], port, is_master=False)
    attempt = f"attempt {environment.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    store = torch.distributed.PrefixStore(attempt, whole)
    own = int(environment["RANK"])
    torch.distributed.init_process_group(store=store, rank=own, world_size=size)
    return torch.distributed.PrefixStore("launch", whole)
