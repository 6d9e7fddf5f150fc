"""A trained model on any photo, folder or video: what ``transfer.load()`` and ``transfer predict`` give."""
