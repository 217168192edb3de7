"""What is told of other libraries' errors."""

from tfcompress.errors import in_brief


def test_the_trace_and_colours_are_left_out():
    error = ValueError(
        "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
        '  File "x.py", line 3\n\nReceived a \x1b[1mlabel\x1b[0m value of 8\n outside [0, 4).'
    )
    assert in_brief(error) == "Received a label value of 8 outside [0, 4)."
    assert in_brief(ValueError("plain  words")) == "plain words"
    assert len(in_brief(ValueError("a" * 1000))) == 300
    assert in_brief(ValueError("Graph execution error: alone")) == "Graph execution error: alone"
