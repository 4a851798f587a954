"""MLflow: the server or store that MLFLOW_TRACKING_URI names, or a store in the working folder."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from shlex import quote

import mlflow
from mlflow.entities import Metric, Param

from ddpm_cli.core.tracking.telling import without_secrets
from ddpm_cli.core.tracking.tracker import PROJECT, Run, unwritable

_LONGEST = 500  # characters of a parameter's value, which older servers hold
_TOGETHER = 100  # parameters in a request
_STATES = {"finished": "FINISHED", "stopped": "KILLED"}


def check() -> str:
    """What is wrong before a training starts: no folder for the store."""
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return ""
    reason = unwritable(Path("mlruns"))
    return f"{reason}: MLFLOW_TRACKING_URI should name another store" if reason else ""


def _store() -> str:
    """The URI that is set; else of a database in the working folder, or files without SQLAlchemy.

    The package mlflow-skinny brings no SQLAlchemy, and MLflow 3 wants to be told to use files.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    if importlib.util.find_spec("sqlalchemy"):
        return f"sqlite:///{Path('mlflow.db').absolute()}"
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    return Path("mlruns").absolute().as_uri()


class Record:
    """A run of an experiment. Its parameters stay those that it began with: none can change."""

    rewinds = False

    def __init__(self, run: Run) -> None:
        uri = _store()
        self._client = mlflow.MlflowClient(uri)
        allowed = "MLFLOW_ALLOW_FILE_STORE=true " if uri.startswith("file:") else ""
        public = without_secrets(uri)
        store = quote(uri) if uri == public else '"$MLFLOW_TRACKING_URI"'
        look = f"{allowed}mlflow ui --backend-store-uri {store}"
        self.where = f"in {public}; look at it with: {look}"
        if uri.startswith(("http:", "https:", "databricks")):
            self.where = f"at {public}"
        self.id = run.id or self._create(run)
        if run.id:
            self._client.update_run(self.id, "RUNNING")

    def _create(self, run: Run) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        new: str = self._client.create_run(place, run_name=run.name).info.run_id
        parameters = [Param(key, str(value)[:_LONGEST]) for key, value in run.settings.items()]
        for start in range(0, len(parameters), _TOGETHER):
            self._client.log_batch(new, params=parameters[start : start + _TOGETHER])
        return new

    def log(self, images: int, values: dict[str, float], picture: Path | None) -> None:
        """Add numbers at a step named by the images seen, and a preview as a file."""
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, images) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)
        if picture is not None:
            self._client.log_artifact(self.id, str(picture), "samples")

    def close(self, state: str) -> None:
        """Set the run's status."""
        self._client.set_terminated(self.id, _STATES.get(state, "FAILED"))
