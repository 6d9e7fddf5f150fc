"""Drawing a face: its actions, its anatomy, its painting and the picture taken of it."""
