"""Benchmarks on an Android device: the runtime's own benchmark program, driven through adb."""
