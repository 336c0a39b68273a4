"""What `otr compare` reads from the output folders of runs, computes and draws; every step is a module."""
