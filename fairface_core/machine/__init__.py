"""What this machine is and can give: processors, memory, GPUs, device, provenance, signs of life."""
