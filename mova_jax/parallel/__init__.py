"""Devices and processes: the mesh, shardings, collectives, multi-process helpers."""
