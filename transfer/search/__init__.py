"""Hyperparameter search with Optuna on the validation split: dropping rates, number of LANets, class balance."""
