"""Optuna searches over the rates, the number of LANets and the class balance, on the validation part alone."""
