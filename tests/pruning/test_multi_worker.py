"""Two processes on this machine that train one model together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from training import small_model

from tfcompress.pruning.masks import zeros_for

HERE = Path(__file__).parent


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.parametrize("way, criterion", [("fit", "magnitude"), ("loop", "taylor")])
def test_two_workers_end_with_the_same_exact_zeros(way, criterion, tmp_path):
    workers = [f"localhost:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(config),
            "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path]),
        }
        command = [sys.executable, HERE / "worker_run.py", way, criterion, f"{index}.npz"]
        log = (tmp_path / f"{index}.log").open("w")
        processes.append(
            subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        )
    try:
        for index, process in enumerate(processes):
            assert process.wait(timeout=300) == 0, (tmp_path / f"{index}.log").read_text()[-3000:]
    finally:
        for process in processes:
            process.kill()
    first, second = (np.load(tmp_path / f"{index}.npz") for index in range(2))
    shapes = [layer.kernel.shape for layer in small_model().layers]
    assert len(first.files) == len(shapes)
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name])
        assert (first[name] == 0).sum() == zeros_for(0.75, first[name].size)
