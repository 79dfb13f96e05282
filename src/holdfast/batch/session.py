"""Connections to Ray: a session on this machine, or a cluster."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from ..base.errors import MissingDependencyError, UserError, install_remedy

OBJECT_STORE_BYTES = 80 * 2**20  # Ray's store for results; ours are a few numbers each
CONNECT_TIMEOUT = 10.0  # seconds
# Ray reads these when it is imported and when it starts: it sends no usage statistics, prints no messages about dead
# workers to our standard output, and does not hide the GPUs from a worker that reserves none.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
}


@contextlib.contextmanager
def connect_ray(address: str | None, workers: int | None) -> Iterator[Any]:
    """Connect to Ray for the block and yield its module.

    address: of a cluster that this machine belongs to; None starts a session on this machine that ends with the block.
    Raise MissingDependencyError without the package, UserError if no cluster answers.
    """
    if address and address.startswith("ray://"):
        raise UserError(
            f"{address} is an address for Ray's client",
            "run this on a machine of the cluster, with --ray auto",
        )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _set_environment(ENVIRONMENT | ({} if address else token)), _preserve_sigterm():
        ray = _import_ray()
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address:
            _join_cluster(ray, address, options)
        else:
            options |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
            ray.init("local", num_cpus=max(workers or 1, os.cpu_count() or 1), **options)
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("batch needs ray", install_remedy("batch")) from error
    return ray


def _join_cluster(ray: Any, address: str, options: dict[str, Any]) -> None:
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            # Ray itself would retry for ever.
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT).close()
        ray.init(address, **options)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"no Ray cluster can be joined at {address} ({reason})",
            "start one with: ray start --head, and run this on one of its machines",
        ) from error


@contextlib.contextmanager
def _set_environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the block. Variables that the user has set are unchanged."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _preserve_sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces: the signal must stop a batch as Ctrl-C does."""
    is_main_thread = threading.current_thread() is threading.main_thread()  # others must not set it
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main_thread and before is not None:
            signal.signal(signal.SIGTERM, before)
