"""What a machine is: profiles and their coefficients.

How it cuts work is tiling, how long work takes is predict.
"""
