"""What the runtime's int8 kernels compute, on integers kept in float32 tensors, bit for bit.

Each function takes and returns stored integers (-128 to 127) as float32 tensors and the grids that
they are on. Eager, in `tf.function` and with `jit_compile=True` the results are the same bits; they
are those of LiteRT 2.3 with XNNPACK on x86-64, and with `target="arm"`, where there is a choice, on
aarch64. No function has a useful gradient: training passes it straight through.
"""
