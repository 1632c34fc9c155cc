"""Images as they are shown: rows of a data set, and the weights of units as images.

An image is RGB or RGBA of uint8; on a page it is a PNG file in a data URI.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import imsave

# Negative, zero and positive. Zero is transparent, so that it has the color of any page.
SIGNED = LinearSegmentedColormap.from_list(
    "signed",
    [(0.0, (0.85, 0.33, 0.10, 1.0)), (0.5, (0.5, 0.5, 0.5, 0.0)), (1.0, (0.10, 0.47, 0.80, 1.0))],
    N=257,  # an odd number, so that there is one for 0
)


def as_rgb(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return images of any numbers as RGB, with one range of values for all of them.

    It is their own: bytes need not use all of theirs.

    Parameters
    ----------
    pictures : sequence of (height, width) or (height, width, channels) arrays
    """
    numbers = [picture.astype(np.float64) for picture in pictures]
    low, high = float(min(map(np.min, numbers))), float(max(map(np.max, numbers)))
    scale = 255.0 / ((high - low) or 1.0)
    return [_three_channels(((one - low) * scale).round().astype(np.uint8)) for one in numbers]


def _three_channels(picture: np.ndarray) -> np.ndarray:
    if picture.ndim == 2:
        return np.repeat(picture[:, :, np.newaxis], 3, axis=2)
    return picture[:, :, :3]


def weight_images(weights: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Return the weights (k, n_0) of units as RGBA images, each with a range of its own.

    Of inputs with channels, the mean over the channels is shown.
    """
    images = []
    for unit in weights:
        picture = unit.reshape(shape)
        if picture.ndim == 3:
            picture = picture.mean(axis=2)
        limit = float(np.abs(picture).max()) or 1.0
        images.append(SIGNED((picture / limit + 1) / 2, bytes=True))
    return images


def png_uri(picture: np.ndarray) -> str:
    """Return an image (height, width, 3 or 4) of uint8 as a data URI."""
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(picture), format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
