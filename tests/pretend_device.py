"""A device apart from the CPU: `pytest --device pretend` shows tensors in a wrong place.

It computes by the CPU's kernels, on copies, refuses tensors of the CPU as a GPU does, and records
graphs. What it cannot show: kernels, memory and speed of a GPU, and rounding. The code is compiled
on first use, which takes a minute and a C++ compiler.
"""

import contextlib
import types
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import cpp_extension

NAME = "pretend"


def register() -> None:
    """Compile the device and make it known to torch.

    `torch.pretend.waits()` has the number of waits for the device since the last call, by what
    waited: copies in both directions, values of tensors that Python reads, sizes that depend on
    values. `torch.pretend.starts()` has the number of kernels and of replays that the CPU started.
    """
    source = str(Path(__file__).with_suffix(".cpp"))
    extension = cpp_extension.load("pretend_device", [source], extra_cflags=["-O1"])
    module = types.ModuleType(f"torch.{NAME}")
    functions: dict[str, Any] = {
        "Stream": lambda: types.SimpleNamespace(wait_stream=lambda _: None),
        "current_device": lambda: 0,
        "current_stream": lambda: types.SimpleNamespace(wait_stream=lambda _: None),
        "device": lambda _: contextlib.nullcontext(),
        "device_count": lambda: 1,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "get_rng_state": lambda device=None: extension.get_rng_state(),
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "manual_seed": extension.manual_seed,
        "manual_seed_all": extension.manual_seed,
        "starts": extension.starts,
        "stream": contextlib.nullcontext,
        "set_rng_state": lambda state, device=None: extension.set_rng_state(state.cpu()),
        "synchronize": lambda device=None: None,
        "waits": extension.waits,
        "_is_in_bad_fork": lambda: False,
    }
    vars(module).update(functions)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, module)
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    move = nn.Module._apply

    def move_with_ties(self: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        """Keep tied weights tied, which torch does on devices of its own alone."""
        places = defaultdict(list)
        for module in self.modules():
            for name, parameter in module._parameters.items():
                places[parameter].append((module, name))
        move(self, *arguments, **options)
        for (first, name), *others in places.values():
            for module, other in others:
                module._parameters[other] = first._parameters[name]
        return self

    nn.Module._apply = move_with_ties  # type: ignore[method-assign]
