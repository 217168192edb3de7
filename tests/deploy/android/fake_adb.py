"""A stand-in for adb and one device: behaves and prints as the real ones do.

It is copied to a folder on PATH. Beside it lie `device.json` (what the device is and what shall go
wrong), `log.jsonl` (the commands it was given) and `storage/`, the device's /data/local/tmp. The
program's texts follow benchmark_model.cc, benchmark_tflite_model.cc, benchmark_litert_model.h and
litert_logging.cc; adb's follow adb_client.cpp, transport.cpp and file_sync_client.cpp.
"""

import json
import os
import re
import shlex
import shutil
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = "/data/local/tmp"
TFLITE = (
    "num_runs min_secs max_secs num_threads warmup_runs warmup_min_secs "
    "report_peak_memory_footprint graph input_layer require_full_delegation enable_op_profiling "
    "use_xnnpack xnnpack_force_fp16 use_gpu gpu_precision_loss_allowed gpu_backend help"
)
FLAGS = {
    "old": TFLITE,
    "tflite": TFLITE + " result_file_path op_profiling_output_mode xnnpack_weight_cache_file_path",
    "litert": "num_runs min_secs max_secs num_threads warmup_runs report_peak_memory_footprint "
    "graph signature_to_run_for use_cpu use_gpu use_npu require_full_delegation use_profiler "
    "gpu_backend gpu-precision result_file_path xnnpack_weight_cache_file_path",
}
PROPERTIES = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.soc.model": "Tensor G3",
    "ro.hardware": "shiba",
    "ro.build.version.release": "14",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a",
    "ro.product.cpu.abi": "arm64-v8a",
}


def main():
    arguments = sys.argv[1:]
    with open(f"{HERE}/log.jsonl", "a") as log:
        log.write(json.dumps(arguments) + "\n")
    with open(f"{HERE}/device.json") as file:
        device = json.load(file)
    if device.get("starts"):
        say(
            "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n",
            sys.stderr,
        )
    line = " ".join(arguments)
    for failure in device.get("failures", []):
        if re.search(failure["at"], line):
            time.sleep(failure.get("hang", 0))
            say(failure.get("out", ""))
            say(failure.get("err", ""), sys.stderr)
            return failure.get("code", 1)
    serial = None
    if arguments[0] == "-s":
        serial, arguments = arguments[1], arguments[2:]
    if arguments[0] == "devices":
        say(device["devices"])
        return 0
    if serial is None or f"{serial}\tdevice" not in device["devices"]:
        say(f"adb: device '{serial}' not found\n", sys.stderr)
        return 1
    if arguments[0] == "push":
        source, target = arguments[1:]
        shutil.copy(source, local(target))
        size = os.path.getsize(source)
        say(f"{source}: 1 file pushed, 0 skipped. 35.2 MB/s ({size} bytes in 0.003s)\n")
        return 0
    if arguments[0] == "pull":
        source, target = arguments[1:]
        if not os.path.exists(local(source)):
            say(
                f"adb: error: failed to stat remote object '{source}': No such file or directory\n",
                sys.stderr,
            )
            return 1
        shutil.copy(local(source), target)
        say(f"{source}: 1 file pulled, 0 skipped. 0.1 MB/s (90 bytes in 0.001s)\n")
        return 0
    assert arguments[0] == "shell", arguments
    code = 0
    for command in arguments[1].split("; "):
        code = shell(shlex.split(command), device)
    return code


def say(text, stream=sys.stdout):
    stream.write(text)
    stream.flush()


def local(path):
    assert path.startswith(ROOT + "/"), path
    return f"{HERE}/storage{path[len(ROOT) :]}"


def shell(words, device):
    if words[0] == "taskset":
        int(words[1], 16)
        words = words[2:]
    if words[0] == "getprop":
        say(device.get("properties", {}).get(words[1], PROPERTIES[words[1]]) + "\n")
    elif words[0] == "grep":
        more = device.get("features", "asimdhp asimddp")
        say(f"Features\t: fp asimd evtstrm aes crc32 atomics fphp {more} cpuid\n")
    elif words[:2] == ["mkdir", "-p"]:
        os.makedirs(local(words[2]))
    elif words[:2] == ["chmod", "755"]:
        os.chmod(local(words[2]), 0o755)
    elif words[:2] == ["rm", "-f"]:
        if os.path.exists(local(words[2])):
            os.unlink(local(words[2]))
    elif words[:2] == ["rm", "-rf"]:
        shutil.rmtree(local(words[2]), ignore_errors=True)
    elif words[0] == "pkill":
        return 1  # nothing ran
    elif words[0] == "true":
        pass
    elif words[0].endswith("/benchmark_model"):
        if not os.access(local(words[0]), os.X_OK):
            say(f"/system/bin/sh: {words[0]}: can't execute: Permission denied\n", sys.stderr)
            return 126
        return program(words, device)
    else:
        say(f"/system/bin/sh: {words[0]}: inaccessible or not found\n", sys.stderr)
        return 127
    return 0


