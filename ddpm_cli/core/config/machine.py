"""What the work runs on: processes, devices, arithmetic. A run may resume on another machine."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_cli.core.config.fields import (
    Settings,
    above_zero,
    at_least_zero,
    choice,
    is_whole_number,
    setting,
    shortened,
)
from ddpm_cli.core.errors import UsageError

_MACHINE = "Machine"
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


def _parse_microbatch(text: str) -> int | None:
    if text == "auto":
        return None
    if not is_whole_number(text) or len(text) >= 20:
        raise UsageError(
            f"--microbatch {shortened(text)} should be a number of images such as 32, or auto"
        )
    return int(text)


@dataclass(frozen=True)
class MachineConfig(Settings):
    """Processes and nodes, device and precision."""

    nproc: int = setting(
        1,
        "Processes on this machine: one per GPU, or each with its share of the CPU's cores.",
        unit="processes",
        panel=_MACHINE,
        check=above_zero,
    )
    nnodes: int = setting(
        1,
        "Machines that train together, each running this command with --nproc, its own "
        "--node-rank and the same --rdzv-endpoint.",
        unit="nodes",
        panel=_MACHINE,
        check=above_zero,
    )
    node_rank: int = setting(
        0, "Rank of this machine among them, from 0.", panel=_MACHINE, check=at_least_zero
    )
    rdzv_endpoint: str | None = setting(
        None,
        "HOST:PORT of the rendezvous: an address of the machine with --node-rank 0, and a free "
        "port.",
        panel=_MACHINE,
    )
    max_restarts: int = setting(
        3,
        "How often all processes are restarted from the newest snapshot when one of several dies.",
        unit="restarts",
        panel=_MACHINE,
        check=at_least_zero,
    )
    requeue: bool = setting(
        False,
        "When stopped by a signal or for lack of time, put this SLURM job back into the queue once "
        "all is saved (scontrol requeue); Ctrl-C and SIGINT end it for good.",
        panel=_MACHINE,
        option="--requeue",
    )
    device: str = setting(
        "auto",
        "auto (a CUDA GPU if there is one), cpu, cuda or mps.",
        panel=_MACHINE,
        check=choice(*DEVICES),
    )
    precision: str = setting(
        "auto",
        "Arithmetic of the network: auto (bf16 where the GPU has it), fp32 or bf16.",
        panel=_MACHINE,
        check=choice(*PRECISIONS),
    )
    microbatch: int | None = setting(
        None,
        "Images in a forward pass of a process, or auto: its whole shard of --batch, halved until "
        "the memory estimated fits. Fewer need less memory, with the same gradient but for the "
        "masks of dropout; where the first step of one process runs out of memory, they are "
        "halved.",
        unit="images",
        panel=_MACHINE,
        default_text="auto",
        check=above_zero,
        parse=_parse_microbatch,
    )
    checkpoint_activations: bool = setting(
        False,
        "Keep only the inputs of the network's layers for the backward pass, which computes the "
        "rest again: less memory, one more forward pass in a step, the same weights.",
        panel=_MACHINE,
        option="--checkpoint-activations",
    )
    compiled: bool | None = setting(
        None,
        "Compile the network with torch.compile first, which takes a minute or two: then steps are "
        "faster, on GPUs above all. Any run may resume with or without.",
        panel=_MACHINE,
        option="--compile/--no-compile",
        default_text="on a CUDA GPU, for a training of about 20 minutes or more",
    )
    cuda_graph: bool = setting(
        False,
        "Record a whole training step as a CUDA graph, and replay it: for one process on a GPU "
        "that waits for its launches. It takes more memory.",
        panel=_MACHINE,
    )

    @property
    def processes(self) -> int:
        """Processes on all nodes together."""
        return self.nproc * self.nnodes

    def check(self) -> None:
        """Raise UsageError where the settings contradict each other."""
        if self.node_rank >= self.nnodes:
            raise UsageError(
                f"--node-rank {self.node_rank} should be less than --nnodes {self.nnodes}"
            )
        if self.nnodes == 1:
            return
        host, _, port = (self.rdzv_endpoint or "").rpartition(":")
        if not host or not is_whole_number(port) or not 0 < int(port) < 1 << 16:
            raise UsageError(
                f"--nnodes {self.nnodes} needs --rdzv-endpoint HOST:PORT, an address of the "
                "machine with --node-rank 0 such as node01:29500 (seen: "
                f"{self.rdzv_endpoint or 'none'})"
            )
