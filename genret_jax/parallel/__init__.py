"""Meshes of devices, and several processes that train one run."""
