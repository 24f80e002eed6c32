"""What `python -m seada_core.evaluate` is made of: pictures in, one record a picture, a report out."""
