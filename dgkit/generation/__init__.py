"""From label maps to a folder of labelled street scenes: jobs, the run, the output folder and its checks."""
