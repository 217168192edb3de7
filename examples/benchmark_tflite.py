"""Benchmark `.tflite` files from a script: which one is fastest here, and by how much?

    python examples/benchmark_tflite.py float.tflite int8.tflite [--threads 1,2] [--out report.json]

Needs only NumPy and a runtime (ai-edge-litert or tflite-runtime): it runs on a Raspberry Pi.
"""

import argparse

import tfcompress as tfc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--out")
    options = parser.parse_args()

    report = tfc.benchmark(
        options.models,
        backend=["xnnpack", "reference"],
        threads=[int(count) for count in options.threads.split(",")],
        runs=options.runs,
    )
    print(report)
    fastest = min((row for row in report.rows if not row.error), key=lambda row: row.median_ms)
    print(
        f"\nfastest: {fastest.name} on {fastest.backend} with {fastest.threads} thread(s), "
        f"{fastest.median_ms:.3f} ms, x{fastest.ratio:.2f} of {report.rows[0].name}"
    )
    if options.out:
        report.save(options.out)


if __name__ == "__main__":
    main()
