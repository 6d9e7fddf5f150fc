"""From pictures to aligned faces: detection (MTCNN), five-point alignment, quality report."""
