"""`tfc.fold_batchnorm`: BatchNormalization taken into the linear layers beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfcompress.report import CompressionReport

if TYPE_CHECKING:
    import keras


def fold_batchnorm(model: keras.Model) -> keras.Model:
    """A model without the BatchNormalization layers that a linear layer can take in.

    At inference BatchNormalization is `scale * x + shift` on one axis. The convolution (of one to
    three dimensions, transposed, depthwise, separable, grouped), Dense or EinsumDense layer before
    it takes that into its kernel and bias, if it has no activation and nothing else reads its
    output. Where there is none, the layer after it does, if that is exact: padding, whose zeros
    would have to be shifted too, rules it out. Between the two there may be what makes no
    difference, as Dropout, pooling (by maxima where no scale is negative), cropping, or Flatten
    before a Dense layer. Layers that are called several times are folded where all their calls
    stand beside each other in the same way; those in TimeDistributed as if they stood alone.

    The outputs are the same to float rounding. What is gone is training with batch statistics: fold
    when training is over. (`tfc.convert` folds by itself, and `tfc.quantize_aware` does in a way
    that trains on.)

    Args:
        model: a Functional or built Sequential model, nested ones included; it does not change.

    Returns:
        A new plain Keras model, not compiled. Its `compression_report` says which layer took in
        each BatchNormalization, and why others are left.

    Raises:
        ModelTypeError: no Keras 3 model, or neither Functional nor a built Sequential.

    Example:
        >>> folded = tfc.fold_batchnorm(model)
        >>> print(folded.compression_report)

    Source: Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference"
    (arXiv:1806.08342), section 3.2.2.
    """
    from tfcompress.surgery.neighbours import Folding
    from tfcompress.surgery.rewriting import check_graph, replaced

    check_graph(model)
    report = CompressionReport("fold_batchnorm")
    folding = Folding(model, report)
    return replaced(model, folding.replacements(), report)
