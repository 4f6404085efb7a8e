"""Drives many trials under Ray Tune: space -> plan -> trials -> statistics -> report.

Reading order: run -> space -> plan -> launch -> driving, and run_folder -> results -> page for what is left. It
knows the trainable through one seam, `fairface_core.fit`, and no hyperparameter by name but `seed` and the group key.
"""
