"""Small networks for images, sound and text, built of stock Keras layers only.

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

from .bert import bert_encoder
from .ds_cnn import ds_cnn
from .encoder_decoder import encoder_decoder
from .gpt import gpt_decoder
from .keras_hub import from_keras_hub
from .lstm import lstm_language_model
from .mobilenet import mobilenet
from .mobilenet_small import mobilenet_small
from .mobilenet_v2 import mobilenet_v2
from .presets import PRESETS
from .resnet8 import resnet8
from .separable import separable_block
from .text_cnn import text_cnn

__all__ = [
    "PRESETS",
    "bert_encoder",
    "ds_cnn",
    "encoder_decoder",
    "from_keras_hub",
    "gpt_decoder",
    "lstm_language_model",
    "mobilenet",
    "mobilenet_small",
    "mobilenet_v2",
    "resnet8",
    "separable_block",
    "text_cnn",
]
