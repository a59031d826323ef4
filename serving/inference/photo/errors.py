"""What can be wrong with a photo, each with words for its sender."""

from __future__ import annotations

from serving.inference.verdict.errors import UserError


class PhotoError(UserError):
    """A photo that cannot be used; the message says why in words for its sender."""


class NotAPhoto(PhotoError):
    """The bytes are no image at all."""


class UnsupportedPhoto(PhotoError):
    """An image, of a kind that is not read here."""


class PhotoTooLarge(PhotoError):
    """More pixels than allowed, as the file's header declares them."""


class PhotoTooCostly(PhotoError):
    """Few enough pixels, but a file that takes too much memory or time to decode."""


class BrokenPhoto(PhotoError):
    """An image of a supported type whose data is damaged or cut short."""


class DecodersBusy(PhotoError):
    """Nothing is wrong with the photo: there is no memory, or no time, to decode it now."""
