"""Small networks for images and sound, built of stock Keras layers only.

    from tfcompress import models

    model = models.mobilenet((96, 96, 3), 10, alpha=0.25)

Every network is a plain `keras.Model` (Functional, channels_last, randomly initialised) that
saves, loads and clones with nothing but Keras.
"""

# The folder is named `models` in the repository and `tfcompress.models` once installed. Under both
# names at once, every class and function here would exist twice.
if __name__ != "tfcompress.models":
    raise ImportError(
        "The networks are imported as `tfcompress.models` (`from tfcompress import models`). "
        f"Received: the folder imported as {__name__!r}. "
        "Install the package (`pip install -e .` in the repository) and use that name."
    )

from .ds_cnn import ds_cnn
from .mobilenet import mobilenet
from .mobilenet_small import mobilenet_small
from .mobilenet_v2 import mobilenet_v2
from .presets import PRESETS
from .resnet8 import resnet8
from .separable import separable_block

__all__ = [
    "PRESETS",
    "ds_cnn",
    "mobilenet",
    "mobilenet_small",
    "mobilenet_v2",
    "resnet8",
    "separable_block",
]
