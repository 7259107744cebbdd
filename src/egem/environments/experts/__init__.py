"""Scripted solutions of tasks, closed loop on the simulator's state: demonstrations, and proof of what can be done."""
