"""Is a base sound on this machine with these settings? `hart-lite check-base MODEL` asks before anything is trained.

The base is loaded as training loads it and asked about pictures that are drawn here. `run` measures, `verdicts` judges
the figures by stated limits, `report` prints both.
"""
