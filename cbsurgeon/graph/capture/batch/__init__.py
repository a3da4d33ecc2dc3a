"""The batch of a captured program: the axis of each input that holds it, and models that turn its size into a number.

Belongs here: choosing the axes, and proving that a program is right for all batch sizes. Not here: the call of
torch.export (``graph.capture.whole``), the roles of the axes inside the graph (``graph.axes``).
"""
