"""Findings as one HTML page with everything in it: styles, plots and a little script."""
