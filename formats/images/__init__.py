"""The one reader of images: any format in, one grey picture of uint8 or uint16 out, row 0 on top.

`open_image` looks at headers only; `Image.read` gives all of it, or a window.
"""

from formats.images.errors import ImageFormatError
from formats.images.image import Image, common_levels, open_image, open_images
from formats.images.levels import Levels

__all__ = ["Image", "ImageFormatError", "Levels", "common_levels", "open_image", "open_images"]
