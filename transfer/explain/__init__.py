"""What the network looks at: relevance on the ViT, the LANets' maps, and how diverse maps and heads are."""
