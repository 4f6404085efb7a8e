"""Draws the built-in synthetic faces: `python -m fairface_core.demo --out DIR`."""
