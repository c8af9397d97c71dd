"""Update: Trajectories and Advantages come in, the policy's weights move, a PolicyUpdate of scalars goes out.

`loss` is the mathematics alone and `minibatch` the plan of who runs which row; neither touches a model or a
process group.
"""
