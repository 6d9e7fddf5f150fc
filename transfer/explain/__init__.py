"""Where the network looks: relevance in the ViT, the LANets' maps, and how diverse maps and heads are."""
