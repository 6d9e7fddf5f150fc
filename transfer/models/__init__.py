"""The network: transfer.py reads like the paper's Figure 2 from top to bottom, the other files hold its parts."""
