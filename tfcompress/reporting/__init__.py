"""One self-contained HTML page about any set of models: what was measured, layer by layer."""