def program(words, device):
    generation = device["generation"]
    known = FLAGS[generation].split()
    say("INFO: STARTING!\n")
    if words[1] == "--help":
        if generation == "litert":
            say("\n  NPU Vendor Flags from LiteRT:\n    --qualcomm_log_level (...)\n\n")
        lines = [f"\t--{name}=0\tint32\toptional\tsomething" for name in known]
        say(f"ERROR: usage: {words[0]} <flags>\nFlags:\n" + "\n".join(lines) + "\n\n", sys.stderr)
        if generation == "litert":
            return 0
        say("ERROR: Benchmarking failed.\n", sys.stderr)
        return 1
    flags = {}
    for word in words[1:]:
        name, value = re.fullmatch(r"--([\w-]+)=(.*)", word).groups()
        if name not in known:
            say(f"WARN: Unconsumed cmdline flags: {word}\n")
        flags[name] = value
    with open(local(flags["graph"]), "rb") as file:
        size = len(file.read()) / 1e6
    if generation == "litert":
        if flags.get("use_cpu", "true") == "true" and "require_full_delegation" in flags:
            say(
                "ERROR: Requesting full delegation and CPU acceleration are incompatible.\n"
                "Aborted\n",
                sys.stderr,
            )
            return 134
        backend = "gpu" if flags.get("use_gpu") == "true" else "xnnpack"
    elif flags.get("use_gpu") == "true":
        backend = "gpu"
    else:
        backend = "xnnpack" if flags.get("use_xnnpack") == "true" else "reference"
    say(f"INFO: Num threads: [{flags['num_threads']}]\nINFO: Graph: [{flags['graph']}]\n")
    say(f"INFO: Loaded model {flags['graph']}\n")
    # The runtime's own lines, on Android on stderr too (subgraph.cc, minimal_logging_android.cc).
    names = {"gpu": "TfLiteGpuDelegateV2", "xnnpack": "TfLiteXNNPackDelegate"}
    if generation == "litert":
        names["gpu"] = "LITERT_CL"
    said = device.get("applied", {}).get(backend, "completely")
    if backend == "gpu" and said != "completely" and flags.get("require_full_delegation") == "true":
        say("ERROR: Disallowed CPU fallback detected.\nERROR: Benchmarking failed.\n", sys.stderr)
        return 1
    if backend == "gpu" and said != "completely":
        say(
            "ERROR: Following operations are not supported by GPU delegate:\n"
            "CUMSUM: Operation is not supported.\n"
            "3 operations will run on the GPU, and the remaining 1 operations will run on the CPU."
            "\n",
            sys.stderr,
        )
    if backend != "reference" and said != "not" and generation != "old":
        count = 3 if said == "partially" else 4
        say(
            f"VERBOSE: Replacing {count} out of 4 node(s) with delegate ({names[backend]}) node, "
            "yielding 2 partitions for subgraph 0 (main).\n",
            sys.stderr,
        )
    if backend == "gpu" and said != "completely":
        say(
            "VERBOSE: Replacing 1 out of 2 node(s) with delegate (TfLiteXNNPackDelegate) node, "
            "yielding 2 partitions for subgraph 0 (main).\n",
            sys.stderr,
        )
    if generation != "litert" and backend != "reference":
        name = {"gpu": "GPU", "xnnpack": "XNNPACK"}[backend]
        if said == "not":
            text = f"Though {name} delegate is explicitly applied, the model graph will not be "
            say(f"INFO: {text}executed by the delegate.\n")
        else:
            text = f"Explicitly applied {name} delegate, and the model graph will be {said} "
            kernels = " w/ 2 delegate kernels" if said == "partially" else ""
            say(f"INFO: {text}executed by the delegate{kernels}.\n")
    say(f"INFO: The input model file size (MB): {size}\n")
    say("INFO: Initialized session in 12.345ms.\n")
    counts = device.get(
        "counts", "count=50 first=2100 curr=2000 min=1900 max=2600 avg=2050.5 std=90"
    )
    say(
        "INFO: Running benchmark for at least 5 iterations and at least 0.5 seconds but terminate "
        "if exceeding 150 seconds.\n"
    )
    say("INFO: count=200 first=9000 curr=2100 min=1990 max=9000 avg=2150 std=500\n\n")
    say(f"INFO: {counts}\n\n")
    if generation != "litert":
        say(
            "INFO: Inference timings in us: Init: 12345, First inference: 9000, Warmup (avg): 2150,"
            " Inference (avg): 2050.5\n"
        )
        say("INFO: Memory footprint delta from the start of the tool (MB): init=5.25 overall=7.5\n")
        say("INFO: Overall peak memory footprint (MB) via periodic monitoring: 9.75\n")
        if flags.get("enable_op_profiling") == "true":
            say(device["profile"])
    else:
        say(
            "INFO: \n========== BENCHMARK RESULTS ==========\n"
            "INFO: Model initialization: 12.35 ms\n"
            "INFO: Inference (avg):      2.05 ms (50 runs)\n",
            sys.stderr,
        )
        if flags.get("use_profiler") == "true":
            say("INFO: \n" + device["profile"], sys.stderr)
    if "result_file_path" in flags:
        threads = flags["num_threads"]
        content = device["results"].get(f"{backend}-{threads}", device["results"].get(backend))
        if content is not None:
            with open(local(flags["result_file_path"]), "wb") as file:
                file.write(bytes.fromhex(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
