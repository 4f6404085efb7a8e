"""What a run is asked to do: TrainConfig, the flags made from it, and how a wrong value is put into words."""
