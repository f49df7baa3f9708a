"""EPICS servers for the column, the stage and the camera, over hardware drivers.

Channel Access carries settings, state and a small preview; frames go to disk.
"""
