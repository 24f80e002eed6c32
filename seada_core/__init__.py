"""SeAda + EDN image colourisation in pure PyTorch. Importing it is quick: heavy libraries load at first use."""

__version__ = "0.1.0"
