"""SeAda + EDN image colourisation in pure PyTorch. Importing it is quick: heavy libraries load at first use."""

from typing import TYPE_CHECKING

from .lazy import attach

if TYPE_CHECKING:
    from .files.hint_format import Hint, Stroke
    from .options import ColorizeOptions
    from .pipeline import Colorizer

__all__ = ["ColorizeOptions", "Colorizer", "Hint", "Stroke", "__version__"]
__version__ = "0.2.0"

__getattr__, __dir__ = attach(
    __name__,
    {
        "ColorizeOptions": ".options",
        "Colorizer": ".pipeline",
        "Hint": ".files.hint_format",
        "Stroke": ".files.hint_format",
    },
)
