"""A small ViT in which every operator can be written by hand, and the same with the operator inserted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import cbsurgeon as cbs

WIDTH, TOKENS, HEADS, BLOCKS, STEPS, RATE, WORLD = 16, 6, 2, 2, 20, 0.05, 2


class Block(nn.Module):
    """A transformer block; ``op`` is the operator after its MLP (in its attention, for uniform heads)."""

    def __init__(self, op: str = "") -> None:
        super().__init__()
        self.op, self.own = op, nn.Module()
        self.norm1, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        if op == "cb_s":
            self.own.scale = nn.Parameter(torch.zeros(WIDTH))
        if op == "cb_retrofit":
            self.own.register_buffer("strength", torch.tensor(0.0))
        if op == "se":
            self.own.fc1, self.own.fc2 = nn.Linear(WIDTH, 1), nn.Linear(1, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4).unbind()
        if self.op == "uniform_head":
            q = torch.cat([torch.zeros_like(q[:, :1]), q[:, 1:]], 1)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.behind(self.fc2(nn.functional.gelu(self.fc1(self.norm2(x)))))

    def behind(self, x: Tensor) -> Tensor:
        """The formulas of the paper (equation 1, section 3.2, appendix B.7, Table 3)."""
        mean = x.float().mean(1, keepdim=True).to(x.dtype)
        if self.op == "cb":
            return (x + mean) / 2
        if self.op == "cb_s":
            return x + (self.own.scale * mean).to(x.dtype)
        if self.op == "cb_gate":
            return x * (x[:, :1] + 1)
        if self.op == "cb_hybrid":
            return x * x[:, :1] + (x + mean) / 2
        if self.op == "cb_retrofit":
            return x + self.own.strength * (mean - x)
        if self.op == "se":
            return x * torch.sigmoid(self.own.fc2(torch.relu(self.own.fc1(mean))))
        return x


class Network(nn.Module):
    """Blocks on a class token and given tokens; the class token is read out."""

    def __init__(self, op: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks, self.norm = nn.ModuleList(Block(op) for _ in range(BLOCKS)), nn.LayerNorm(WIDTH)
        self.head, self.checkpointing = nn.Linear(WIDTH, 5), False

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x)
        return self.head(self.norm(x)[:, 0])


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, TOKENS, WIDTH, generator=generator), torch.randint(5, (4,), generator=generator))
        for _ in range(STEPS)
    ]


def renamed(state: dict[str, Any], op: str) -> dict[str, Any]:
    """A state dict of an edited network under the names of the one by hand."""
    return {key.replace("fc2.context_broadcast.", "own."): value for key, value in state.items()}


def pair(op: str) -> tuple[nn.Module, nn.Module]:
    """The edited network and the one by hand, with the same weights."""
    edited = cbs.insert_(Network(), op=op, layers="all", inputs=torch.zeros(2, TOKENS, WIDTH))
    written = Network(op)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, value in edited.state_dict().items():
            if "context_broadcast" in key:
                value.copy_(0.3 if key.endswith("strength") else torch.randn(value.shape, generator=generator) / 3)
    written.load_state_dict(renamed(edited.state_dict(), op), strict=True)
    return edited, written


def train(module: nn.Module, part: slice = slice(None), autocast: bool = False) -> list[float]:
    """Twenty steps of gradient descent with momentum; the losses."""
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9)
    losses = []
    for x, labels in batches():
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            loss = nn.functional.cross_entropy(module(x[part]).float(), labels[part])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def ranks(rank: int, folder: str, ops: tuple[str, ...]) -> None:
    """What each of two processes does: every operator under DDP, and under FSDP2."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'meeting'}", rank=rank, world_size=WORLD)
    part, found = slice(2 * rank, 2 * rank + 2), {}
    try:
        for op in ops:
            module = pair(op)[0]
            train(nn.parallel.DistributedDataParallel(module), part)
            sharded = pair(op)[0]
            mesh = init_device_mesh("cpu", (WORLD,))
            for block in sharded.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(sharded, mesh=mesh)
            train(sharded, part)
            whole = get_model_state_dict(sharded, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
            found[op] = {"ddp": dict(module.state_dict()), "fsdp": dict(whole)}
        if rank == 0:
            torch.save(found, Path(folder) / "found.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
