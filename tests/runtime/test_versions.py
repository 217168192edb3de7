"""The runtime versions against what the converter writes into its own files."""

from __future__ import annotations

import dataclasses

import pytest
from tflite_samples import CONVERTERS, samples

from tfcompress.errors import ConfigError
from tfcompress.runtime.schema import Model, parse
from tfcompress.runtime.schema_tables import OPERATOR_NAMES
from tfcompress.runtime.versions import MINIMUM_RUNTIMES, minimum_runtime, needing


def with_version(model: Model, version: int) -> Model:
    """The model with another version of its first operator."""
    graph = model.subgraphs[0]
    changed = dataclasses.replace(graph.operators[0], version=version)
    operators = (changed, *graph.operators[1:])
    return dataclasses.replace(
        model, subgraphs=(dataclasses.replace(graph, operators=operators), *model.subgraphs[1:])
    )


# The converter computes its entry before it raises the versions of the int16 operators; and it has
# none for a file of custom operators alone.
@pytest.mark.parametrize("name", sorted(set(CONVERTERS) - {"int16x8", "custom"}))
def test_the_minimum_is_the_one_that_the_converter_wrote(name):
    model = parse(CONVERTERS[name]())
    assert minimum_runtime(model) == model.metadata["min_runtime_version"].rstrip(b"\0").decode()


def test_custom_operators_do_not_count():
    assert minimum_runtime(parse(CONVERTERS["custom"]())) == "1.5.0"
    assert needing(parse(CONVERTERS["custom"]()), "1.5.0") == []


def test_int16_operators_count_by_their_final_version():
    assert minimum_runtime(parse(CONVERTERS["int16x8"]())) == "1.14.0"


def test_an_older_runtime_lacks_exactly_the_newer_operators():
    model = parse(CONVERTERS["dynamic_range"]())
    assert needing(model, "2.14.0") == ["FULLY_CONNECTED version 12 needs 2.17.0"]
    assert needing(model, "2.3") == [
        "CONV_2D version 5 needs 2.4.0",
        "FULLY_CONNECTED version 12 needs 2.17.0",
    ]
    assert needing(model, "2.17.0") == []
    assert needing(model, "2.17.0-rc1") == []
    assert needing(model, "10.0") == []


def test_every_sample_runs_on_its_minimum_and_on_nothing_older():
    for name, content in samples().items():
        model = parse(content)
        minimum = minimum_runtime(model)
        assert needing(model, minimum) == [], name
        if minimum != "1.5.0":
            assert any(line.endswith(f"needs {minimum}") for line in needing(model, "1.5.0")), name


def test_an_operator_newer_than_the_table_is_named():
    model = with_version(parse(CONVERTERS["floating"]()), 99)
    assert minimum_runtime(model) == "unknown (CONV_2D version 99)"
    assert needing(model, "99.0.0") == ["CONV_2D version 99 needs a runtime that is not known here"]


@pytest.mark.parametrize("version", ["", "2", "latest", "2.x", "v2.14"])
def test_what_is_no_version_is_refused(version):
    with pytest.raises(ConfigError, match=r"form of 2\.14\.0"):
        needing(parse(CONVERTERS["floating"]()), version)


def test_the_table_names_real_operators_and_sound_versions():
    assert len(MINIMUM_RUNTIMES) == 441  # rows of runtime_version.cc
    assert {name for name, _ in MINIMUM_RUNTIMES} <= set(OPERATOR_NAMES)
    assert ("BROADCAST_TO", 1) not in MINIMUM_RUNTIMES  # withdrawn
    for (name, version), runtime in MINIMUM_RUNTIMES.items():
        assert len(runtime.split(".")) == 3
        before = MINIMUM_RUNTIMES.get((name, version - 1))
        if before is not None:
            assert [int(n) for n in before.split(".")] <= [int(n) for n in runtime.split(".")]
