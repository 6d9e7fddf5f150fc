"""The leak audit: copies of a picture within a split, across splits and across datasets."""
