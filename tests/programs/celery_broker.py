"""The broker of the tests with Celery: files in a folder, or the Redis that the environment names."""

import os
from pathlib import Path
from typing import Any

__all__ = ["settings"]


def settings(folder: Path) -> dict[str, Any]:
    """Return the arguments of a Celery application, for workers and for who sends them tasks."""
    for name in ("queue", "processed", "control", "results"):
        (folder / name).mkdir(exist_ok=True)
    found: dict[str, Any] = {"backend": f"file://{folder}/results"}
    redis = os.environ.get("AETHER_TEST_BROKER")
    if redis:
        options: dict[str, Any] = {"global_keyprefix": os.environ["AETHER_TEST_PREFIX"]}
        return {**found, "broker": redis, "broker_transport_options": options}
    options = {
        "data_folder_in": str(folder / "queue"),
        "data_folder_out": str(folder / "queue"),
        "processed_folder": str(folder / "processed"),
        "control_folder": str(folder / "control"),
        "store_processed": True,  # or the file is read in a folder that others use as well
    }
    return {**found, "broker": "filesystem://", "broker_transport_options": options}
