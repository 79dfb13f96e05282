"""Ray: a session on this machine or in a cluster."""

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from ..base.errors import MissingDependencyError, UserError

OBJECTS = 80 * 2**20  # bytes that Ray sets aside for results, of which ours are a number each
REACHED_WITHIN = 10.0  # seconds
# Read by Ray when it is imported and when it starts: nothing is reported to its makers, its lines about dead workers
# do not go to our standard output, and a worker without a GPU of its own sees what the machine has.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_SCHEDULER_EVENTS": "0",
}


@contextlib.contextmanager
def session(address: str | None, workers: int | None) -> Iterator[Any]:
    """The module ray, connected. address: of a cluster to which this machine belongs; None starts one for this run, on
    this machine alone, that ends with it. Raises Missing without the package, ValueError where no cluster answers.
    """
    if address and address.startswith("ray://"):
        raise UserError(
            f"{address} is for Ray's client; run this on a machine of the cluster, with --ray auto"
        )
    fresh = {} if address else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with _environment(QUIET | fresh), _same_signals():
        ray = _imported()
        how: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address:
            _connect(ray, address, how)
        else:
            how |= {"include_dashboard": False, "object_store_memory": OBJECTS}
            ray.init("local", num_cpus=max(workers or 1, os.cpu_count() or 1), **how)
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported():
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("batch needs ray; get it with: pip install 'holdfast[batch]'") from error
    return ray


def _connect(ray, address: str, how: dict[str, Any]) -> None:
    try:
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), REACHED_WITHIN).close()  # Ray asks for ever
        ray.init(address, **how)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(
            f"no Ray cluster can be joined at {address} ({said}); "
            "start one with: ray start --head, and run this on one of its machines"
        ) from error


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """These variables for the block; what the user has set stays."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _same_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself; it is to stop a batch as Ctrl-C does."""
    ours = threading.current_thread() is threading.main_thread()  # the only one that may say
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if ours and before is not None:
            signal.signal(signal.SIGTERM, before)
