"""What a finished run left: predictions, metrics, and the checks that its files belong together. Imports no torch."""
