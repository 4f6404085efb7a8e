"""The network (backbone and two heads), its objective and its pretrained weights."""
