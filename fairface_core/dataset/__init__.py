"""Label CSVs and image folders to checked splits of images with labels."""
