"""Image files to decoded pixels: each image is decoded once a node, kept in a cache, and pruned."""
