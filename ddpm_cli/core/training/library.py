"""Training from Python: in this process, without signal handlers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ddpm_cli.core.config.machine import MachineConfig
from ddpm_cli.core.config.request import TrainingRequest
from ddpm_cli.core.config.run import RunConfig
from ddpm_cli.core.data.sources import Source
from ddpm_cli.core.runtime.elastic import stopping
from ddpm_cli.core.runtime.reporting import Log, Reporter, Warned
from ddpm_cli.core.training import session
from ddpm_cli.core.training.preparation import advice, distilling
from ddpm_cli.core.training.preparation.planning import (
    TrainingPlan,
    plan_on_source,
    plan_training,
)
from ddpm_cli.core.training.preparation.preflight import preflight


def train_on_source(
    config: RunConfig,
    source: Source,
    request: TrainingRequest,
    machine: MachineConfig,
    reporter: Reporter,
) -> Path:
    """Train on images given as an object; the run directory, which `request.out` names."""
    assert request.out is not None, "a library writes where it is told to"
    out = request.out
    planned = lambda _: plan_on_source(  # noqa: E731
        config, source, out, request.size, request.data
    )
    return _train(request, machine, reporter, planned)


def distil(
    request: TrainingRequest, source: Source | None, machine: MachineConfig, reporter: Reporter
) -> Path:
    """Train a student, on images given as an object or those that the request names; its run."""
    request = distilling.with_student(request)
    planned = lambda device: plan_training(request, reporter, device, source)  # noqa: E731
    return _train(request, machine, reporter, planned)


def _train(
    request: TrainingRequest,
    machine: MachineConfig,
    reporter: Reporter,
    planned: Callable[[str], TrainingPlan],
) -> Path:
    """Train as planned for a type of device; the run directory."""
    execution = session.execution_on(machine, reporter)
    device = execution.device.type
    plan = preflight(request, 1, execution, reporter, lambda: planned(device))
    for hint in advice.of_source(plan.source, plan.captions, plan.config):
        reporter.say(Warned(f"Warning: {hint.line}"))
    session.train(plan, request, execution, Log(reporter), stopping.StopRequest())
    return plan.out
