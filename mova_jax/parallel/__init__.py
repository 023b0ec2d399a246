"""Devices and processes: the mesh, what is sharded how, collectives."""
