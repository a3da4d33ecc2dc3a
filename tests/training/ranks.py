"""The program of each of the two processes of the distributed tests; it writes its results for the test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import cbsurgeon as cbs
from tests.training.networks import build, images

WORLD, RATE = 2, 0.1
TARGETS = torch.tensor([0, 3, 1, 4])


made: dict[str, cbs.Recipe] = {}


def edited(op: str) -> nn.Module:
    return cbs.insert_(build("vit"), made[op])


def share(rank: int) -> slice:
    """The part of the batch of four that a rank sees."""
    return slice(2 * rank, 2 * rank + 2)


def step(module: nn.Module, part: slice = slice(None)) -> dict[str, Tensor]:
    """One step of plain gradient descent; the gradients it used."""
    optimizer = torch.optim.SGD(cbs.parameter_groups(module, 0.01), lr=RATE)
    nn.functional.cross_entropy(module(images(4)[part]), TARGETS[part]).backward()
    grads = {key: value.grad.detach().clone() for key, value in module.named_parameters() if value.grad is not None}
    optimizer.step()
    return grads


def plain(state: dict[str, Any]) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in state.items()}


def run(rank: int, folder: str, recipes: dict[str, str]) -> None:
    """Everything at once, since starting two processes is the slow part; the recipes come as text, as from a file."""
    torch.set_num_threads(1)
    made.update({op: cbs.Recipe.from_json(text) for op, text in recipes.items()})
    where = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{where / 'meeting'}", rank=rank, world_size=WORLD)
    try:
        found = {"ddp": data_parallel(rank), "retrofit": schedule(rank), "fsdp": sharded(rank)}
        torch.save(found, where / f"{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


def data_parallel(rank: int) -> dict[str, Any]:
    module = edited("cb_s")
    with torch.no_grad():
        if rank == 1:  # ranks that start apart are brought together by the wrapper, new parameters too
            for parameter in module.parameters():
                parameter.add_(1.0)
    wrapped = nn.parallel.DistributedDataParallel(module)
    grads = step(wrapped, share(rank))
    return {"grads": plain(grads), "keys": list(wrapped.state_dict()), "state": module.state_dict()}


def schedule(rank: int) -> dict[str, Any]:
    """The first rank's strength is everyone's: DDP sends buffers round before each forward."""
    module = edited("cb_retrofit")
    wrapped = nn.parallel.DistributedDataParallel(module)
    strengths = []
    for strength in (0.1, 0.3, 0.5):
        if rank == 0:
            cbs.set_strength(wrapped, strength)
        wrapped(images(4)[share(rank)]).sum().backward()
        strengths.append([float(value) for key, value in module.state_dict().items() if key.endswith("strength")])
    return {"strengths": strengths}


def sharded(rank: int) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module = edited("cb_s")
    mesh = init_device_mesh("cpu", (WORLD,))
    for block in module.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    kinds = {key: type(value).__name__ for key, value in module.named_parameters() if key.endswith(".scale")}
    step(module, share(rank))
    whole = get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {"kinds": kinds, "state": whole, "late": late(module), "too_late": refusal(rank, mesh)}


def late(module: nn.Module) -> str:
    """A file takes plain tensors only."""
    try:
        cbs.save(cbs.Model(module), "never.safetensors")
    except cbs.CBSurgeonError as error:
        return str(error)
    return ""


def refusal(rank: int, mesh: Any) -> str:
    """Inserting into what is sharded already."""
    from torch.distributed.fsdp import fully_shard

    module = build("vit")
    fully_shard(module, mesh=mesh)
    try:
        cbs.insert_(module, made["cb_s"])
    except cbs.CBSurgeonError as error:
        return error.code
    return ""
