"""Advantages: what the loss multiplies. Rewards and Trust come in, Advantages go out.

All of it is float64 on the CPU and equal on every rank; only the map over positions, handed through, is
local.
"""
